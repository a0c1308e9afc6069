"""Stop on a signal: at once where nothing is half done, between two optimiser steps in a training.

SIGINT (Ctrl-C), SIGTERM and SIGHUP say that the process must end. SIGUSR1 and SIGUSR2 are a scheduler's warning some
time before that; a process that stops after a warning is to be started again.

Outside a training the first three raise `Stopped` wherever they find the process. A training, and a sweep whose jobs
train in child processes, is patient: the handler only sets a flag, and the training looks at it between two blocks of
steps. A person does not wait long: patience ends `PATIENCE` seconds after Ctrl-C, and the process itself ends `LIMIT`
seconds after it, or at the second Ctrl-C. Imports nothing slow.
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
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

ENDS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
SIGNALS = (*ENDS, *WARNINGS)
"""The signals that a process listens to; of several that it has received, the last one in this order counts."""

PATIENCE, LIMIT = 6.0, 9.0
"""Seconds after Ctrl-C."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

Handler = Callable[[int, FrameType | None], Any] | int | None


class Preempted(Exception):  # noqa: N818  (it names the status of a run)
    """A training was asked to stop, and has saved a checkpoint from which it can go on."""


class Stopped(BaseException):
    """This process was asked to stop while it did something that can be done again."""


class _Listener:
    """The signals of this process: their handlers, and which ones it has received.

    Attributes:
        pid: the process that listens, None for none.
        received: the signals received since `install`.
        before: the handlers that ours have replaced.
        patient: whether signals are only noted.
        stopping: whether one has raised `Stopped`; a further one must not raise it again.
        late: whether patience has ended after Ctrl-C.
        remedy: how to go on; it is printed where the process ends at once.
    """

    def __init__(self) -> None:
        self.pid: int | None = None
        self.received: set[int] = set()
        self.before: dict[int, Handler] = {}
        self.patient = self.stopping = self.late = False
        self.remedy = ""

    def install(self) -> bool:
        """Listen from now on; returns False where this process listens already, or this is not its main thread."""
        if self.pid == os.getpid() or threading.current_thread() is not threading.main_thread():
            return False
        self.pid, self.received = os.getpid(), set()
        self.patient = self.stopping = self.late = False
        for signum in SIGNALS:
            if signum in ENDS[:2] and signal.getsignal(signum) == signal.SIG_IGN:
                continue  # this runs under nohup, or is a background job of a script
            ignored = in_child() and signum == signal.SIGINT  # a terminal's Ctrl-C reaches children; the parent answers
            replaced = signal.signal(signum, signal.SIG_IGN if ignored else self._receive)
            if replaced != self._receive:  # a process forked from a listening one has this handler already
                self.before[signum] = replaced
        return True

    def remove(self) -> None:
        """Put the earlier handlers back, except in a child process, which no signal stops between two of its jobs."""
        if signal.SIGINT in self.received:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.pid, self.patient, self.remedy = None, False, ""
        if not in_child():
            for signum, handler in self.before.items():
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)
            self.before = {}

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        """The handler: note the signal, pass it on to child processes, and raise `Stopped` unless patient."""
        if os.getpid() != self.pid:  # a forked worker inherits the handler, but its parent answers
            return
        if signum == signal.SIGINT:
            if signum in self.received:
                self._end()
            self._say("stopping: what is trained is saved first; Ctrl-C again ends at once")
            self.before.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, self._hurry))
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, LIMIT - PATIENCE)
        self.received.add(signum)
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGTERM if signum == signal.SIGINT else signum)
        if signum in ENDS and not self.patient:
            self._stop()

    def _hurry(self, signum: int, frame: FrameType | None) -> None:
        """The alarm's handler after Ctrl-C: the first time end the patience, the second time the process."""
        if self.late:
            self._end()
        self.late = True
        self._stop()

    def _stop(self) -> None:
        """Raise `Stopped`, once."""
        if not self.stopping:
            self.stopping = True
            raise Stopped

    def _end(self) -> None:
        """End the process here and now."""
        if sys.stderr is not None and sys.stderr.isatty():
            self._say("\x1b[?25h\r", end="")  # show the cursor, which a live view hides
        self._say(f"ended at once; {self.remedy}" if self.remedy else "ended at once")
        os._exit(INTERRUPTED)

    def _say(self, line: str, *, end: str = "\n") -> None:
        if is_first_rank():
            with suppress(OSError):  # the terminal may be gone
                os.write(2, f"\n{line}{end}".encode())


_listener = _Listener()


@contextmanager
def listening() -> Iterator[None]:
    """Answer signals as this module does; has no effect inside another such context or outside the main thread."""
    outermost = _listener.install()
    try:
        yield
    finally:
        if outermost:
            _listener.remove()


@contextmanager
def training(*, patient: bool) -> Iterator[None]:
    """Enclose a training; where it ends with `Preempted` after a warning, have the process started again.

    Args:
        patient: whether signals are only noted from the start on, because other processes train, or train with it.
    """
    _listener.patient = patient
    try:
        yield
    except Preempted:
        if asked() in WARNINGS:
            _requeue()
        raise
    finally:
        _listener.patient = False


def be_patient(patient: bool) -> None:
    """Only note signals from now on, or no longer; one that was noted meanwhile then raises `Stopped`."""
    _listener.patient = patient
    if not patient and _listener.received & {*ENDS}:
        _listener._stop()


@contextmanager
def patience() -> Iterator[None]:
    """Only note signals, because other processes train; until the block ends or another thread calls `wake`."""
    _listener.patient = True
    try:
        yield
    finally:
        _listener.patient = False


def wake() -> None:
    """End the main thread's `patience` from another thread, because there is nothing left to wait for."""
    if _listener.patient:
        _listener.patient = False
        os.kill(os.getpid(), signal.SIGTERM)


def abandons(action: Callable[[], None]) -> bool:
    """Do something in a training that can be done again, and break off where the process is asked to stop.

    Returns:
        Whether it was broken off.

    Raises:
        Stopped: the process was asked to stop, and there is no training whose checkpoint is still to be saved, or no
            time for it.
    """
    patient, _listener.patient = _listener.patient, False
    try:
        check()
        action()
    except (Stopped, Exception):
        if _listener.late or not patient or not _listener.stopping:
            raise
        _listener.stopping = False
        return True
    finally:
        _listener.patient = patient
    return False


def check() -> None:
    """Raise `Stopped` where this process was asked to end."""
    if _listener.received & {*ENDS}:
        _listener.stopping = True
        raise Stopped


def has_stopped() -> bool:
    """Whether `Stopped` was raised; an extension that was being imported, say, may have made another error of it."""
    return _listener.pid == os.getpid() and _listener.stopping


def asked() -> signal.Signals | None:
    """The signal by which this process was asked to stop, None where it was not."""
    return next((signum for signum in reversed(SIGNALS) if signum in _listener.received), None)


def note(signum: signal.Signals) -> None:
    """Count `signum` as received, because a process that works with this one has received it."""
    _listener.received.add(signum)


def exit_code() -> int:
    """The exit code of a process that was stopped: 130 after Ctrl-C, 1 after other signals."""
    return INTERRUPTED if signal.SIGINT in _listener.received else 1


def remember(text: str) -> None:
    """Keep the text that says how to go on; it is printed where this process ends at once."""
    _listener.remedy = text


def remedy() -> str:
    """The text that was given to `remember` last."""
    return _listener.remedy


def in_child() -> bool:
    """Whether another process of the same command has made this one, such as a worker of joblib or a spawned rank."""
    return multiprocessing.parent_process() is not None


def is_first_rank() -> bool:
    """Whether this is the first process of a training, by the environment that torchrun, Lightning or Slurm set."""
    return not later_ranks()


def later_ranks() -> list[str]:
    """The environment variables that make this another process than the first one, for example `RANK=1`."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")
    return [f"{name}={os.environ[name]}" for name in names if os.environ.get(name, "0") != "0"]


def started_by_others() -> list[str]:
    """The variables by which torchrun or srun say that several processes run this command; empty for one process."""
    counts = [count for rank, count in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")) if rank in os.environ]
    return [f"{count}={os.environ[count]}" for count in counts if os.environ.get(count, "1") != "1"]


def _requeue() -> None:
    """Have this process started again: by the handler that the warning had before ours, else by Slurm in a job of its.

    Submitit has such a handler: it requeues its job and exits.
    """
    handlers = [handler for signum in WARNINGS if callable(handler := _listener.before.get(signum))]
    if handlers:
        handlers[-1](WARNINGS[-1], None)
    elif "SLURM_JOB_ID" in os.environ and is_first_rank():
        _requeue_in_slurm()
    if not is_first_rank():
        sys.exit(0)  # without an error, which might end the first rank before it has requeued the job


def _requeue_in_slurm() -> None:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")  # in an array, the job's own number may stand for all of its tasks
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        log.warning("Slurm does not requeue job %s: %s", job, " ".join((done.stderr + done.stdout).split()))
    else:
        log.info("Slurm starts this again as job %s", job)
