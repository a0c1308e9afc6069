"""A sweep from its command line to its table: named, planned, checked, run, and told how it ended."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from rich.console import Console

from ..configuration import Refusal, can_change_result, config_hash
from ..errors import FULL
from . import stopping
from .conductor import Conductor
from .folder import Job
from .lease import holder
from .planning import Planned, Planner
from .record import write_plan
from .view import View, table

CHILDREN = ("joblib",)
"""Launchers whose jobs train in child processes of the sweep's."""

HERE = ("basic", *CHILDREN)
"""Launchers whose jobs train on this machine."""


class Unfinished(RuntimeError):  # noqa: N818  (it names what the sweep is)
    """Not every job of the command finished; the message says how many, and what to do."""


def settle(config: DictConfig) -> None:
    """Fill in what a sweep's configuration leaves open: its name, from which follows its folder, and its processes.

    The name is the one asked for, that of the sweep's file, else made of what the command asks for. With joblib there
    are as many processes as the cores have room for with `threads` each.

    Raises:
        Refusal: the name is no name.
    """
    name = config.sweep_name
    if name is not None and (not str(name).strip(".") or "/" in str(name)):
        raise Refusal(f"sweep_name={name}: give a name without /; for any other place hydra.sweep.dir=…")
    with open_dict(config):
        config.sweep_name = name or _file_name(config) or _short_hash(config.hydra.overrides.task)
    if config.hydra.runtime.choices["hydra/launcher"] == "joblib" and config.hydra.launcher.n_jobs == -1:
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
) -> None:
    """Run what is left of a sweep, and print how every job of the command ended.

    Args:
        arguments: overrides, with all their values.
        config: of the sweep.
        loader: composes a job's configuration.
        launcher: runs jobs.
        report: is told of the sweep's folder at the end, whatever the end.

    Raises:
        Refusal: a job cannot run; none has.
        Unfinished: a job did not finish.
    """
    for name in ("hydra", "hydra_plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)  # which would announce every job
    where = config.hydra.runtime.choices["hydra/launcher"]
    folder = Path(config.hydra.sweep.dir).absolute()
    _demand_place(folder)
    planner = Planner(loader, config)
    jobs = planner.span(arguments)
    conductor = Conductor(folder, jobs, launcher)
    names = conductor.unfinished(retry_failed=config.retry_failed)
    _check([conductor.jobs[name] for name in names], folder, here=where in HERE)
    folder.mkdir(parents=True, exist_ok=True)
    write_plan(folder, jobs, planner, question=_question(config), command=_command())
    console = Console() if sys.stdout.isatty() else Console(width=1000)
    console.print(
        f"sweep {folder.name}: {len(jobs)} jobs, {len(jobs) - len(names)} done before; {folder}", markup=False
    )
    try:
        with (
            stopping.listening(patient=where in CHILDREN),
            View(conductor.read, list(conductor.jobs), console=console, look=_pass_on),
        ):
            conductor.run(names)
    except (stopping.Stopped, KeyboardInterrupt, SystemExit) as stop:
        raise Unfinished("stopped; the same command goes on from here") from stop
    except OSError as error:
        if error.errno in FULL:
            raise Unfinished(f"{folder}: {error.strerror}; make room, then the same command goes on") from error
        raise
    finally:
        ended = [conductor.read(name) for name in conductor.jobs]
        console.print(table(ended))
        report(folder)
    _demand_all(ended, retry_failed=config.retry_failed)


def _demand_place(folder: Path) -> None:
    """Raise OSError where a folder cannot be made, before anything is done for it."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _check(jobs: list[Planned], folder: Path, *, here: bool) -> None:
    """Build the objects of all jobs once, for what is wrong with any of them is said before one begins.

    Of jobs that differ in their seeds alone, one is built, and one with each seed.
    """
    lines: dict[str, None] = {}
    if jobs:
        from ..jobs import check
    seen: set[str] = set()
    for job in jobs:
        kinds = {config_hash({**job.config, "seed": None}), f"seed {job.config.get('seed')}"}
        if kinds <= seen:
            continue
        seen |= kinds
        config = {**job.config, "paths": {**job.config["paths"], "folder": str(folder / job.hash)}}
        try:
            check(config, here=here)
        except Refusal as refusal:
            lines |= dict.fromkeys(str(refusal).splitlines())
    if lines:
        raise Refusal("\n".join(lines))


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


def _pass_on(jobs: list[Job]) -> None:
    """Tell the child processes that train that the sweep is being stopped; when all have saved, stop it."""
    if stopping.asked():
        held = [holder(job.folder) for job in jobs if job.state == "running"]
        stopping.tell([one for one in held if one])


def _demand_all(jobs: list[Job], *, retry_failed: bool) -> None:
    states = Counter(job.state for job in jobs)
    if left := len(jobs) - states["finished"]:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()) if state != "finished")
        remedy = (
            "the same command tries them again" if retry_failed else "without retry_failed=false they are tried again"
        )
        raise Unfinished(f"{left} of {len(jobs)} jobs did not finish ({counts}); {remedy}")
