"""Swept keys that make no difference: jobs that differ in nothing else have the very same numbers.

A training is a function of its configuration and its seed, to the last bit. So where two jobs differ in one key and a
metric of theirs is equal to its last digit, the key took no part in it. A schedule, for instance, shapes the sampling
alone where training draws its levels from a continuous density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..sweeps.folder import Job, Sweep
from .metrics import SEED, measured, names

SPANS = 3
"""Metrics that are named, at most, of those to which a key makes a difference."""

TIMES = ("training_time", "sampling_time")
"""What no two jobs have in common."""


class Span(NamedTuple):
    """A metric to which a key does make a difference: its lowest and highest mean over a value of the key."""

    metric: str
    low: float
    high: float

    def __str__(self) -> str:
        digits = next((n for n in range(2, 9) if f"{self.low:.{n}g}" != f"{self.high:.{n}g}"), 9)
        return f"{self.metric} {self.low:.{digits}g} … {self.high:.{digits}g}"


@dataclass(frozen=True)
class Idle:
    """A key that makes no difference to a metric.

    It is printed as `schedule: no effect on score_error; density_tv 0.09 … 0.42`.

    Attributes:
        key: swept over.
        metric: to which it makes none.
        spans: the metrics to which it makes most.
    """

    key: str
    metric: str
    spans: list[Span]

    def __str__(self) -> str:
        spans = ", ".join(map(str, self.spans))
        return f"{self.key}: no effect on {self.metric}; {spans or 'none on anything else either'}"


def idle_factors(sweep: Sweep, metric: str) -> list[Idle]:
    """The swept keys, but for the seed, that make no difference to a metric wherever finished jobs can tell."""
    found = []
    for key in sweep.factors:
        groups = _alike_but_for(key, sweep.jobs, metric) if key != SEED else []
        if groups and not any(_differ(group, metric) for group in groups):
            found.append(Idle(key, metric, _spans(key, groups, metric)))
    return found


def _alike_but_for(key: str, jobs: Sequence[Job], metric: str) -> list[list[Job]]:
    """Jobs that measured a metric and differ in one key alone, two or more in a group."""
    groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        if not math.isnan(measured(job, metric)):
            rest = tuple(sorted((name, value) for name, value in job.overrides.items() if name != key))
            groups.setdefault(rest, []).append(job)
    return [group for group in groups.values() if len(group) > 1]


def _differ(group: Sequence[Job], metric: str) -> bool:
    return len({measured(job, metric) for job in group}) > 1


def _spans(key: str, groups: list[list[Job]], metric: str) -> list[Span]:
    """The metrics that differ most within the groups; their means over the jobs of each value of the key."""
    jobs = [job for group in groups for job in group]
    spans = []
    for name in names(jobs):
        if name == metric or name in TIMES or not any(_differ(group, name) for group in groups):
            continue
        values: dict[str, list[float]] = {}
        for job in jobs:
            if not math.isnan(value := measured(job, name)):
                values.setdefault(job.overrides.get(key, ""), []).append(value)
        means = [math.fsum(found) / len(found) for found in values.values()]
        spans.append(Span(name, min(means, default=math.nan), max(means, default=math.nan)))
    spans = [span for span in spans if span.high > span.low]
    return sorted(spans, key=lambda span: (span.high - span.low) / (abs(span.high) + abs(span.low)), reverse=True)[
        :SPANS
    ]
