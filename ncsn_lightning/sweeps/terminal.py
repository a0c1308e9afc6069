"""Output of a sweep: on a terminal a live view while it runs, in a file a line for each job; at the end a table."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..core.atomic_files import shown
from .folder import Job
from .progress import Progress, Watch
from .runner import JobRunner

log = logging.getLogger(__name__)

SECONDS = 1.0
"""Seconds between two looks at the folders of the jobs."""

BAR = 30
"""The width of the live view's bar, in characters."""

RUNNING_ROWS = 8
"""The largest number of running jobs that the live view names."""

COLUMN = 11
"""The least width of a column for settings, a status or a reason, in characters, on a narrow terminal."""


class View:
    """Shows how far the jobs of a command are; a thread looks at their folders again and again.

    Args:
        runner: of the jobs, to which a search adds more while they run.
        total: the number of jobs that there will be in the end.
        console: on which the jobs are shown.
        look: called with all jobs, whenever their folders have been looked at.
    """

    def __init__(
        self, runner: JobRunner, *, total: int, console: Console, look: Callable[[list[Job]], None] = lambda jobs: None
    ) -> None:
        self.runner, self.total, self.console, self.look = runner, total, console, look
        self.jobs = {name: runner.read(name) for name in runner.jobs}
        self.before = sum(job.state == "finished" for job in self.jobs.values())
        self.started = time.monotonic()
        self.last_end = self.started, self.before  # when a job finished last, and how many had by then
        self.watch = Watch()
        self._ended, self._looking = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="view", daemon=True)
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self.update()
        if self._live:
            self._live.stop()

    def _watch(self) -> None:
        while not self._ended.wait(SECONDS):
            try:
                self.update()
            except OSError as error:  # a file server may be unreachable for a while
                log.warning("%s: not to be read (%s)", error.filename, error.strerror)

    def update(self) -> None:
        """Look at the folders of the jobs now, and show what has changed."""
        with self._looking:
            self._update()

    def _update(self) -> None:
        for name in list(self.runner.jobs):
            job = self.jobs.get(name)
            if not job or job.state != "finished":
                self._note(job, self.runner.read(name))
        if (done := self._done()) > self.last_end[1]:
            self.last_end = time.monotonic(), done
        self.look(list(self.jobs.values()))
        if self._live:
            self._live.update(self.render(), refresh=True)

    def _note(self, old: Job | None, new: Job) -> None:
        self.jobs[new.hash] = new
        if (not old or new.state != old.state) and new.summary and not self._live:
            print_line(self.console, f"{self._done()} of {self.total} finished; {_line(new)}")

    def render(self) -> RenderableType:
        """The live view: a bar, the counts, the time left, the best job so far, and the running jobs."""
        states = Counter(job.state for job in self.jobs.values())
        done, total = states["finished"], self.total
        ended = {state: states[state] for state in ("failed", "diverged", "preempted", "interrupted") if states[state]}
        counts = [f"{done} of {total} finished", f"{states['running']} running"]
        counts += [f"{count} {state}" for state, count in ended.items()]
        counts += [f"{_minutes(left)} left"] if (left := self._time_left()) else []
        running = [job for job in self.jobs.values() if job.state == "running"]
        head = Table.grid(padding=(0, 1))
        head.add_row(ProgressBar(total, done, width=BAR), Text(", ".join(counts)))
        rows: list[RenderableType] = [head]
        rows += [Text(f"best so far: {_line(best)}")] if (best := self._best()) else []
        return Group(*rows, *([self._running(running)] if running else []))

    def _running(self, jobs: list[Job]) -> Table:
        """A row for each of the first running jobs: its name, its step, its loss, the time left for its training."""
        rows = Table(box=None, pad_edge=False, show_header=False)
        for fixed in (False, True, True, True):
            rows.add_column(no_wrap=fixed, overflow="fold", justify="left")
        for job in jobs[:RUNNING_ROWS]:
            found = self.watch.look(job, self.runner.steps(job.hash))
            rows.add_row(*map(Text, (f"running: {label(job)}", *_progress(found))))
        if len(jobs) > RUNNING_ROWS:
            rows.add_row(Text(f"and {len(jobs) - RUNNING_ROWS} more"))
        return rows

    def _time_left(self) -> float | None:
        """Seconds until the end, if the jobs to come take as long as those that finished in this command."""
        (when, done), now = self.last_end, time.monotonic()
        seen = done - self.before
        return max(0.0, (when - self.started) / seen * (self.total - done) - (now - when)) if seen else None

    def _done(self) -> int:
        return sum(job.state == "finished" for job in self.jobs.values())

    def _best(self) -> Job | None:
        scored = [job for job in self.jobs.values() if job.state == "finished" and math.isfinite(_score(job))]
        return min(scored, key=_score, default=None)


def print_line(console: Console, line: str) -> None:
    """Print a line as it stands: not folded to the console's width, nor read for rich's markup."""
    console.print(line, soft_wrap=True, markup=False)


def table(jobs: list[Job], console: Console) -> RenderableType:
    """How every job of a sweep ended: its settings, its status, its score error or the reason, its folder.

    Settings that all jobs have in common are printed once, above. Every other key has a column of its own, or, if the
    console is too narrow for that, all of them share one. Text that is longer than its column is folded.
    """
    keys = list(dict.fromkeys(key for job in jobs for key in job.overrides))
    varied = [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]
    common = [f"{key}={jobs[0].overrides[key]}" for key in keys if key not in varied]
    places = dict.fromkeys(shown(job.folder.parent) for job in jobs)
    above = [f"jobs in {place}" for place in places] + ([f"all with {' '.join(common)}"] if common else [])
    rows = _rows(jobs, {key: lambda job, key=key: job.overrides.get(key, "") for key in varied})  # type: ignore[misc]
    if Measurement.get(console, console.options.update_width(1000), rows).minimum > console.width:
        rows = _rows(
            jobs, {"job": lambda job: " ".join(f"{key}={job.overrides[key]}" for key in varied if key in job.overrides)}
        )
    return Group(Text(", ".join(above), overflow="fold"), rows)


def _rows(jobs: list[Job], settings: dict[str, Callable[[Job], str]]) -> Table:
    """A row for each job: its settings, each by a function under the name of its column, and how the job ended."""
    rows = Table(box=None, pad_edge=False)
    for name in (*settings, "status", "score error, or reason"):
        rows.add_column(name, overflow="fold", min_width=COLUMN)
    rows.add_column("folder", overflow="fold", min_width=max((len(job.folder.name) for job in jobs), default=0))
    for job in jobs:
        scored = job.state == "finished" and not math.isnan(_score(job))
        said = f"{_score(job):.4g}" if scored else job.reason
        rows.add_row(*map(Text, (*(setting(job) for setting in settings.values()), job.state, said, job.folder.name)))
    return rows


def label(job: Job) -> str:
    """A job's readable name: its swept overrides."""
    return " ".join(f"{key}={value}" for key, value in job.overrides.items()) or job.hash


def _progress(found: Progress | None) -> tuple[str, str, str]:
    """The step, the loss and the time left, in words."""
    if found is None:
        return "no step yet", "", ""
    of = f" of {found.total}" if found.total else ""
    left = f"{_minutes(found.left)} left" if found.left is not None else ""
    return (
        f"step {found.step}{of}",
        found.loss and f"loss {found.loss}",
        "samples, pictures" if found.is_trained else left,
    )


def _score(job: Job) -> float:
    return float(job.metrics.get("score_error", math.nan))


def _line(job: Job) -> str:
    score = "" if math.isnan(_score(job)) else f", score error {_score(job):.4g}"
    reason = f": {job.reason}" if job.reason else ""
    return f"{label(job)} {job.state}{score}{reason}"


def _minutes(seconds: float) -> str:
    return "{}:{:02}".format(*divmod(round(seconds), 60))
