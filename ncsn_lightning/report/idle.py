"""Swept keys without effect: jobs that differ in nothing but the key have exactly the same values of a metric.

A training is decided by its configuration and its seed, to the last bit. So if two jobs differ in one key and their
values of a metric are equal to the last digit, the key has no effect on it. For example, the schedule affects only the
sampling if the training draws its levels from a continuous density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..sweeps.folder import Job, Sweep
from .metrics import SEED, measured, names

SPANS = 3
"""The largest number of other metrics that are named, on which the key does have an effect."""

TIMES = ("training_time", "sampling_time")
"""Metrics that differ between any two jobs."""


class Span(NamedTuple):
    """A metric on which a key has an effect: the lowest and highest of its means over the jobs of each value."""

    metric: str
    low: float
    high: float

    def __str__(self) -> str:
        digits = next((n for n in range(2, 9) if f"{self.low:.{n}g}" != f"{self.high:.{n}g}"), 9)
        return f"{self.metric} {self.low:.{digits}g} … {self.high:.{digits}g}"


@dataclass(frozen=True)
class Idle:
    """A swept key that has no effect on a metric.

    It is printed as `schedule: no effect on score_error; density_tv 0.09 … 0.42`.

    Attributes:
        key: swept over.
        metric: on which the key has no effect.
        spans: the metrics on which the key has the largest effects.
    """

    key: str
    metric: str
    spans: list[Span]

    def __str__(self) -> str:
        """A line that names the key, the metric and the spans."""
        spans = ", ".join(map(str, self.spans))
        return f"{self.key}: no effect on {self.metric}; {spans or 'none on anything else either'}"


def idle_factors(sweep: Sweep, metric: str) -> list[Idle]:
    """The swept keys other than the seed that have no effect on a metric, as far as finished jobs show it."""
    found = []
    for key in sweep.factors:
        groups = _alike_but_for(key, sweep.jobs, metric) if key != SEED else []
        if groups and not any(_differ(group, metric) for group in groups):
            found.append(Idle(key, metric, _spans(key, groups, metric)))
    return found


def _alike_but_for(key: str, jobs: Sequence[Job], metric: str) -> list[list[Job]]:
    """Groups of two or more jobs that measured a metric and differ in one key alone."""
    groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        if not math.isnan(measured(job, metric)):
            rest = tuple(sorted((name, value) for name, value in job.overrides.items() if name != key))
            groups.setdefault(rest, []).append(job)
    return [group for group in groups.values() if len(group) > 1]


def _differ(group: Sequence[Job], metric: str) -> bool:
    return len({measured(job, metric) for job in group}) > 1


def _spans(key: str, groups: list[list[Job]], metric: str) -> list[Span]:
    """The metrics that differ most between the values of the key, with their lowest and highest means."""
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
