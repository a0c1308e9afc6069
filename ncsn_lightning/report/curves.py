"""Curves that jobs left: against the noise level from their summaries, against the step from `metrics.csv`."""

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
"""Points of a curve against the step at most; finer ones are averaged, evenly on a logarithmic axis."""

Points = list[tuple[int, float]]


def level_curves(jobs: Sequence[Job]) -> dict[str, Any]:
    """By name: the different sets of levels σ (data units), and for each job which set, and its values there."""
    return {name: found for name in LEVEL_CURVES if (found := _level_curve(jobs, name))["sigmas"]}


def _level_curve(jobs: Sequence[Job], name: str) -> dict[str, Any]:
    sigmas: dict[tuple[float, ...], int] = {}
    rows: list[Any] = []
    for job in jobs:
        values = dict(sorted(by_level(job, name).items()))
        rows.append([sigmas.setdefault(tuple(values), len(sigmas)), *map(rounded, values.values())] if values else None)
    return {"sigmas": list(sigmas), "rows": rows}


def step_curves(jobs: Sequence[Job]) -> dict[str, Any]:
    """By name: the steps at which curves are drawn, and for each job its values there (None for no value)."""
    logs = [_log(job.folder / "metrics.csv") for job in jobs]
    return {name: found for name in STEP_CURVES if (found := _step_curve([log.get(name, []) for log in logs]))["steps"]}


def _step_curve(curves: Sequence[Points]) -> dict[str, Any]:
    """All curves on the same bins."""
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
    """The logged values by name; of a file that is being written, its whole lines."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    curves: dict[str, Points] = {}
    for row in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])):
        for name in STEP_CURVES:
            with suppress(KeyError, ValueError, TypeError, OverflowError):  # most rows have not all; a damaged one none
                curves.setdefault(name, []).append((int(float(row["step"])), float(row[name])))
    return curves


def rounded(value: float) -> float | None:
    """Four significant digits, which is what a page can show; None for what is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
