"""A sweep's folder, read into records, whether the sweep is planned, runs, was interrupted or has ended.

`<sweep>/sweep.json` names the jobs, and `<sweep>/<hash>/` is the folder of a job. The state of a job follows from the
files in its folder:

| state | how it is known |
|---|---|
| running | its lease is alive |
| finished, failed, diverged, preempted | its `summary.json` says so |
| interrupted | it has a lease that is not alive and no whole `summary.json`, because its process was killed |
| waiting | it has neither a lease nor a summary |
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
"""Reasons for states in which a job did not finish although nothing is wrong with it."""


class NoSweepError(ValueError):
    """A folder is not the folder of a sweep."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        hash: of the configuration, as far as it can change the result; the name of the job's folder.
        folder: of the job, which may not exist yet.
        overrides: values of the swept keys, as the command line gives them: `{"schedule": "karras", "seed": "0"}`.
        fixed: overrides of all other keys, `["trainer.max_steps=2000"]`.
        state: see the table above.
        summary: the content of `summary.json`; empty if there is none.
    """

    hash: str
    folder: Path
    overrides: dict[str, str]
    fixed: list[str]
    state: State
    summary: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        """The job's last metrics; empty unless the job ended."""
        metrics: dict[str, Any] = self.summary.get("metrics") or {}
        return metrics

    @property
    def reason(self) -> str:
        """One line on why the job did not finish; empty for a job that finished, runs or waits."""
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
        name: the folder's name, or the swept keys if the folder's name is a hash.
        question: what the sweep asks, the first comment of its file; None for a sweep without a file.
        command: a shell's command that runs or resumes the sweep.
        factors: swept keys with all their values, as the command line gives them and in its order.
        jobs: one record for each job.
        revision: of the code that planned the sweep last; None for an installed copy.
        versions: of the packages on which the numbers depend, when the sweep was planned last.
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
        NoSweepError: there is no sweep; the message names what is missing.
    """
    folder = Path(folder).expanduser()
    plan = read_plan(folder)
    jobs = [read_job(folder, name, **job) for name, job in plan.pop("jobs").items()]
    return Sweep(folder=folder, jobs=jobs, **plan)


def find_sweep(name: str, root: Path) -> Path:
    """The folder of a sweep.

    Args:
        name: a path, else the name of a folder in `root`, else the name that a sweep in `root` has in its report.
        root: the folder of all sweeps.

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
    """The content of `sweep.json`: the fields of a `Sweep`, with its jobs as plain data by their hashes.

    Raises:
        NoSweepError: there is no such file, or it is damaged.
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
    """The record of a job as it is at this moment.

    Args:
        sweep: the sweep's folder.
        name: the job's hash.
        overrides, fixed: see `Job`.
    """
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
