"""Whether the jobs of a sweep are a grid, and what matters on it, or off it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..sweeps.folder import Job, Sweep
from .importance import LEAST_POINTS, importances, installed
from .metrics import SEED, measured
from .variance import Array, analysis_of_variance, complete_part

SCALES = ("linear", "log")

FILLED = 0.5
"""Of the product of all swept values, the least share that the planned jobs of a grid fill."""


def is_grid(sweep: Sweep) -> bool:
    """Whether the planned jobs fill the product of their values, or most of it; points of a search do not."""
    levels = _levels(sweep.jobs, list(sweep.factors))
    return bool(levels) and len(sweep.jobs) >= FILLED * math.prod(len(values) for values in levels.values())


def variance_shares(sweep: Sweep, metric: str) -> dict[str, Any] | None:
    """The exact analysis of variance of a metric and of its logarithm, on the grid or on the part of it that is whole.

    Returns:
        None where there is no grid or no part of it that is whole; else `jobs`, how many it uses, `left_out`, the
        values that it had to leave out by their keys, `seeds`, how many there are in a cell, and the effects as
        `linear` and, where all values are positive, `log`.
    """
    if not is_grid(sweep):
        return None
    factors = [key for key in sweep.factors if key != SEED]
    levels = _levels(sweep.jobs, [*factors, SEED])
    values = _array(sweep.jobs, levels, metric)
    kept = complete_part(~np.isnan(values))
    part = values[np.ix_(*kept)]
    if part.size < 2:
        return None
    # An axis of one level is no factor; the seeds' axis stays, to be the last one.
    varied = [axis for axis, key in enumerate(factors) if part.shape[axis] > 1]
    cells = part.reshape([part.shape[axis] for axis in varied] + [part.shape[-1]])
    names = [factors[axis] for axis in varied]
    gone = [[value for place, value in enumerate(v) if place not in k] for v, k in zip(levels.values(), kept, strict=True)]
    return {
        "jobs": part.size,
        "seeds": part.shape[-1],
        "left_out": {key: values for key, values in zip(levels, gone, strict=True) if values},
        "linear": analysis_of_variance(cells, names),
        "log": analysis_of_variance(np.log(cells), names) if (cells > 0).all() else None,
    }


def importance_shares(sweep: Sweep, metric: str) -> dict[str, Any] | None:
    """The random forest's word on points that are no grid; None for a grid, or where none would be needed."""
    if is_grid(sweep):
        return None
    found = [(job, value) for job in sweep.jobs if not math.isnan(value := measured(job, metric))]
    missing = "" if installed() else "install ncsn-lightning[search] to see what matters on points that are no grid"
    few = f"too few points for a forest: {len(found)} of at least {LEAST_POINTS}" if len(found) < LEAST_POINTS else ""
    if missing or few:
        return {"metric": metric, "shares": [], "note": missing or few}
    shares = importances([job.overrides for job, _ in found], [value for _, value in found])
    return {"metric": metric, "shares": shares, "note": ""}


def _levels(jobs: Sequence[Job], keys: Sequence[str]) -> dict[str, list[str]]:
    """Each key's different values, "" where a job does not name it."""
    return {key: list(dict.fromkeys(job.overrides.get(key, "") for job in jobs)) for key in keys}


def _array(jobs: Sequence[Job], levels: dict[str, list[str]], metric: str) -> Array:
    """The metric on the grid, `[*levels]`, NaN in its holes."""
    values = np.full([len(options) for options in levels.values()], np.nan)
    for job in jobs:
        place = tuple(options.index(job.overrides.get(key, "")) for key, options in levels.items())
        values[place] = measured(job, metric)
    return values
