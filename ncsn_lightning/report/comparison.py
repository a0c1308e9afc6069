"""The answer of a sweep: its best configuration, and those that cannot be told from it.

A configuration is what jobs have in common that differ in their seed alone. The best has the lowest mean over the seeds
that have finished; it is provisional until all of them have, and then the best of the complete ones is said beside it.
A configuration of which a seed diverged comes after all those of which none did. Another can be told from the best
where the interval of the paired effects, over the seeds that both have, leaves out that there is none. The effect is a
ratio where the metric is positive throughout, for such errors spread by factors, and else a difference.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..sweeps.folder import Job, Sweep
from .bootstrap import paired_interval
from .idle import Idle, idle_factors
from .metrics import METRIC, SEED, measured


@dataclass(frozen=True)
class Configuration:
    """Jobs that differ in their seed alone.

    Attributes:
        overrides: what they have in common, of the swept keys.
        jobs: all of them, finished or not.
        values: the metric of those that finished, by their seed.
    """

    overrides: dict[str, str]
    jobs: list[Job]
    values: dict[str, float]

    @property
    def mean(self) -> float:
        """Over seeds; NaN where none finished."""
        return sum(self.values.values()) / len(self.values) if self.values else math.nan

    @property
    def standard_error(self) -> float:
        """Of the mean; NaN where fewer than two seeds finished."""
        n = len(self.values)
        return float(np.std(list(self.values.values()), ddof=1)) / math.sqrt(n) if n > 1 else math.nan

    @property
    def is_complete(self) -> bool:
        """Whether all of its seeds have finished."""
        return len(self.values) == len(self.jobs)

    @property
    def rank(self) -> tuple[bool, float]:
        """By which configurations are put in order, the best first: whether a seed of it diverged, then its mean."""
        return any(job.state == "diverged" for job in self.jobs), self.mean

    @property
    def label(self) -> str:
        """`schedule=karras weighting=learned`."""
        return " ".join(f"{key}={value}" for key, value in self.overrides.items()) or "the only configuration"


@dataclass(frozen=True)
class Comparison:
    """A configuration beside the best one.

    Attributes:
        configuration: which.
        seeds: those that both have.
        effect: the geometric mean of its ratios to the best one, over these seeds, more than 1 where it is worse; or
            the mean of its differences from it, more than 0.
        low, high: the interval of the effect.
        told: whether it can be told from the best.
    """

    configuration: Configuration
    seeds: int
    effect: float
    low: float
    high: float
    told: bool


@dataclass(frozen=True)
class Answer:
    """What a sweep says about one metric.

    Attributes:
        metric: its name; less is better.
        ratios: whether the effects are ratios.
        best: the best configuration, provisional until it is complete.
        complete: those whose seeds have all finished, best first.
        comparisons: every configuration of which any seed finished, the best one too, best first.
        unmeasured: the others.
        idle: swept keys that make no difference to the metric.
        command: trains the best configuration again, all its seeds.
    """

    metric: str
    ratios: bool
    best: Configuration
    complete: list[Configuration]
    comparisons: list[Comparison]
    unmeasured: list[Configuration]
    idle: list[Idle]
    command: str

    @property
    def ties(self) -> list[Configuration]:
        """The configurations that cannot be told from the best, without it."""
        return [c.configuration for c in self.comparisons if not c.told and c.configuration is not self.best]

    @property
    def twins(self) -> list[Configuration]:
        """Those of them that have the best one's very numbers: what tells them from it changed nothing measured."""
        return [tie for tie in self.ties if tie.values == self.best.values]

    def __str__(self) -> str:
        best, total = self.best, len(self.comparisons) + len(self.unmeasured)
        if best.is_complete:
            lines = [f"best of {total}: {best.label}"]
        else:
            seeds = f"{len(best.values)} of its {len(best.jobs)} seeds"
            lines = [f"leads {total}, but provisionally, with {seeds} finished: {best.label}"]
        lines.append(f"{self.metric} {self._sureness()}")
        if not best.is_complete and self.complete:
            whose = f"best of the {len(self.complete)}" if len(self.complete) > 1 else "the only one"
            beside = f"{self.complete[0].label}; {self.metric} {_mean(self.complete[0])}"
            lines.append(f"{whose} whose seeds have all finished: {beside}")
        return "\n".join([*lines, *map(str, self.idle)])

    def _sureness(self) -> str:
        if len(self.best.values) < 2:
            return f"{_mean(self.best)}, which tells nothing apart"
        ties = f"{len(self.ties)} {'other' if len(self.ties) == 1 else 'others'} cannot be told from it"
        same = f", {len(self.twins)} with the very same numbers" if self.twins else ""
        return f"{_mean(self.best)}; {ties}{same}"


def _mean(configuration: Configuration) -> str:
    n = len(configuration.values)
    if n < 2:
        return f"{configuration.mean:.4g} (one seed)"
    return f"{configuration.mean:.4g} ± {configuration.standard_error:.2g} (standard error, {n} seeds)"


def answer(sweep: Sweep, metric: str = METRIC) -> Answer | None:
    """What the finished jobs of a sweep say about a metric; None where none has measured it."""
    every = configurations(sweep.jobs, metric)
    some = sorted((one for one in every if one.values), key=lambda configuration: configuration.rank)
    if not some:
        return None
    best = some[0]
    ratios = all(value > 0 for configuration in some for value in configuration.values.values())
    return Answer(
        metric=metric,
        ratios=ratios,
        best=best,
        complete=[configuration for configuration in some if configuration.is_complete],
        comparisons=sorted(_compare(best, some, ratios=ratios), key=lambda comparison: comparison.configuration.rank),
        unmeasured=[configuration for configuration in every if not configuration.values],
        idle=idle_factors(sweep, metric),
        command=_command(sweep, best),
    )


def configurations(jobs: Iterable[Job], metric: str) -> list[Configuration]:
    """The jobs grouped by all swept keys but the seed, in their order."""
    groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        key = tuple((key, value) for key, value in sorted(job.overrides.items()) if key != SEED)
        groups.setdefault(key, []).append(job)
    return [_configuration(group, metric) for group in groups.values()]


def _configuration(jobs: list[Job], metric: str) -> Configuration:
    overrides = {key: value for key, value in jobs[0].overrides.items() if key != SEED}
    values = {job.overrides.get(SEED, ""): measured(job, metric) for job in jobs}
    return Configuration(overrides, jobs, {seed: value for seed, value in values.items() if not math.isnan(value)})


def _compare(best: Configuration, others: list[Configuration], *, ratios: bool) -> Iterable[Comparison]:
    """Every configuration beside the best; those with the same seeds in one go."""
    groups: dict[tuple[str, ...], list[Configuration]] = {}
    for other in others:
        common = tuple(seed for seed in best.values if seed in other.values)
        groups.setdefault(common, []).append(other)
    for seeds, members in groups.items():
        if not seeds:
            least = 0.0 if ratios else -math.inf
            yield from (Comparison(member, 0, math.nan, least, math.inf, told=False) for member in members)
            continue
        values = np.array([[one.values[seed] for one in (best, *members)] for seed in seeds])
        values = np.log(values) if ratios else values
        differences = values[:, 1:] - values[:, :1]
        for member, *found in zip(members, differences.mean(0), *paired_interval(differences), strict=True):
            told = member is not best and not found[1] <= 0 <= found[2]
            effect, low, high = map(float, np.exp(found) if ratios else found)
            yield Comparison(member, len(seeds), effect, low, high, told)


def program(sweep: Sweep) -> str:
    """How the sweep's command begins: `python scripts/train.py`."""
    words = shlex.split(sweep.command)
    options = (index for index, word in enumerate(words) if word.startswith("-") or "=" in word)
    return shlex.join(words[: next(options, len(words))])


def _command(sweep: Sweep, configuration: Configuration) -> str:
    seeds = [job.overrides[SEED] for job in configuration.jobs if SEED in job.overrides]
    swept = [f"{key}={value}" for key, value in configuration.overrides.items()]
    arguments = [*configuration.jobs[0].fixed, *swept, *([f"{SEED}={','.join(seeds)}"] if seeds else [])]
    return f"{program(sweep)} {'-m ' if len(seeds) > 1 else ''}{shlex.join(arguments)}"
