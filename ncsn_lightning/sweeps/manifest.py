"""Writing `sweep.json`: the jobs of a command are joined to those of earlier commands in the same folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config.plain import can_change_result
from ..core.atomic_files import replacing
from ..core.lease import take
from ..runs.summary import revision, versions
from .folder import read_plan
from .planning import OF_THE_SWEEP, Planned, Planner

log = logging.getLogger(__name__)

Line = dict[str, str]
"""Overrides by their keys."""


def title(swept: list[str]) -> str:
    """The name of a sweep that was given none: its swept keys, `schedule × weighting × seed`."""
    return " × ".join(swept)


def write_plan(
    folder: Path, jobs: list[Planned], planner: Planner, *, named: bool, question: str | None, command: str
) -> None:
    """Add the jobs of a command to `sweep.json` in the sweep's folder; the file is replaced whole.

    Args:
        folder: of the sweep.
        jobs: of the command.
        planner: of the command.
        named: whether a user or a file named the folder; else its name is a hash, and the swept keys are the title.
        question: what the sweep asks.
        command: a shell's command that runs these jobs.

    Raises:
        NoSweepError: there is a damaged `sweep.json`.
    """
    with _alone(folder):
        path = folder / "sweep.json"
        old: dict[str, Any] = read_plan(folder) if path.exists() else {}
        plan = _joined(old, jobs, planner, command)
        name = folder.name if named else title([*plan["factors"]]) or folder.name
        plan = {"name": name, "question": question or old.get("question"), **plan}
        if plan != old:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(plan, indent=2, ensure_ascii=False) + "\n")
    _warn_of_a_mixture(folder, old, plan)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other command writes `sweep.json`, for of two at the same moment one would lose its jobs."""
    while not (lease := take(folder / ".plan")):
        time.sleep(0.05)
    with lease:
        yield


def _joined(old: dict[str, Any], jobs: list[Planned], planner: Planner, command: str) -> dict[str, Any]:
    """The old plan, which may be empty, joined with the jobs of a command."""
    lines = {name: _by_key([*job["fixed"], *_texts(job["overrides"])]) for name, job in old.get("jobs", {}).items()}
    lines |= {job.hash: _by_key(job.line) for job in jobs}
    factors = _factors(lines, [*old.get("factors", {}), *(key for job in jobs for key in job.swept)])
    for line in lines.values():
        for key in factors:
            if key not in line and key[0] not in "+~":
                line[key] = f"{key}={planner.value(list(line.values()), key)}"
    every = {name: _parted(line, factors) for name, line in lines.items()}
    parted = _without_namesakes(every, {job.hash for job in jobs})
    commands = [] if len(parted) == len(jobs) else [text for text in old["command"].split("; ") if text != command]
    values = {key: dict.fromkeys(job["overrides"].get(key) for job in parted.values()) for key in factors}
    return {
        "command": "; ".join([*commands, command]),
        "factors": {key: [value for value in found if value is not None] for key, found in values.items()},
        "jobs": parted,
        "revision": revision(),
        "versions": versions(),
    }


def _without_namesakes(jobs: dict[str, Any], ours: set[str]) -> dict[str, Any]:
    """Leave out old jobs whose overrides are those of one of ours but whose hashes differ, since defaults have changed.

    Args:
        jobs: old and ours, by their hashes.
        ours: the hashes of the jobs of this command.
    """

    def said(name: str) -> str:
        return json.dumps([jobs[name]["overrides"], sorted(jobs[name]["fixed"])], sort_keys=True)

    by_us = set(map(said, ours))
    return {name: job for name, job in jobs.items() if name in ours or said(name) not in by_us}


def _warn_of_a_mixture(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Log what an old plan and the new one do not have in common: defaults, the revision, versions of packages."""
    if gone := old.get("jobs", {}).keys() - new["jobs"].keys():
        text = "%s: %d jobs of the same words had other defaults; they are left out, and their folders stay"
        log.warning(text, folder, len(gone))
    for what in ("revision", "versions"):
        if old and old[what] != new[what]:
            log.warning("%s: begun with another %s; what is finished stays, and the report names both", folder, what)


def _by_key(line: list[str]) -> Line:
    texts = {text.partition("=")[0]: text for text in line}
    return {key: text for key, text in texts.items() if key not in OF_THE_SWEEP}


def _texts(overrides: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in overrides.items()]


def _factors(lines: dict[str, Line], swept: list[str]) -> list[str]:
    """The swept keys, and the keys in which the commands of one folder differ."""
    every = dict.fromkeys(key for line in lines.values() for key in line)
    differing = [key for key in every if len({line.get(key) for line in lines.values()}) > 1]
    return list(dict.fromkeys([*swept, *(key for key in differing if can_change_result(key.lstrip("+~")))]))


def _parted(line: Line, factors: list[str]) -> dict[str, Any]:
    return {
        "overrides": {key: line[key].partition("=")[2] for key in factors if key in line},
        "fixed": [text for key, text in line.items() if key not in factors],
    }
