"""One job in the process that trains it: the job is taken, begun or resumed, and always left with a summary."""

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
"""The result of a job that another process trains, or that has ended since the sweep began."""

RETRY = "retry"
"""A file in the folder of a job that did not finish and is to be tried again. Until then its old summary is kept."""

TAG = 64
"""The largest number of characters in a tag of W&B."""

GROUP = 100
"""The largest number of characters of a sweep's name in the name of its W&B group, which may have 128."""


class JobFailed(RuntimeError):  # noqa: N818  (it names the status of a job)
    """A job failed, diverged or was preempted; the message is the one line that says why."""


def run(compose: Callable[[], dict[str, Any]], *, overrides: list[str], folder: Path) -> float | str:
    """Train one job to its end, from where it was left, and return its score error.

    Every task of a job of Slurm calls this function: the first task takes the lease, the others follow it.

    Args:
        compose: makes the plain configuration, which takes time and is done only if the job is trained here.
        overrides: of the job, for its summary.
        folder: of the job, named by the hash of the configuration.

    Returns:
        The score error, or `ELSEWHERE` if another process trains the job or has ended it.

    Raises:
        JobFailed: the job did not finish, or this is a child process and the sweep is stopped.
        Stopped: the sweep is stopped.
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
                os._exit(1)  # no process is left to take a result
            if signals.in_child():  # joblib would kill the other children, unsaved, if this one ended by `Stopped`
                raise JobFailed("stopped") from stop
            raise


def with_names(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A job's configuration with its names for loggers: its group is the sweep, its name and tags the swept overrides.

    Args:
        config: the plain configuration.
        folder: of the job, inside that of its sweep.
    """
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
    """Whether a job's summary says that it finished, or that it failed or diverged and is not to be tried again."""
    status = read_summary(folder).get("status")
    return status == "finished" or (status in ("failed", "diverged") and not (folder / RETRY).exists())


def _quieten() -> None:
    """Show only warnings on the console, where the sweep's own view is; the job's log file has every line."""
    for handler in set(logging.getLogger().handlers) - set(log_files()):
        handler.setLevel(logging.WARNING)


def _run(compose: Callable[[], dict[str, Any]], overrides: list[str], folder: Path) -> float | str:
    if int(os.environ.get("SLURM_PROCID", "0")):
        return _train(compose(), overrides, None) if _first_task_trains(folder) else ELSEWHERE
    lease = take(folder)
    if lease is None:
        return ELSEWHERE
    with lease, _stopping_when_orphaned():
        if has_ended(folder):  # another process may have ended it before this one had the lease
            return ELSEWHERE
        with _failing_in_one_line(folder), write_summary_on_failure(folder, overrides, lease):
            return _train(compose(), overrides, lease)


def _train(config: dict[str, Any], overrides: list[str], lease: Lease | None) -> float:
    from tqdm import tqdm  # type: ignore[import-untyped]

    from ..runs import lifecycle
    from ..training.callbacks.lease import LeaseGuard

    tqdm.set_lock(threading.RLock())  # the default lock is a semaphore, which a killed process would leak
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
def _failing_in_one_line(folder: Path) -> Iterator[None]:
    """Remove the job's old summary, and turn what ends the job into a JobFailed, or into Stopped if it was stopped."""
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
        if batch():  # a job of Slurm has its own log, into which the sweep writes nothing
            log.error("%s", reason)
        raise JobFailed(reason) from error


def _reason(error: BaseException, folder: Path) -> str:
    """One line on why a job failed."""
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{folder}: {error.strerror}; make room, then run the sweep again"
    return one_line(error)


@contextmanager
def _stopping_when_orphaned() -> Iterator[None]:
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
