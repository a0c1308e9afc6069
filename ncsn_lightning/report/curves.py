"""Curves of jobs: against the noise level, from their summaries, and against the step, from `metrics.csv`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..sweeps.folder import Job
from .metrics import METRIC, by_level

LEVEL_CURVES = (METRIC, "learned_weighting", "optimal_weighting")
STEP_CURVES = ("loss/train", "loss/validation", METRIC)
BINS = 40
"""The largest number of points of a curve against the step; more are averaged in bins even on a logarithmic axis."""

Points = list[tuple[int, float]]
"""Steps, and the values there."""


def level_curves(jobs: Sequence[Job]) -> dict[str, Any]:
    """By the names of metrics: the different sets of levels σ (data units), and for each job its set and its values.

    Returns:
        For each name `sigmas`, a list of sets, and `rows`, one for each job: the index of its set, then its values at
        the levels of that set; None for a job without values.
    """
    return {name: found for name in LEVEL_CURVES if (found := _level_curve(jobs, name))["sigmas"]}


def _level_curve(jobs: Sequence[Job], name: str) -> dict[str, Any]:
    sigmas: dict[tuple[float, ...], int] = {}
    rows: list[Any] = []
    for job in jobs:
        values = dict(sorted(by_level(job, name).items()))
        rows.append([sigmas.setdefault(tuple(values), len(sigmas)), *map(rounded, values.values())] if values else None)
    return {"sigmas": list(sigmas), "rows": rows}


def step_curves(jobs: Sequence[Job]) -> dict[str, Any]:
    """By the names of metrics: the steps at which curves are drawn, and for each job its values (None for no value)."""
    logs = [_log(job.folder / "metrics.csv") for job in jobs]
    return {name: found for name in STEP_CURVES if (found := _step_curve([log.get(name, []) for log in logs]))["steps"]}


def _step_curve(curves: Sequence[Points]) -> dict[str, Any]:
    """All curves, averaged in the same bins."""
    steps = np.unique([step for curve in curves for step, _ in curve if step > 0])
    if not steps.size:
        return {"steps": [], "rows": []}
    edges = np.unique(np.geomspace(steps[0], steps[-1] + 1, BINS + 1)) if steps.size > BINS else [*steps, steps[-1] + 1]
    bins = np.digitize(steps, edges)
    used = np.unique(bins)
    centres = [round(float(steps[bins == index].mean())) for index in used]
    return {"steps": centres, "rows": [_binned(curve, edges, used) for curve in curves]}


def _binned(curve: Points, edges: Any, used: Any) -> list[float | None] | None:
    if not curve:
        return None
    steps, values = np.array(curve, dtype=np.float64).T
    place = np.searchsorted(used, np.digitize(steps, edges))
    inside = steps > 0
    counts = np.bincount(place[inside], minlength=len(used))
    sums = np.bincount(place[inside], weights=values[inside], minlength=len(used))
    return [rounded(total / count) if count else None for total, count in zip(sums.tolist(), counts, strict=True)]


def _log(path: Path) -> dict[str, Points]:
    """The logged values by the names of metrics; the last line of a file that is being written is left out."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    curves: dict[str, Points] = {}
    for row in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])):
        for name in STEP_CURVES:
            with suppress(KeyError, ValueError, TypeError, OverflowError):  # most rows lack some, damaged ones all
                curves.setdefault(name, []).append((int(float(row["step"])), float(row[name])))
    return curves


def rounded(value: float) -> float | None:
    """A value with four significant digits, the most that the page shows; None if it is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
