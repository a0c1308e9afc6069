"""Being asked to stop: a signal sets a flag and nothing else; whoever is where nothing is half done looks at it.

SIGTERM says that the process must go. SIGUSR1 and SIGUSR2 are a scheduler's warning, some time before that: whoever
stops then is to be started again. Imports nothing slow.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
SIGNALS = (signal.SIGTERM, *WARNINGS)
"""What is listened to; where several have come, the last of these counts."""

Handler = Callable[[int, FrameType | None], Any] | int | None


class Preempted(Exception):  # noqa: N818  (it names the status of a run)
    """A training was asked to stop, and has left a checkpoint from which it goes on."""


class _Listener:
    """The flag of this process: `came` holds the signals, `before` the handlers that ours replaced."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.came: set[int] = set()
        self.before: dict[int, Handler] = {}

    def install(self) -> bool:
        """Listen from now on; whether that is new."""
        if self.pid == os.getpid() or threading.current_thread() is not threading.main_thread():
            return False
        self.pid, self.came = os.getpid(), set()
        for signum in SIGNALS:
            replaced = signal.signal(signum, self._note)
            if replaced != self._note:  # as it is where a listening process was forked
                self.before[signum] = replaced
        return True

    def remove(self) -> None:
        """Give the signals back to whoever had them."""
        for signum, handler in self.before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self.pid, self.before = None, {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() == self.pid:  # a forked worker inherits the handler; it is none of its business
            self.came.add(signum)
            for rank in multiprocessing.active_children():
                if rank.pid is not None:
                    os.kill(rank.pid, signum)


_listener = _Listener()


def listen() -> None:
    """Set the flag instead of dying, from now to the end of the process."""
    _listener.install()


@contextmanager
def listening() -> Iterator[None]:
    """Set the flag instead of dying; inside another such context (or outside the main thread) nothing changes.

    At the end of the outermost, a `Preempted` that follows a warning has the process started again (`_requeue`), and a
    SIGTERM that came too late to be answered with one is raised again, for whoever listened before.
    """
    outermost, answered = _listener.install(), False
    try:
        yield
    except Preempted:
        answered = True
        if outermost and asked() in WARNINGS:
            _requeue()
        raise
    finally:
        if outermost:
            _listener.remove()
            if signal.SIGTERM in _listener.came and not answered:
                os.kill(os.getpid(), signal.SIGTERM)


def asked() -> signal.Signals | None:
    """The signal by which this process was asked to stop, if it was."""
    return next((signum for signum in reversed(SIGNALS) if signum in _listener.came), None)


def note(signum: signal.Signals) -> None:
    """Count as asked by `signum`, as another rank was."""
    _listener.came.add(signum)


def is_first_rank() -> bool:
    """Whether this is the first process of a training, as far as torchrun, Lightning or Slurm have said."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _requeue() -> None:
    """Have this process started again: by whoever listened to the warning before, else by Slurm, where this is its job.

    Submitit is such a listener: it requeues its job and exits.
    """
    handlers = [handler for signum in WARNINGS if callable(handler := _listener.before.get(signum))]
    if handlers:
        handlers[-1](WARNINGS[-1], None)
    elif "SLURM_JOB_ID" in os.environ and is_first_rank():
        _requeue_in_slurm()
    if not is_first_rank():
        sys.exit(0)  # quietly: a rank that fails may take the first one with it before that has requeued


def _requeue_in_slurm() -> None:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")  # by its own number, the last task of an array would stand for all
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        log.warning("Slurm does not requeue job %s: %s", job, " ".join((done.stderr + done.stdout).split()))
    else:
        log.info("Slurm starts this again as job %s", job)
