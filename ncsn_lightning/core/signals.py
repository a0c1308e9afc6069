"""Being asked to stop by a signal: where nothing is half done a process stops at once, else it answers between steps.

SIGINT (Ctrl-C), SIGTERM and SIGHUP say that the process must go. SIGUSR1 and SIGUSR2 are a scheduler's warning, some
time before that: whoever stops then is to be started again. Outside a training the first three raise `Stopped` where
they find the process; a training, and a sweep whose jobs train in child processes, is patient: the handler sets a
flag, and the training looks at it between two blocks of steps. A person does not wait: patience ends `PATIENCE` seconds
after Ctrl-C, the process itself `LIMIT` seconds after it or with the second one. Imports nothing slow.
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
"""What is listened to; where several have come, the last of these counts."""

PATIENCE, LIMIT = 6.0, 9.0
"""Seconds after Ctrl-C."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

Handler = Callable[[int, FrameType | None], Any] | int | None


class Preempted(Exception):  # noqa: N818  (it names the status of a run)
    """A training was asked to stop, and has left a checkpoint from which it goes on."""


class Stopped(BaseException):
    """Someone asked this process to stop while it did what can be done again."""


class _Listener:
    """What this process was asked.

    Attributes:
        pid: of the process that listens.
        came: the signals.
        before: the handlers that ours replaced.
        patient: whether signals are only noted.
        stopping: whether one has raised `Stopped`, which a further one must not disturb.
        remedy: how to go on, said where the process ends at once.
    """

    def __init__(self) -> None:
        self.pid: int | None = None
        self.came: set[int] = set()
        self.before: dict[int, Handler] = {}
        self.patient = self.stopping = self.late = False
        self.remedy = ""

    def install(self) -> bool:
        """Listen from now on; whether that is new."""
        if self.pid == os.getpid() or threading.current_thread() is not threading.main_thread():
            return False
        self.pid, self.came = os.getpid(), set()
        self.patient = self.stopping = self.late = False
        for signum in SIGNALS:
            if signum in ENDS[:2] and signal.getsignal(signum) == signal.SIG_IGN:
                continue  # nohup, or a background job of a script
            told = in_child() and signum == signal.SIGINT  # by its parent, though a terminal's Ctrl-C reaches it too
            replaced = signal.signal(signum, signal.SIG_IGN if told else self._note)
            if replaced != self._note:  # as it is where a listening process was forked
                self.before[signum] = replaced
        return True

    def remove(self) -> None:
        """Give the signals back to whoever had them; between two jobs of a child, a signal stops nothing."""
        if signal.SIGINT in self.came:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.pid, self.patient, self.remedy = None, False, ""
        if not in_child():
            for signum, handler in self.before.items():
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)
            self.before = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self.pid:  # a forked worker inherits the handler; it is none of its business
            return
        if signum == signal.SIGINT:
            if signum in self.came:
                self._end()
            self._say("stopping: what is trained is saved first; Ctrl-C again ends at once")
            self.before.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, self._hurry))
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, LIMIT - PATIENCE)
        self.came.add(signum)
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGTERM if signum == signal.SIGINT else signum)
        if signum in ENDS and not self.patient:
            self._stop()

    def _hurry(self, signum: int, frame: FrameType | None) -> None:
        """Patience is over, or the time that a person waits at all."""
        if self.late:
            self._end()
        self.late = True
        self._stop()

    def _stop(self) -> None:
        if not self.stopping:
            self.stopping = True
            raise Stopped

    def _end(self) -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            self._say("\x1b[?25h\r", end="")  # the cursor, which a live view hides
        self._say(f"ended at once; {self.remedy}" if self.remedy else "ended at once")
        os._exit(INTERRUPTED)

    def _say(self, line: str, *, end: str = "\n") -> None:
        if is_first_rank():
            with suppress(OSError):  # nobody may be looking
                os.write(2, f"\n{line}{end}".encode())


_listener = _Listener()


@contextmanager
def listening() -> Iterator[None]:
    """Answer signals as this module does; inside another such context (or outside the main thread) nothing changes."""
    outermost = _listener.install()
    try:
        yield
    finally:
        if outermost:
            _listener.remove()


@contextmanager
def training(*, patient: bool) -> Iterator[None]:
    """Have the process started again where a `Preempted` follows a warning.

    Args:
        patient: whether signals are only noted from the start, as where other processes train, or train with this one.
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
    """Only note signals from now on, or no longer: one that came meanwhile then raises `Stopped`."""
    _listener.patient = patient
    if not patient and _listener.came & {*ENDS}:
        _listener._stop()


@contextmanager
def patience() -> Iterator[None]:
    """Only note signals, for the training goes on in other processes; until `wake`."""
    _listener.patient = True
    try:
        yield
    finally:
        _listener.patient = False


def wake() -> None:
    """End the main thread's `patience`, from another thread, because nothing is left to wait for."""
    if _listener.patient:
        _listener.patient = False
        os.kill(os.getpid(), signal.SIGTERM)


def abandons(action: Callable[[], None]) -> bool:
    """Do in a training what can be done again, unless the process is asked to stop; whether it was."""
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
    """Raise `Stopped` where this process was asked to go."""
    if _listener.came & {*ENDS}:
        _listener.stopping = True
        raise Stopped


def has_stopped() -> bool:
    """Whether `Stopped` was raised; an extension that was being imported, say, may have made another error of it."""
    return _listener.pid == os.getpid() and _listener.stopping


def asked() -> signal.Signals | None:
    """The signal by which this process was asked to stop, if it was."""
    return next((signum for signum in reversed(SIGNALS) if signum in _listener.came), None)


def note(signum: signal.Signals) -> None:
    """Count as asked by `signum`, as another process was that works with this one."""
    _listener.came.add(signum)


def exit_code() -> int:
    """Of a process that was stopped."""
    return INTERRUPTED if signal.SIGINT in _listener.came else 1


def remember(text: str) -> None:
    """How one goes on, to be said where this process ends at once."""
    _listener.remedy = text


def remedy() -> str:
    """What was said last to `remember`."""
    return _listener.remedy


def in_child() -> bool:
    """Whether this process was made by another one of the same command, as joblib's and spawned ranks are."""
    return multiprocessing.parent_process() is not None


def is_first_rank() -> bool:
    """Whether this is the first process of a training, as far as torchrun, Lightning or Slurm have said."""
    return not later_ranks()


def later_ranks() -> list[str]:
    """What the environment says that makes this another process than the first, `RANK=1` for example."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")
    return [f"{name}={os.environ[name]}" for name in names if os.environ.get(name, "0") != "0"]


def started_by_others() -> list[str]:
    """What says that torchrun or srun began this as the first of several processes, each of which runs the command."""
    counts = [count for rank, count in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")) if rank in os.environ]
    return [f"{count}={os.environ[count]}" for count in counts if os.environ.get(count, "1") != "1"]


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
