"""What a sweep's folder holds, read into records; of a sweep that is planned, runs, was interrupted or has ended.

`<sweep>/sweep.json` names the jobs, `<sweep>/<hash>/` is the folder of one. A job's state is what is found there:

| state | how it is known |
|---|---|
| running | its lease is alive |
| finished, failed, diverged, preempted | its `summary.json` says so |
| interrupted | it was taken, and neither is there: a process was killed; a truncated `summary.json` counts as none |
| waiting | nobody ever took it |
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.lease import holder
from ..runs.summary import read_summary

State = Literal["waiting", "running", "interrupted", "finished", "failed", "diverged", "preempted"]


STOPPED: dict[State, str] = {
    "interrupted": "its process was killed; run the command again to go on",
    "preempted": "asked to stop; run the command again to go on",
}
"""Why a job did not finish that nothing is wrong with."""


class NoSweepError(ValueError):
    """A folder that no sweep left."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        hash: of what can change its result; the name of its folder.
        folder: where it is, or will be.
        overrides: of the swept keys, as the command line gives them: `{"schedule": "karras", "seed": "0"}`.
        fixed: overrides that all jobs have in common, `["trainer.max_steps=2000"]`.
        state: see above.
        summary: its `summary.json`, empty where there is none.
    """

    hash: str
    folder: Path
    overrides: dict[str, str]
    fixed: list[str]
    state: State
    summary: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        """The last numbers; empty unless the job ended."""
        metrics: dict[str, Any] = self.summary.get("metrics") or {}
        return metrics

    @property
    def reason(self) -> str:
        """One line on why the job did not finish; empty where it did, runs or waits."""
        if self.state in STOPPED:
            return STOPPED[self.state]
        lines = (self.summary.get("error") or "").strip().splitlines()
        return re.sub(r"^([a-z_]\w*\.)+", "", lines[-1]) if lines and self.state != "running" else ""

    def arguments(self) -> list[str]:
        """The overrides that repeat this job alone."""
        return [*self.fixed, *(f"{key}={value}" for key, value in self.overrides.items())]


@dataclass(frozen=True)
class Sweep:
    """All jobs of a sweep, in the order in which the command line spans them.

    Attributes:
        folder: of the sweep.
        name: of the sweep: its folder's, or its swept keys where that is a hash.
        question: what it asks, the first comment of its file; None for a sweep without a file.
        command: of a shell, that runs or resumes it.
        factors: swept keys and all their values as the command line gives them, in its order.
        jobs: one record a job.
        revision: of the code that planned it last; None for an installed copy.
        versions: likewise, of what the numbers depend on.
    """

    folder: Path
    name: str
    question: str | None
    command: str
    factors: dict[str, list[str]]
    jobs: list[Job]
    revision: str | None
    versions: dict[str, str]

    def count(self) -> Counter[State]:
        """How many jobs are in each state."""
        return Counter(job.state for job in self.jobs)


def read_sweep(folder: Path | str) -> Sweep:
    """Read a sweep's folder as it is at this moment.

    Raises:
        NoSweepError: there is no sweep, naming what is missing.
    """
    folder = Path(folder).expanduser()
    plan = read_plan(folder)
    jobs = [read_job(folder, name, **job) for name, job in plan.pop("jobs").items()]
    return Sweep(folder=folder, jobs=jobs, **plan)


def find_sweep(name: str, root: Path) -> Path:
    """The folder of a sweep: a path, or else the name of a folder or of a sweep among those of `root`.

    Raises:
        NoSweepError: several sweeps have this name.
    """
    if Path(name).exists():
        return Path(name)
    if (root / name).is_dir():
        return root / name
    found = [path.parent for path in sorted(root.glob("*/sweep.json")) if _name(path) == name]
    if len(found) > 1:
        raise NoSweepError(f"{name}: the name of {len(found)} sweeps; give the folder, {', '.join(map(str, found))}")
    return found[0] if found else Path(name)


def _name(path: Path) -> str | None:
    """The name that a `sweep.json` gives its sweep."""
    try:
        return str(read_plan(path.parent)["name"])
    except NoSweepError:
        return None


def read_plan(folder: Path) -> dict[str, Any]:
    """What `sweep.json` says: the fields of a `Sweep`, jobs as plain data by their hash.

    Raises:
        NoSweepError: there is none, or it is not one.
    """
    path = folder / "sweep.json"
    if not folder.is_dir():
        raise NoSweepError(f"{folder}: no such folder; give one of outputs/sweeps")
    if not path.is_file():
        raise NoSweepError(f"{folder}: no sweep's folder, for it has no sweep.json; give one of outputs/sweeps")
    keys = ("name", "question", "command", "factors", "jobs", "revision", "versions")
    try:
        plan = json.loads(path.read_text())
        jobs = {name: {key: job[key] for key in ("overrides", "fixed")} for name, job in plan["jobs"].items()}
        return {key: plan[key] for key in keys} | {"jobs": jobs}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise NoSweepError(f"{path}: not written by this program or damaged; run the sweep's command again") from error


def read_job(sweep: Path, name: str, *, overrides: dict[str, str], fixed: list[str]) -> Job:
    """The record of the job `name` as it is at this moment."""
    folder = sweep / name
    held, summary = holder(folder), read_summary(folder)
    state: State
    if held and held.lives(folder / "lease"):
        state = "running"
    elif summary:
        state = summary["status"]
    elif held:
        state = "interrupted"
    else:
        state = "waiting"
    return Job(hash=name, folder=folder, overrides=overrides, fixed=fixed, state=state, summary=summary)
