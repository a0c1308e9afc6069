"""The data of a page, ready for JSON: columns with an entry for each job, and the statistics computed from them."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..runs.summary import revision, versions
from ..sweeps.folder import Job, Sweep
from .comparison import Answer, answer, program
from .curves import level_curves, rounded, step_curves
from .grid import SCALES, importance_shares, variance_shares
from .metrics import METRIC, SEED, names, scalars
from .pictures import gallery


def payload(sweep: Sweep, metric: str = METRIC) -> dict[str, Any]:
    """The data that the page of a sweep shows.

    Args:
        sweep: as read a moment ago.
        metric: the one that the page shows when it opens.
    """
    metrics = names(sweep.jobs)
    values = [scalars(job) for job in sweep.jobs]
    return {
        "name": sweep.name,
        "metric": metric,
        "metrics": metrics,
        "program": program(sweep),
        "command": sweep.command,
        "factors": [_factor(key, sweep) for key in sweep.factors],
        "seed": SEED,
        "jobs": _columns(sweep),
        "values": {name: [rounded(row.get(name, math.nan)) for row in values] for name in metrics},
        "answers": {name: _answer(found, sweep) for name in metrics if (found := answer(sweep, name))},
        "shares": {name: _shares(variance_shares(sweep, name)) for name in metrics},
        "importance": importance_shares(sweep, metric),
        "levels": level_curves(sweep.jobs),
        "steps": step_curves(sweep.jobs),
        "gallery": gallery(sweep.jobs),
    }


def provenance(sweep: Sweep) -> dict[str, Any]:
    """The origin of the jobs: how many were made by each revision and version, totals, and the program writing this."""
    ended = [job.summary for job in sweep.jobs if job.summary]
    counts = Counter((str(s.get("revision")), str(s.get("versions", {}).get("ncsn-lightning"))) for s in ended)
    writer = (str(revision()), versions()["ncsn-lightning"])
    packages = dict.fromkeys(package for summary in ended for package in summary.get("versions", {}))
    used = {p: sorted({str(summary.get("versions", {}).get(p)) for summary in ended}) for p in packages}
    return {
        "origins": [{"revision": r, "version": v, "jobs": n} for (r, v), n in counts.items()],
        "versions": used or {package: [number] for package, number in sweep.versions.items()},
        "mixed": [package for package, numbers in used.items() if len(numbers) > 1],
        "dirty": sum(str(summary.get("revision")).endswith("-dirty") for summary in ended),
        "steps": sum(int(summary.get("steps", 0)) for summary in ended),
        "seconds": sum(float(summary.get("wall_time", 0)) for summary in ended),
        "writer": writer,
        "another": len(counts) == 1 and writer not in counts,
    }


def _factor(key: str, sweep: Sweep) -> dict[str, Any]:
    """A swept key: its values, numbers in order of size, and the override of each, quoted for a shell."""
    values = list(dict.fromkeys([*sweep.factors[key], *(j.overrides[key] for j in sweep.jobs if key in j.overrides)]))
    numbers = [_number(value) for value in values]
    numeric = not any(number is None for number in numbers)
    if numeric:
        values.sort(key=float)
    return {
        "key": key,
        "values": values,
        "numbers": [float(value) for value in values] if numeric else None,
        "written": [shlex.quote(f"{key}={value}") for value in values],
    }


def _number(text: str) -> float | None:
    """A finite number; None for any other text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _columns(sweep: Sweep) -> dict[str, list[Any]]:
    """The facts of all jobs, a list for each fact; `levels` has the index of each factor's value, -1 for none."""
    factors = [_factor(key, sweep) for key in sweep.factors]
    order = {factor["key"]: {v: i for i, v in enumerate(factor["values"])} for factor in factors}
    jobs = sweep.jobs
    return {
        "hash": [job.hash for job in jobs],
        "state": [job.state for job in jobs],
        "levels": [[places.get(job.overrides.get(key, ""), -1) for key, places in order.items()] for job in jobs],
        "fixed": [shlex.join(job.fixed) for job in jobs],
        "steps": [job.summary.get("steps") for job in jobs],
        "seconds": [_maybe(job.summary.get("wall_time")) for job in jobs],
        "reason": [job.reason for job in jobs],
        "revision": [job.summary.get("revision") for job in jobs],
    }


def _maybe(value: object) -> float | None:
    return rounded(float(value)) if isinstance(value, int | float) else None


def _answer(found: Answer, sweep: Sweep) -> dict[str, Any]:
    """An answer as plain data, in which each configuration is named by the index of its first job."""
    index = {job.hash: place for place, job in enumerate(sweep.jobs)}

    def first(jobs: Sequence[Job]) -> int:
        return index[jobs[0].hash]

    return {
        "best": first(found.best.jobs),
        "command": found.command,
        "ties": len(found.ties),
        "twins": len(found.twins),
        "complete": [first(configuration.jobs) for configuration in found.complete],
        "idle": list(map(str, found.idle)),
        "ratios": found.ratios,
        "comparisons": [
            [first(c.configuration.jobs), c.seeds, *map(rounded, (c.effect, c.low, c.high)), c.differs]
            for c in found.comparisons
        ],
    }


def _shares(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """The analysis of variance as plain data."""
    if found is None:
        return None
    effects = {scale: found[scale] and [[e.factors, *map(rounded, e[1:])] for e in found[scale]] for scale in SCALES}
    return {**found, **effects}
