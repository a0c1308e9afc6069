"""Writing `sweep.json`: the jobs of a command joined to those that earlier ones left in the same folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ..configuration import can_change_result
from ..files import replacing
from ..results import revision, versions
from .folder import read_plan
from .planning import OF_THE_SWEEP, Planned, Planner

log = logging.getLogger(__name__)

Pairs = dict[str, str]


def write_plan(folder: Path, jobs: list[Planned], planner: Planner, *, question: str | None, command: str) -> None:
    """Note the jobs of a command in the sweep's folder, whole or not at all, beside those that are there.

    Args:
        folder: of the sweep.
        jobs: of the command.
        planner: of the command.
        question: what the sweep asks.
        command: of a shell, that runs these jobs.

    Raises:
        NoSweepError: there is a damaged `sweep.json`.
    """
    old: dict[str, Any] = read_plan(folder) if (folder / "sweep.json").exists() else {}
    origin = {"revision": revision(), "versions": versions()}
    _warn_of_a_mixture(folder, old, origin)
    lines = {name: dict(_pairs([*job["fixed"]])) | job["overrides"] for name, job in old.get("jobs", {}).items()}
    lines |= {job.hash: {k: v for k, v in _pairs(job.line).items() if k not in OF_THE_SWEEP} for job in jobs}
    factors = _factors(lines, [*old.get("factors", {}), *(key for job in jobs for key in job.swept)])
    for pairs in lines.values():
        pairs |= {key: planner.value(_line(pairs), key) for key in factors if key not in pairs and key[0] not in "+~"}
    commands = [] if len(lines) == len(jobs) else [line for line in old["command"].split("; ") if line != command]
    plan = {
        "name": folder.name,
        "question": question or old.get("question"),
        "command": "; ".join([*commands, command]),
        "factors": {key: list(dict.fromkeys(p[key] for p in lines.values() if key in p)) for key in factors},
        "jobs": {name: _divided(pairs, factors) for name, pairs in lines.items()},
        **origin,
    }
    with replacing(folder / "sweep.json") as path:
        path.write_text(json.dumps(plan, indent=2, ensure_ascii=False) + "\n")


def _warn_of_a_mixture(folder: Path, old: dict[str, Any], origin: dict[str, Any]) -> None:
    for what, now in origin.items():
        if old and old[what] != now:
            log.warning("%s: begun with another %s; what is finished stays, and the report names both", folder, what)


def _pairs(line: list[str]) -> Pairs:
    return dict(override.partition("=")[::2] for override in line)


def _line(pairs: Pairs) -> list[str]:
    return [f"{key}={value}" for key, value in pairs.items()]


def _factors(lines: dict[str, Pairs], swept: list[str]) -> list[str]:
    """The swept keys, and those in which the commands of one folder differ."""
    every = [key for pairs in lines.values() for key in pairs]
    differing = [
        k for k in every if can_change_result(k.lstrip("+~")) and len({pairs.get(k) for pairs in lines.values()}) > 1
    ]
    return list(dict.fromkeys([*swept, *differing]))


def _divided(pairs: Pairs, factors: list[str]) -> dict[str, Any]:
    overrides = {key: pairs[key] for key in factors if key in pairs}
    return {"overrides": overrides, "fixed": _line({k: v for k, v in pairs.items() if k not in factors})}
