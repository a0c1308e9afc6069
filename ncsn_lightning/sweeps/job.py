"""The life of one job in the process that trains it: taken, gone on with, and never left without a last word."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config.messages import FULL, log_files, one_line
from ..core import signals
from ..core.lease import BEAT, STALE, Lease, LeaseLost, batch, holder, take
from ..runs.failure import write_summary_on_failure
from ..runs.summary import read_summary
from . import children
from .folder import read_plan

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
    with signals.listening():
        try:
            if children.parent_stops(folder.parent):
                raise signals.Stopped
            result = _run(compose, overrides, folder)
            signals.check()
            return result
        except LeaseLost:
            log.warning("%s: this process slept for too long, and another one has taken the job over", folder)
            return ELSEWHERE
        except signals.Stopped as stop:
            if children.is_orphan():
                os._exit(1)  # nobody is left to take a result
            if signals.in_child():  # where it would end the others', unsaved
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
        with _in_one_line(folder), write_summary_on_failure(folder, overrides, lease):
            return _train(compose(), overrides, lease)


def _train(config: dict[str, Any], overrides: list[str], lease: Lease | None) -> float:
    from tqdm import tqdm  # type: ignore[import-untyped]

    from ..runs import lifecycle
    from ..training.callbacks.lease import LeaseGuard

    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves to be complained of
    begun = (Path(config["paths"]["folder"]) / "config.yaml").exists()
    guards = [LeaseGuard(lease)] if lease else []
    return lifecycle.go_on(config, overrides=overrides, begun=begun, in_sweep=True, callbacks=guards)


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
def _in_one_line(folder: Path) -> Iterator[None]:
    """Whatever ends the job, as the sweep is told of it."""
    for name in ("summary.json", RETRY):
        (folder / name).unlink(missing_ok=True)
    try:
        yield
    except (LeaseLost, SystemExit):  # submitit has requeued this job
        raise
    except BaseException as error:
        if isinstance(error, signals.Stopped) or read_summary(folder).get("status") == "preempted":
            signals.note(signal.SIGTERM)
            signals.check()
        reason = _reason(error, folder)
        if batch():  # whose log nobody else writes
            log.error("%s", reason)
        raise JobFailed(reason) from error


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
            if children.is_orphan():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    if signals.in_child():
        threading.Thread(target=watch, name="parent", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
