"""The life of one job in the process that trains it: taken, gone on with, and never left without a last word."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import FULL, log_error, log_files, one_line
from ..results import Status, read_summary, write_summary
from . import stopping
from .folder import read_plan
from .lease import BEAT, STALE, Lease, batch, holder, take

log = logging.getLogger(__name__)

ELSEWHERE = "elsewhere"
"""The result of a job that another process trains, or has ended since the sweep began."""


RETRY = "retry"
"""A file in the folder of a job that did not finish and is to go on: its last word stands until it does."""

TAG = 64
"""The longest tag that W&B takes."""


GROUP = 100
"""Characters of a sweep's name in that of its W&B group, which takes 128."""


class JobFailed(RuntimeError):  # noqa: N818  (it names the status of a job)
    """The job's summary says failed, diverged or preempted; the message is its one line."""


class TakenOver(Exception):  # noqa: N818  (it names what happened)
    """Another process has the job now, and the last word about it."""


def run(compose: Callable[[], dict[str, Any]], *, overrides: list[str], folder: Path) -> float | str:
    """Train one job to its end, from where it was left, unless another process does; return its score error.

    Every task of a job of Slurm calls this: the first one takes the lease, the others follow it.

    Args:
        compose: makes the plain configuration.
        overrides: the job's, for its summary.
        folder: the job's, named by the hash of the configuration.

    Raises:
        JobFailed: it did not finish.
        Stopped: someone stops the sweep; in a child process of it, that is a JobFailed too.
    """
    if has_ended(folder):
        return ELSEWHERE
    if not batch():
        _quieten()
    with stopping.listening():
        try:
            if stopping.parent_stops(folder.parent):
                raise stopping.Stopped
            result = _run(compose, overrides, folder)
            stopping.check()
            return result
        except TakenOver:
            log.warning("%s: this process slept for too long, and another one has taken the job over", folder)
            return ELSEWHERE
        except stopping.Stopped as stop:
            if stopping.is_orphan():
                os._exit(1)  # nobody is left to take a result
            if stopping.in_child():  # where it would end the others', unsaved
                raise JobFailed("stopped") from stop
            raise


def named(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A job's configuration with what loggers call it: the sweep's name for its group, swept overrides for the rest."""
    plan, sweep = read_plan(folder.parent), folder.parent.name
    pairs = [f"{key}={value}" for key, value in plan["jobs"][folder.name]["overrides"].items()]
    group = sweep if plan["name"] == sweep else f"{plan['name'][:GROUP]} ({sweep})"
    return {
        **config,
        "group": config["group"] or group,
        "name": " ".join(pairs) or config["name"],
        "tags": [*config["tags"], *(pair[:TAG] for pair in pairs)],
    }


def has_ended(folder: Path) -> bool:
    """Whether the last word about a job is that it finished, or that it did not and is not to be tried again."""
    status = read_summary(folder).get("status")
    return status == "finished" or (status in ("failed", "diverged") and not (folder / RETRY).exists())


def _quieten() -> None:
    """Leave the console to the sweep; the job's log has all."""
    for handler in set(logging.getLogger().handlers) - set(log_files()):
        handler.setLevel(logging.WARNING)


def _run(compose: Callable[[], dict[str, Any]], overrides: list[str], folder: Path) -> float | str:
    if int(os.environ.get("SLURM_PROCID", "0")):
        return _train(compose(), overrides, None) if _first_task_trains(folder) else ELSEWHERE
    lease = take(folder)
    if lease is None:
        return ELSEWHERE
    with lease, _noticing_the_parents_death():
        if has_ended(folder):  # since it was looked for
            return ELSEWHERE
        with _last_word(overrides, folder, lease):
            return _train(compose(), overrides, lease)


def _train(config: dict[str, Any], overrides: list[str], lease: Lease | None) -> float:
    from tqdm import tqdm  # type: ignore[import-untyped]

    from .. import jobs
    from ..callbacks import LeaseGuard

    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves to be complained of
    guards = [LeaseGuard(lease.successor)] if lease else []
    return jobs.go_on(config, overrides=overrides, in_sweep=True, callbacks=guards)


def _first_task_trains(folder: Path) -> bool:
    """Whether the first task of this job of Slurm took the lease; waits until that is known."""
    deadline = time.monotonic() + 2 * STALE
    while time.monotonic() < deadline and not has_ended(folder):
        held = holder(folder)
        if held and held.batch == batch() and held.lives(folder / "lease"):
            return True
        time.sleep(0.1)
    return False


@contextmanager
def _last_word(overrides: list[str], folder: Path, lease: Lease) -> Iterator[None]:
    """Whatever ends the job: its summary, its traceback in its log, and one line."""
    started = time.perf_counter()
    for name in ("summary.json", RETRY):
        (folder / name).unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        if lease.is_lost():
            raise TakenOver from error
        log_error()
        if isinstance(error, SystemExit):  # submitit has requeued this job
            raise
        stopped = isinstance(error, stopping.Stopped | KeyboardInterrupt)
        summary = read_summary(folder) or speak_for(
            folder,
            status="preempted" if stopped else "failed",
            error=traceback.format_exc(),
            wall_time=time.perf_counter() - started,
            overrides=overrides,
        )
        if stopped or summary["status"] == "preempted":
            stopping.note()
            raise stopping.Stopped from error
        reason = _reason(error, folder)
        if batch():  # whose log nobody else writes
            log.error("%s", reason)
        raise JobFailed(reason) from error


def speak_for(
    folder: Path, *, status: Status, error: str, wall_time: float, overrides: Sequence[str]
) -> dict[str, Any]:
    """Write the summary of a job that ended before it could."""
    facts: dict[str, Any] = {"seed": None, "steps": 0, "wall_time": wall_time, "metrics": {}, "overrides": [*overrides]}
    try:
        write_summary(folder, status=status, error=error, **facts, config_hash=folder.name)
    except OSError as full:  # a full disk, say: the job then counts as interrupted
        log.error("%s", one_line(full))
    return {"status": status, "error": error}


def _reason(error: BaseException, folder: Path) -> str:
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{folder}: {error.strerror}; make room, then run the sweep again"
    return one_line(error)


@contextmanager
def _noticing_the_parents_death() -> Iterator[None]:
    """Ask this process to stop when the sweep that made it is gone."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(BEAT):
            if stopping.is_orphan():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    if stopping.in_child():
        threading.Thread(target=watch, name="parent", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
