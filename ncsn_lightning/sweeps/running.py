"""A sweep from its command line to its table: named, planned, checked, and run; then a table says how it ended."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from rich.console import Console

from ..config.messages import FULL
from ..config.plain import Refusal, can_change_result, config_hash
from ..core import signals
from .children import Children
from .folder import Job
from .manifest import title, write_plan
from .planning import Planned, Planner
from .runner import JobRunner, Rounds, grid
from .same_trainings import fingerprint, idle_lines
from .terminal import View, print_line, table

CHILDREN = ("joblib",)
"""Launchers whose jobs train in child processes of the sweep."""

HERE = ("basic", *CHILDREN)
"""Launchers whose jobs train on this machine."""

IN_A_QUEUE = 16
"""The number of jobs of a search that are proposed at once if they wait in a queue, such as Slurm's."""


class Unfinished(RuntimeError):  # noqa: N818  (it names the state of the sweep)
    """Not every job of the command finished; the message says how many, and what to do."""


def settle(config: DictConfig) -> None:
    """Fill in what a sweep's configuration leaves open: its name, from which its folder follows, and its processes.

    The name is `sweep_name`, else that of the sweep's file, else a hash of what the command asks for. With joblib there
    are as many processes as the cores have room for with `threads` each.

    Raises:
        Refusal: the name cannot name a folder, or the number of processes is not a number of processes.
    """
    name = config.sweep_name
    if name is not None and (not str(name).strip(".") or "/" in str(name)):
        raise Refusal(f"sweep_name={name}: give a name without /; for any other place hydra.sweep.dir=…")
    with open_dict(config):
        config.sweep_name = name or _file_name(config) or _short_hash(config.hydra.overrides.task)
        config.hydra.sweep.dir = os.path.expanduser(str(config.hydra.sweep.dir))
    if config.hydra.runtime.choices["hydra/launcher"] == "joblib":
        n_jobs = config.hydra.launcher.n_jobs
        if not isinstance(n_jobs, int) or isinstance(n_jobs, bool) or n_jobs == 0:
            raise Refusal(f"hydra.launcher.n_jobs={n_jobs}: give a number of processes, or -1 for what the cores carry")
        if n_jobs == -1:
            threads = config.threads if isinstance(config.threads, int) else 1  # anything else will be refused
            config.hydra.launcher.n_jobs = max(1, _cores() // max(1, threads))


def _cores() -> int:
    import joblib  # type: ignore[import-untyped]

    return int(joblib.cpu_count())  # of the cores that this process may use, also in a container


def _file_name(config: DictConfig) -> str:
    return (config.hydra.runtime.choices.get("sweep") or "").replace("/", "-")


def _short_hash(overrides: ListConfig) -> str:
    texts: Any = OmegaConf.to_container(overrides, resolve=False)
    asked = sorted(text for text in texts if can_change_result(text.partition("=")[0].lstrip("+~")))
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()[:8]


class SweepCommand:
    """One command that runs a sweep, or what is left of it: planned and checked when made, then run.

    Args:
        arguments: overrides, with all their values.
        config: of the sweep.
        loader: composes a job's configuration.
        launcher: runs jobs.

    Attributes:
        folder: of the sweep.
        ended: how every job of the command ended, once it has run.

    Raises:
        Refusal: a job cannot run; none has.
    """

    def __init__(self, arguments: list[str], config: DictConfig, loader: ConfigLoader, launcher: Launcher) -> None:
        self.config, self.folder = config, Path(config.hydra.sweep.dir).absolute()
        self.launcher_name = config.hydra.runtime.choices["hydra/launcher"]
        self.console = Console() if sys.stdout.isatty() else Console(width=1000)
        _demand_place(self.folder)
        for name in ("n_trials", "n_jobs"):
            _demand_count(name, config.hydra.sweeper)
        self.planner, self.runner = Planner(loader, config), JobRunner(self.folder, launcher)
        self.rounds = self._rounds(arguments)
        self.remarks = _check(self.rounds.sample, self.folder, here=self.launcher_name in HERE, whole=self.rounds.whole)
        self.is_named = self.folder.name != _short_hash(config.hydra.overrides.task)
        self.title = self.folder.name if self.is_named else title(self.planner.swept(arguments)) or self.folder.name
        self.ended: list[Job] = []

    def announce(self) -> None:
        """Make the sweep's folder, and print what will run in it."""
        for name in ("hydra", "hydra_plugins"):
            logging.getLogger(name).setLevel(logging.WARNING)  # Hydra would announce every job
        self.folder.mkdir(parents=True, exist_ok=True)
        signals.remember(f"go on from here with: {_command()}")
        for line in (f"sweep {self.title}: {self.rounds.opening}; {self.folder}", *self.remarks):
            print_line(self.console, line)

    def run(self) -> None:
        """Run all rounds of jobs; at the end, whatever the end, print how each job of the command ended.

        Raises:
            Unfinished: someone stopped the sweep, or the disk is full.
        """
        try:
            with self._view() as view:
                for names in self.rounds.names:
                    self._write_plan()
                    self.runner.run(names)
                    view.update()
        except (signals.Stopped, SystemExit) as stop:
            raise Unfinished(f"stopped; go on from here with: {_command()}") from stop
        except OSError as error:
            if error.errno in FULL:
                raise Unfinished(
                    f"{self.folder}: {error.strerror}; make room, then the same command goes on"
                ) from error
            raise
        finally:
            self.ended = [self.runner.read(name) for name in self.runner.jobs]
            self.console.print(table(self.ended, self.console))

    def demand_finished(self) -> None:
        """Raise Unfinished unless every job of the command ended well."""
        states = Counter(job.state for job in self.ended if job.state not in self.rounds.well)
        if left := states.total():
            counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            again = "the same command tries them again"
            remedy = again if self.config.retry_failed else "without retry_failed=false they are tried again"
            raise Unfinished(f"{left} of {len(self.ended)} jobs did not finish ({counts}); {remedy}")

    def _rounds(self, arguments: list[str]) -> Rounds:
        """The jobs of the command: one round of a grid, or the rounds of a search."""
        options, retry_failed = self.config.hydra.sweeper, self.config.retry_failed
        if options.n_trials is None:
            return grid(self.planner.span(arguments), self.runner, retry_failed=retry_failed)
        from .search import Search

        at_once = {"basic": 1, "joblib": self.config.hydra.launcher.get("n_jobs")}.get(self.launcher_name, IN_A_QUEUE)
        n_trials, n_jobs = options.n_trials, options.n_jobs or at_once
        search = Search(
            arguments, self.planner, self.runner, n_trials=n_trials, n_jobs=n_jobs, retry_failed=retry_failed
        )
        return search.rounds(self.console)

    def _write_plan(self) -> None:
        """Note the jobs of the command that are known by now in `sweep.json`."""
        jobs, question = [*self.runner.jobs.values()], _question(self.config)
        write_plan(self.folder, jobs, self.planner, named=self.is_named, question=question, command=_command())

    @contextmanager
    def _view(self) -> Iterator[View]:
        """A view of the jobs, which also asks child processes to stop when the sweep is asked to."""
        if self.launcher_name in CHILDREN:
            with (
                signals.patience(),
                Children(self.folder) as children,
                View(self.runner, total=self.rounds.total, console=self.console, look=children.pass_on_stop) as view,
            ):
                yield view
        else:
            with View(self.runner, total=self.rounds.total, console=self.console) as view:
                yield view


def _demand_count(name: str, options: DictConfig) -> None:
    value: Any = options[name]
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise Refusal(f"hydra.sweeper.{name}={value}: give a whole number of at least 1, or null")


def _demand_place(folder: Path) -> None:
    """Raise OSError if a folder cannot be made, before anything is planned."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _check(jobs: list[Planned], folder: Path, *, here: bool, whole: bool = True) -> list[str]:
    """Build the objects of all jobs once, so that whatever is wrong with any of them is said before one begins.

    Of jobs that differ in their seeds alone, one is built, and one with each seed.

    Returns:
        Lines on swept keys that change no training.

    Raises:
        Refusal: a job cannot run.
    """
    if not jobs:
        return []
    from ..config import precheck

    kinds = {_kind(job): job for job in jobs}
    _refuse(line for job in kinds.values() for line in precheck.refused(job.config, overrides=job.line))
    from ..runs.lifecycle import check  # which takes seconds, so that a mistyped value is said before

    prints: dict[str, str | None] = {}
    seeds: set[object] = set()
    refused: list[str] = []
    for job in jobs:
        kind, seed = _kind(job), job.config.get("seed")
        if kind in prints and seed in seeds:
            continue
        seeds.add(seed)
        config = {**job.config, "paths": {**job.config["paths"], "folder": str(folder / job.hash)}}
        try:
            prints.setdefault(kind, fingerprint(check(config, overrides=job.line, here=here)))
        except Refusal as refusal:
            prints[kind] = None
            refused += str(refusal).splitlines()
    _refuse(refused)
    return idle_lines(jobs, {job.hash: prints[_kind(job)] for job in jobs}, whole=whole)


def _refuse(lines: Iterable[str]) -> None:
    """Raise Refusal with these lines, each of them once, if there are any."""
    if different := dict.fromkeys(lines):
        raise Refusal("\n".join(different))


def _kind(job: Planned) -> str:
    """A hash that jobs share if they differ in their seed alone."""
    return config_hash({**job.config, "seed": None})


def _question(config: DictConfig) -> str | None:
    """The first comment of the sweep's file."""
    choice = config.hydra.runtime.choices.get("sweep")
    for source in config.hydra.runtime.config_sources:
        path = Path(source.path) / "sweep" / f"{choice}.yaml"
        if source.schema == "file" and path.is_file():
            comments = [
                line for line in path.read_text().splitlines() if line.startswith("#") and "@package" not in line
            ]
            return comments[0].lstrip("# ") if comments else None
    return None


def _command() -> str:
    """The command line that runs this command again, quoted for a shell."""
    program, *arguments = sys.argv
    name = os.path.relpath(program) if program.endswith(".py") else Path(program).name
    return shlex.join([*(["python"] if program.endswith(".py") else []), name, *arguments])
