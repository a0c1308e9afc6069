"""The answer of a sweep: its best configuration, and those that cannot be told from it.

Jobs that differ in their seed alone have one configuration. The best configuration has the lowest mean over the seeds
that have finished. It is provisional until all of its seeds have finished; until then the best of the complete
configurations is named beside it. Configurations of which a seed diverged come after all others. A configuration
differs from the best if the confidence interval of its effect, paired over the seeds that both have, does not contain
"no effect". The effect is a ratio if all values of the metric are positive, because such errors spread by factors, and
else a difference.
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
        overrides: of the swept keys but the seed.
        jobs: all of them, finished or not.
        values: the metric of the jobs that finished, by their seeds.
    """

    overrides: dict[str, str]
    jobs: list[Job]
    values: dict[str, float]

    @property
    def mean(self) -> float:
        """The mean over seeds; NaN if none has finished."""
        return sum(self.values.values()) / len(self.values) if self.values else math.nan

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; NaN if fewer than two seeds have finished."""
        n = len(self.values)
        return float(np.std(list(self.values.values()), ddof=1)) / math.sqrt(n) if n > 1 else math.nan

    @property
    def is_complete(self) -> bool:
        """Whether all of its seeds have finished."""
        return len(self.values) == len(self.jobs)

    @property
    def rank(self) -> tuple[bool, float]:
        """The key that sorts configurations, the best first: whether a seed diverged, then the mean."""
        return any(job.state == "diverged" for job in self.jobs), self.mean

    @property
    def label(self) -> str:
        """The overrides as text, `schedule=karras weighting=learned`."""
        return " ".join(f"{key}={value}" for key, value in self.overrides.items()) or "the only configuration"


@dataclass(frozen=True)
class Comparison:
    """A configuration beside the best one.

    Attributes:
        configuration: the one that is compared.
        seeds: the number of seeds that both have.
        effect: the geometric mean of its ratios to the best one over these seeds, more than 1 if it is worse; or the
            mean of its differences from the best one, more than 0 if it is worse.
        low, high: the ends of the confidence interval of the effect.
        differs: whether the interval does not contain "no effect", so that this one is told from the best.
    """

    configuration: Configuration
    seeds: int
    effect: float
    low: float
    high: float
    differs: bool


@dataclass(frozen=True)
class Answer:
    """The answer of a sweep for one metric.

    Attributes:
        metric: its name; less is better.
        ratios: whether the effects are ratios.
        best: the best configuration, provisional until it is complete.
        complete: configurations whose seeds have all finished, best first.
        comparisons: every configuration of which any seed has finished, the best one included, best first.
        unmeasured: configurations of which no seed has finished.
        idle: swept keys that have no effect on the metric.
        command: trains the best configuration again, with all its seeds.
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
        return [c.configuration for c in self.comparisons if not c.differs and c.configuration is not self.best]

    @property
    def twins(self) -> list[Configuration]:
        """Those ties whose values equal the best one's exactly: the keys in which they differ have no effect."""
        return [tie for tie in self.ties if tie.values == self.best.values]

    def __str__(self) -> str:
        """The answer in a few lines of text."""
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
        """The value of the best configuration, and how many others cannot be told from it."""
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
    """The answer of the finished jobs of a sweep for a metric; None if no finished job has measured it."""
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
    """Compare every configuration with the best; those with the same common seeds share one bootstrap."""
    groups: dict[tuple[str, ...], list[Configuration]] = {}
    for other in others:
        common = tuple(seed for seed in best.values if seed in other.values)
        groups.setdefault(common, []).append(other)
    for seeds, members in groups.items():
        if not seeds:
            least = 0.0 if ratios else -math.inf
            yield from (Comparison(member, 0, math.nan, least, math.inf, differs=False) for member in members)
            continue
        values = np.array([[one.values[seed] for one in (best, *members)] for seed in seeds])
        values = np.log(values) if ratios else values
        differences = values[:, 1:] - values[:, :1]
        for member, *found in zip(members, differences.mean(0), *paired_interval(differences), strict=True):
            differs = member is not best and not found[1] <= 0 <= found[2]
            effect, low, high = map(float, np.exp(found) if ratios else found)
            yield Comparison(member, len(seeds), effect, low, high, differs)


def program(sweep: Sweep) -> str:
    """The beginning of the sweep's command, without arguments: `python scripts/train.py`."""
    words = shlex.split(sweep.command)
    options = (index for index, word in enumerate(words) if word.startswith("-") or "=" in word)
    return shlex.join(words[: next(options, len(words))])


def _command(sweep: Sweep, configuration: Configuration) -> str:
    """A shell's command that trains a configuration again, with all its seeds."""
    seeds = [job.overrides[SEED] for job in configuration.jobs if SEED in job.overrides]
    swept = [f"{key}={value}" for key, value in configuration.overrides.items()]
    arguments = [*configuration.jobs[0].fixed, *swept, *([f"{SEED}={','.join(seeds)}"] if seeds else [])]
    return f"{program(sweep)} {'-m ' if len(seeds) > 1 else ''}{shlex.join(arguments)}"
