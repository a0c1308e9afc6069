"""The metrics of a job as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeGuard

from ..sweeps.folder import Job

SEED = "seed"
"""The key whose values repeat a configuration, and are no factor of their own."""

METRIC = "score_error"
"""The metric by which configurations are compared by default. Of every metric less is better."""


def scalars(job: Job) -> dict[str, float]:
    """The metrics of a job that are single numbers, finite or not."""
    return {name: float(value) for name, value in job.metrics.items() if _is_number(value)}


def measured(job: Job, metric: str) -> float:
    """A metric of a finished job; NaN if the job did not finish, or the metric is missing or not finite."""
    value = job.metrics.get(metric) if job.state == "finished" else None
    return float(value) if _is_number(value) and math.isfinite(value) else math.nan


def plus_minus(mean: float, error: float) -> str:
    """`0.01234 ± 0.00042`, both to the second digit of the error; without an error the mean has three digits."""
    if not error > 0:
        return f"{mean:.3g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def names(jobs: Iterable[Job]) -> list[str]:
    """The metrics of which any job has a number: `METRIC` first, then errors, then the others."""
    found = dict.fromkeys(name for job in jobs for name in scalars(job))
    return sorted(found, key=lambda name: (name != METRIC, "error" not in name, name))


def by_level(job: Job, name: str) -> dict[float, float]:
    """The values of a metric of a finished job by noise level σ; empty if the job did not measure it at levels."""
    values = job.metrics.get(f"{name}_per_level") if job.state == "finished" else None
    pairs = values.items() if isinstance(values, dict) else ()
    return {float(sigma): float(value) for sigma, value in pairs if _is_level(sigma) and _is_number(value)}


def _is_level(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
