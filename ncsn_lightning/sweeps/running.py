"""A sweep from its command line to its table: named, planned, checked, run, and told how it ended."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from rich.console import Console

from ..config.messages import FULL
from ..config.plain import Refusal, can_change_result, config_hash
from ..core import signals
from ..core.lease import holder
from . import children
from .folder import Job, State
from .manifest import title, write_plan
from .planning import Planned, Planner
from .runner import JobRunner, Record, Rounds, Say, grid
from .same_trainings import fingerprint, idle_lines
from .terminal import View, table

CHILDREN = ("joblib",)
"""Launchers whose jobs train in child processes of the sweep's."""

HERE = ("basic", *CHILDREN)
"""Launchers whose jobs train on this machine."""

IN_A_QUEUE = 16
"""Jobs of a search that are proposed at once where each waits for its turn."""


class Unfinished(RuntimeError):  # noqa: N818  (it names what the sweep is)
    """Not every job of the command finished; the message says how many, and what to do."""


def settle(config: DictConfig) -> None:
    """Fill in what a sweep's configuration leaves open: its name, from which follows its folder, and its processes.

    The name is the one asked for, that of the sweep's file, else made of what the command asks for. With joblib there
    are as many processes as the cores have room for with `threads` each.

    Raises:
        Refusal: the name is no name, or the number of processes no number of any.
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
            threads = config.threads if isinstance(config.threads, int) else 1  # which will be refused
            config.hydra.launcher.n_jobs = max(1, _cores() // max(1, threads))


def _cores() -> int:
    import joblib  # type: ignore[import-untyped]

    return int(joblib.cpu_count())  # that this process may use, in a container too


def _file_name(config: DictConfig) -> str:
    return (config.hydra.runtime.choices.get("sweep") or "").replace("/", "-")


def _short_hash(overrides: ListConfig) -> str:
    texts: Any = OmegaConf.to_container(overrides, resolve=False)
    asked = sorted(text for text in texts if can_change_result(text.partition("=")[0].lstrip("+~")))
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()[:8]


def run_sweep(
    arguments: list[str],
    config: DictConfig,
    loader: ConfigLoader,
    launcher: Launcher,
    *,
    report: Callable[[Path], None],
    publish: Callable[[Path], None],
) -> None:
    """Run what is left of a sweep, and print how every job of the command ended.

    Args:
        arguments: overrides, with all their values.
        config: of the sweep.
        loader: composes a job's configuration.
        launcher: runs jobs.
        report: is told of the sweep's folder at the end, whatever the end.
        publish: is told of it too, unless someone stopped the sweep.

    Raises:
        Refusal: a job cannot run; none has.
        Unfinished: a job did not finish.
    """
    for name in ("hydra", "hydra_plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)  # which would announce every job
    where = config.hydra.runtime.choices["hydra/launcher"]
    folder = Path(config.hydra.sweep.dir).absolute()
    _demand_place(folder)
    for name in ("n_trials", "n_jobs"):
        _demand_count(name, config.hydra.sweeper)
    console = Console() if sys.stdout.isatty() else Console(width=1000)
    say = partial(console.print, markup=False, soft_wrap=True)
    planner, runner = Planner(loader, config), JobRunner(folder, launcher)
    named = folder.name != _short_hash(config.hydra.overrides.task)
    record: Record = partial(
        write_plan, folder, planner=planner, named=named, question=_question(config), command=_command()
    )
    if config.hydra.sweeper.n_trials is None:
        rounds = grid(planner.span(arguments), runner, record, retry_failed=config.retry_failed)
    else:
        rounds = _search(arguments, config, planner, runner, record, say)
    idle = _check(rounds.sample, folder, here=where in HERE, whole=rounds.whole)
    folder.mkdir(parents=True, exist_ok=True)
    signals.remember(f"go on from here with: {_command()}")
    say(f"sweep {folder.name if named else title(planner.swept(arguments)) or folder.name}: {rounds.opening}; {folder}")
    for line in idle:
        say(line)
    try:
        with (
            signals.patience() if where in CHILDREN else nullcontext(),
            children.word_for_children(folder) if where in CHILDREN else nullcontext() as leave_word,
            View(runner, total=rounds.total, console=console, look=partial(_pass_on, leave_word)) as view,
        ):
            for names in rounds.names:
                runner.run(names)
                view.update()
    except (signals.Stopped, SystemExit) as stop:
        raise Unfinished(f"stopped; go on from here with: {_command()}") from stop
    except OSError as error:
        if error.errno in FULL:
            raise Unfinished(f"{folder}: {error.strerror}; make room, then the same command goes on") from error
        raise
    finally:
        ended = [runner.read(name) for name in runner.jobs]
        console.print(table(ended, console))
        report(folder)
    publish(folder)
    _demand_all(ended, rounds.well, retry_failed=config.retry_failed)


def _search(
    arguments: list[str], config: DictConfig, planner: Planner, runner: JobRunner, record: Record, say: Say
) -> Rounds:
    """The jobs of a search, as its sweeper's options want it."""
    from .search import Search

    where, options = config.hydra.runtime.choices["hydra/launcher"], config.hydra.sweeper
    together = {"basic": 1, "joblib": config.hydra.launcher.get("n_jobs")}.get(where, IN_A_QUEUE)
    n_jobs, n_trials = options.n_jobs or together, options.n_trials
    search = Search(arguments, planner, runner, n_trials=n_trials, n_jobs=n_jobs, retry_failed=config.retry_failed)
    return search.rounds(record, say)


def _demand_count(name: str, options: DictConfig) -> None:
    value: Any = options[name]
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise Refusal(f"hydra.sweeper.{name}={value}: give a whole number of at least 1, or null")


def _demand_place(folder: Path) -> None:
    """Raise OSError where a folder cannot be made, before anything is done for it."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _check(jobs: list[Planned], folder: Path, *, here: bool, whole: bool = True) -> list[str]:
    """Build the objects of all jobs once, for what is wrong with any of them is said before one begins.

    Of jobs that differ in their seeds alone, one is built, and one with each seed.

    Returns:
        Lines on swept keys that change no training.

    Raises:
        Refusal: a job cannot run.
    """
    lines: dict[str, None] = {}
    if jobs:
        from ..config import precheck

        for job in {_kind(job): job for job in jobs}.values():
            lines |= dict.fromkeys(precheck.refused(job.config, overrides=job.line))
        if lines:
            raise Refusal("\n".join(lines))
        from ..runs.lifecycle import check
    prints: dict[str, str | None] = {}
    seeds: set[object] = set()
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
            lines |= dict.fromkeys(str(refusal).splitlines())
    if lines:
        raise Refusal("\n".join(lines))
    return idle_lines(jobs, lambda job: prints[_kind(job)], whole=whole)


def _kind(job: Planned) -> str:
    """What jobs have in common that differ in their seed alone."""
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
    """What a shell runs this command with again."""
    program, *arguments = sys.argv
    name = os.path.relpath(program) if program.endswith(".py") else Path(program).name
    return shlex.join([*(["python"] if program.endswith(".py") else []), name, *arguments])


def _pass_on(leave_word: Callable[[], None] | None, jobs: list[Job]) -> None:
    """Tell child processes that train, where there are any, that the sweep stops; when all have saved, stop it."""
    if leave_word is not None and signals.asked():
        leave_word()
        held = [holder(job.folder) for job in jobs if job.state == "running"]
        children.tell([one for one in held if one])


def _demand_all(jobs: list[Job], well: Collection[State], *, retry_failed: bool) -> None:
    states = Counter(job.state for job in jobs if job.state not in well)
    if left := states.total():
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        remedy = (
            "the same command tries them again" if retry_failed else "without retry_failed=false they are tried again"
        )
        raise Unfinished(f"{left} of {len(jobs)} jobs did not finish ({counts}); {remedy}")
