"""What a job measured, as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeGuard

from ..sweeps.folder import Job

SEED = "seed"
"""The key that is no factor, but repeats one and the same configuration."""

METRIC = "score_error"
"""What a sweep is judged by unless told otherwise. Of every metric less is better."""


def scalars(job: Job) -> dict[str, float]:
    """All single numbers among a job's metrics, finite or not."""
    return {name: float(value) for name, value in job.metrics.items() if _is_number(value)}


def measured(job: Job, metric: str) -> float:
    """A finished job's metric; NaN where it did not finish, did not measure it, or found no finite value."""
    value = job.metrics.get(metric) if job.state == "finished" else None
    return float(value) if _is_number(value) and math.isfinite(value) else math.nan


def plus_minus(mean: float, error: float) -> str:
    """`0.01234 ± 0.00042`, both to the second digit of the error; three digits of the mean where there is no error."""
    if not error > 0:
        return f"{mean:.3g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def names(jobs: Iterable[Job]) -> list[str]:
    """The metrics of which any job has a number, the one that judges first."""
    found = dict.fromkeys(name for job in jobs for name in scalars(job))
    return sorted(found, key=lambda name: (name != METRIC, "error" not in name, name))


def by_level(job: Job, name: str) -> dict[float, float]:
    """A metric that a finished job measured at every noise level: σ to value; empty where it did not."""
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
