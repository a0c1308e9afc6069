"""From planned jobs to ended ones: what is left is launched, what another process trains is waited for."""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
"""How often one command begins a job whose processes are killed before they save anything further."""

ENDED: tuple[State, ...] = ("finished", "failed", "diverged")


class JobRunner:
    """Sees that every job of a command ends.

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
        """More jobs of the command."""
        self.jobs |= {job.hash: job for job in jobs}

    def read(self, name: str) -> Job:
        """The record of one of the jobs at this moment."""
        pairs = dict(override.partition("=")[::2] for override in self.jobs[name].line)
        overrides = {key: pairs[key] for key in self.jobs[name].swept}
        return read_job(self.folder, name, overrides=overrides, fixed=[])

    def steps(self, name: str) -> int | None:
        """The optimiser steps that one of the jobs will take; None where only its training knows."""
        steps = self.jobs[name].config["trainer"].get("max_steps")
        return steps if isinstance(steps, int) and steps > 0 else None

    def unfinished(self, *, retry_failed: bool) -> list[str]:
        """Jobs that this command has to see to: all but the finished ones, and those that failed if it leaves them."""
        leave = ENDED[:1] if retry_failed else ENDED
        return [name for name in self.jobs if self.read(name).state not in leave]

    def run(self, names: list[str]) -> None:
        """Run these jobs, or wait for who runs them, until each has ended or died.

        Raises:
            Stopped: someone stops the sweep.
        """
        for name in names:
            if self.read(name).state in (*ENDED[1:], "preempted"):  # of an earlier command
                (self.folder / name / RETRY).touch()
        names = sorted(names)  # by their hashes, which is as good as shuffled: an early look sees a bit of everything
        died: Counter[str] = Counter()
        while names := [name for name in names if self._left(name)]:
            free = [name for name in names if self.read(name).state != "running"]
            settled = self._launch(free, died) if free else set()
            signals.check()
            if names := [name for name in names if name not in settled]:
                time.sleep(1)

    def _launch(self, names: list[str], died: Counter[str]) -> set[str]:
        """Launch jobs, and return those that need no more of this command."""
        before = {name: self._begun(name) for name in names}
        saved = {name: self._saved(name) for name in names}
        try:
            returns = self.launcher.launch([self._line(name) for name in names], initial_job_idx=0)
        except Exception as error:
            begun = [name for name in names if self._begun(name) > before[name]]
            if not begun:
                raise
            # When one of joblib's processes is killed all are, so what another job saved since counts for it.
            dead = [name for name in begun if self.read(name).state == "interrupted"]
            died.update(name for name in dead if self._saved(name) == saved[name])
            log.warning("the launcher gave up (%s); what is left is launched anew", one_line(error).partition(". ")[0])
            return {name for name in begun if self._has_spoken(name) or died[name] == TRIES}
        answers = dict(zip(names, returns, strict=True))
        for name, answer in answers.items():
            if answer.status == JobStatus.FAILED and self._begun(name) == before[name] and not signals.asked():
                reason = _reason(answer)
                log.error("%s: %s", self.folder / name, one_line(reason))
                text = "".join(traceback.format_exception(reason))
                line = self.jobs[name].line
                write_summary_for(self.folder / name, "failed", error=text, wall_time=0.0, overrides=line)
        return {name for name, answer in answers.items() if not _elsewhere(answer)}

    def _left(self, name: str) -> bool:
        """Whether a job has yet to end, or to be tried again."""
        return self.read(name).state not in ENDED or not has_ended(self.folder / name)

    def _has_spoken(self, name: str) -> bool:
        """Whether a job has left a last word, and not before it is to be tried again."""
        return bool(self.read(name).summary) and not (self.folder / name / RETRY).exists()

    def _saved(self, name: str) -> float:
        """When a job saved itself last; 0 if it never did."""
        checkpoints = (self.folder / name / "checkpoints").glob("*.ckpt")
        return max((path.stat().st_mtime for path in checkpoints), default=0.0)

    def _begun(self, name: str) -> int:
        """How often a job was begun, by anyone."""
        held = holder(self.folder / name)
        return held.number if held else 0

    def _line(self, name: str) -> Sequence[str]:
        folder, subfolder = (QuotedString(text, Quote.single).with_quotes() for text in (str(self.folder), name))
        # unquoted, a hash such as 4294859e70 would be a number
        return [*self.jobs[name].line, f"hydra.sweep.dir={folder}", f"hydra.sweep.subdir={subfolder}"]


def _reason(answer: JobReturn) -> BaseException:
    """The exception that a failed job ended with; Hydra raises it anew, and says so on the standard error."""
    try:
        with redirect_stderr(StringIO()):
            raise AssertionError(f"a failed job returned {answer.return_value!r}")
    except Exception as reason:
        return reason


def _elsewhere(answer: JobReturn) -> bool:
    return answer.status == JobStatus.COMPLETED and answer.return_value == ELSEWHERE


Record = Callable[[list[Planned]], None]
"""Notes the jobs of a command in its sweep's folder."""

Say = Callable[[str], None]
"""Prints a line."""


@dataclass(frozen=True)
class Rounds:
    """The jobs of a command.

    Attributes:
        opening: what they are, in a few words.
        sample: jobs that are built before the first one begins, for what is wrong with any of them.
        total: how many there will be.
        names: their hashes, round by round; whoever asks for a round has run the one before.
        well: states in which they may end.
        whole: whether the sample is all of them; that of a search shows what its parameters can do.
    """

    opening: str
    sample: list[Planned]
    total: int
    names: Iterator[list[str]]
    well: tuple[State, ...] = ("finished",)
    whole: bool = True


def grid(jobs: list[Planned], runner: JobRunner, record: Record, *, retry_failed: bool) -> Rounds:
    """One round of all that is left of some jobs."""
    runner.add(jobs)
    names = runner.unfinished(retry_failed=retry_failed)

    def once() -> Iterator[list[str]]:
        record(jobs)
        yield names

    opening = f"{len(jobs)} job{'s' if len(jobs) != 1 else ''}, {len(jobs) - len(names)} done before"
    return Rounds(opening, [runner.jobs[name] for name in names], len(jobs), once())
