"""Whether the jobs of a sweep form a grid, and which swept keys matter: by analysis of variance, else by a forest."""

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
"""The planned jobs of a grid are more than this share of all combinations of swept values."""


def is_grid(sweep: Sweep) -> bool:
    """Whether the planned jobs are most of the combinations of their values; the points of a search are not."""
    levels = _levels(sweep.jobs, list(sweep.factors))
    return bool(levels) and len(sweep.jobs) > FILLED * math.prod(len(values) for values in levels.values())


def variance_shares(sweep: Sweep, metric: str) -> dict[str, Any] | None:
    """The exact analysis of variance of a metric and of its logarithm, on the grid or the largest part without holes.

    Returns:
        None if there is no grid, or no part of it is complete. Else a dictionary: `jobs`, the number of jobs used;
        `seeds`, the number of seeds in each cell; `left_out`, the values that are not used, by their keys; `linear`,
        the effects; and `log`, the effects on the logarithm, or None if a value is not positive.
    """
    factors = [key for key in sweep.factors if key != SEED]
    if not factors or not is_grid(sweep):
        return None
    levels = _levels(sweep.jobs, factors)
    cells = _cells(sweep.jobs, levels, metric)
    kept, seeds = _largest_part(cells)
    part = _first(cells[np.ix_(*kept)], seeds)
    if part.size < 2:
        return None
    # A factor with one level explains nothing.
    varied = [axis for axis in range(len(factors)) if part.shape[axis] > 1]
    values = part.reshape(*(part.shape[axis] for axis in varied), seeds)
    names = [factors[axis] for axis in varied]
    gone = {
        key: [value for place, value in enumerate(options) if place not in places]
        for (key, options), places in zip(levels.items(), kept, strict=True)
    }
    return {
        "jobs": part.size,
        "seeds": seeds,
        "left_out": {key: values for key, values in gone.items() if values},
        "linear": analysis_of_variance(values, names),
        "log": analysis_of_variance(np.log(values), names) if (values > 0).all() else None,
    }


def _largest_part(cells: Array) -> tuple[list[list[int]], int]:
    """The levels that are kept, and the number of seeds in every cell, so that as many values as possible are used."""
    found = (~np.isnan(cells)).sum(-1)
    parts = [(complete_part(found >= seeds), seeds) for seeds in range(1, cells.shape[-1] + 1)]
    return max(parts, key=lambda part: part[1] * math.prod(map(len, part[0])))


def _first(cells: Array, seeds: int) -> Array:
    """The first values in every cell, skipping those that are missing, `[*levels, seeds]`."""
    order = np.argsort(np.isnan(cells), axis=-1, kind="stable")
    return np.take_along_axis(cells, order, axis=-1)[..., :seeds]


def importance_shares(sweep: Sweep, metric: str) -> dict[str, Any] | None:
    """The shares that a random forest gives the swept keys of points that form no grid; None for a grid."""
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


def _cells(jobs: Sequence[Job], levels: dict[str, list[str]], metric: str) -> Array:
    """The metric on the grid, `[*levels, seeds]`, NaN in its holes."""
    seeds = list(dict.fromkeys(job.overrides.get(SEED, "") for job in jobs))
    values = np.full([*map(len, levels.values()), len(seeds)], np.nan)
    for job in jobs:
        place = [options.index(job.overrides.get(key, "")) for key, options in levels.items()]
        values[(*place, seeds.index(job.overrides.get(SEED, "")))] = measured(job, metric)
    return values
