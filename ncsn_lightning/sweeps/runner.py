"""Running the jobs of a command: those that are left are launched, and those that another process trains awaited."""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from ..config.messages import one_line
from ..core import signals
from ..core.lease import holder
from ..runs.failure import write_summary_for
from .folder import Job, State, read_job
from .job import ELSEWHERE, RETRY, has_ended
from .planning import Planned

log = logging.getLogger(__name__)

TRIES = 3
"""How often one command begins a job whose process is killed each time before it has saved anything new."""

ENDED: tuple[State, ...] = ("finished", "failed", "diverged")
"""States of a job that has ended by itself."""


class JobRunner:
    """Runs the jobs of a command until every one has ended.

    Args:
        folder: of the sweep.
        launcher: runs lists of overrides.

    Attributes:
        jobs: of the command, by their hashes.
    """

    def __init__(self, folder: Path, launcher: Launcher) -> None:
        self.folder, self.launcher = folder, launcher
        self.jobs: dict[str, Planned] = {}

    def add(self, jobs: list[Planned]) -> None:
        """Add jobs to those of the command."""
        self.jobs |= {job.hash: job for job in jobs}

    def read(self, name: str) -> Job:
        """The record of one of the jobs at this moment."""
        pairs = dict(override.partition("=")[::2] for override in self.jobs[name].line)
        overrides = {key: pairs[key] for key in self.jobs[name].swept}
        return read_job(self.folder, name, overrides=overrides, fixed=[])

    def steps(self, name: str) -> int | None:
        """The optimiser steps that one of the jobs will take; None if its configuration does not say."""
        steps = self.jobs[name].config["trainer"].get("max_steps")
        return steps if isinstance(steps, int) and steps > 0 else None

    def unfinished(self, *, retry_failed: bool) -> list[str]:
        """The jobs that this command has to run.

        Args:
            retry_failed: whether jobs that failed or diverged are among them.
        """
        leave = ENDED[:1] if retry_failed else ENDED
        return [name for name in self.jobs if self.read(name).state not in leave]

    def run(self, names: list[str]) -> None:
        """Run jobs, or wait for the processes that run them, until each has ended or died.

        Args:
            names: the hashes of the jobs.

        Raises:
            Stopped: the sweep is stopped.
        """
        for name in names:
            if self.read(name).state in (*ENDED[1:], "preempted"):  # in an earlier command
                (self.folder / name / RETRY).touch()
        names = sorted(names)  # sorting by hash shuffles the jobs, so that an early report shows some of everything
        died: Counter[str] = Counter()
        while names := [name for name in names if self._left(name)]:
            free = [name for name in names if self.read(name).state != "running"]
            settled = self._launch(free, died) if free else set()
            signals.check()
            if names := [name for name in names if name not in settled]:
                time.sleep(1)

    def _launch(self, names: list[str], died: Counter[str]) -> set[str]:
        """Launch jobs, and return the hashes of those that this command need not run again."""
        before = {name: self._begun(name) for name in names}
        saved = {name: self._saved(name) for name in names}
        try:
            returns = self.launcher.launch([self._line(name) for name in names], initial_job_idx=0)
        except Exception as error:
            begun = [name for name in names if self._begun(name) > before[name]]
            if not begun:
                raise
            # When one of joblib's processes is killed all of them are, so a job that has saved since is not to blame.
            dead = [name for name in begun if self.read(name).state == "interrupted"]
            died.update(name for name in dead if self._saved(name) == saved[name])
            log.warning("the launcher gave up (%s); what is left is launched anew", one_line(error).partition(". ")[0])
            return {name for name in begun if self._has_new_summary(name) or died[name] == TRIES}
        results = dict(zip(names, returns, strict=True))
        for name, result in results.items():
            if result.status == JobStatus.FAILED and self._begun(name) == before[name] and not signals.asked():
                self._note_failure(name, _reason(result))
        return {name for name, result in results.items() if not _is_elsewhere(result)}

    def _note_failure(self, name: str, reason: BaseException) -> None:
        """Log and write the summary of a job that failed before it could do so itself."""
        log.error("%s: %s", self.folder / name, one_line(reason))
        text = "".join(traceback.format_exception(reason))
        overrides = self.jobs[name].line
        write_summary_for(self.folder / name, "failed", error=text, wall_time=0.0, overrides=overrides)

    def _left(self, name: str) -> bool:
        """Whether a job has yet to end, or to be tried again."""
        return self.read(name).state not in ENDED or not has_ended(self.folder / name)

    def _has_new_summary(self, name: str) -> bool:
        """Whether a job has written a summary since it was to be tried again."""
        return bool(self.read(name).summary) and not (self.folder / name / RETRY).exists()

    def _saved(self, name: str) -> float:
        """The time at which a job saved itself last; 0 if it never did."""
        checkpoints = (self.folder / name / "checkpoints").glob("*.ckpt")
        return max((path.stat().st_mtime for path in checkpoints), default=0.0)

    def _begun(self, name: str) -> int:
        """How often a job was begun, by any process."""
        held = holder(self.folder / name)
        return held.number if held else 0

    def _line(self, name: str) -> Sequence[str]:
        folder, subfolder = (QuotedString(text, Quote.single).with_quotes() for text in (str(self.folder), name))
        # without quotes Hydra would take a hash such as 4294859e70 for a number
        return [*self.jobs[name].line, f"hydra.sweep.dir={folder}", f"hydra.sweep.subdir={subfolder}"]


def _reason(result: JobReturn) -> BaseException:
    """The exception that a failed job ended with.

    Hydra raises it when the return value is asked for, and prints a line to the standard error.
    """
    try:
        with redirect_stderr(StringIO()):
            raise AssertionError(f"a failed job returned {result.return_value!r}")
    except Exception as reason:
        return reason


def _is_elsewhere(result: JobReturn) -> bool:
    """Whether a job was left to another process."""
    return result.status == JobStatus.COMPLETED and result.return_value == ELSEWHERE


@dataclass(frozen=True)
class Rounds:
    """The jobs of a command, to be run round by round.

    Attributes:
        opening: what they are, in a few words.
        sample: jobs that are built before the first one begins, so that wrong values are refused in time.
        total: how many jobs there will be.
        names: the hashes of the jobs of each round. The next round is asked for when the one before has been run.
        well: states in which the jobs should end.
        whole: whether the sample is all jobs; the sample of a search shows what its parameters can change.
    """

    opening: str
    sample: list[Planned]
    total: int
    names: Iterator[list[str]]
    well: tuple[State, ...] = ("finished",)
    whole: bool = True


def grid(jobs: list[Planned], runner: JobRunner, *, retry_failed: bool) -> Rounds:
    """One round with all jobs of a grid that are left.

    Args:
        jobs: of the grid, finished or not.
        runner: is given all of them.
        retry_failed: whether those that failed or diverged are run again.
    """
    runner.add(jobs)
    names = runner.unfinished(retry_failed=retry_failed)
    opening = f"{len(jobs)} job{'s' if len(jobs) != 1 else ''}, {len(jobs) - len(names)} done before"
    return Rounds(opening, [runner.jobs[name] for name in names], len(jobs), iter([names]))
