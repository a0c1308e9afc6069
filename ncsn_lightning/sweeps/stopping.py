"""How a sweep is stopped: SIGTERM or Ctrl-C saves what is being trained, and starts nothing more.

While a job trains, `ncsn_lightning.preemption` listens, and answers at the end of a block of steps. At any other time
nothing would be lost, and the handler here raises `Stopped` at once. Where the jobs train in child processes (joblib),
the sweep tells them, leaves word in its folder for those that are between two jobs, and waits until they have saved. A
SIGTERM to one of them alone stops the job that it trains, and no other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from .lease import Holder


class Stopped(BaseException):
    """Someone stops the sweep."""


class _Signals:
    """What this process was asked, and how it answers."""

    active = asked = patient = interrupted = False

    def terminate(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if not (self.patient or again):  # a second one must not disturb what the first one set off
            raise Stopped

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """The first Ctrl-C asks as SIGTERM does, whoever listens to that; a second one does not wait."""
        again, self.interrupted = self.interrupted, True
        if again:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGTERM)


_signals = _Signals()
_told: set[int] = set()


@contextmanager
def listening(*, patient: bool = False) -> Iterator[None]:
    """Answer signals inside the `with` block, of which there may be one inside the other.

    Args:
        patient: only note a signal, for the training goes on in other processes, which are told too.
    """
    if _signals.active:
        yield
        return
    _signals.active, _signals.patient, _signals.interrupted, _signals.asked = True, patient, False, False
    answers: dict[int, Any] = {
        signal.SIGTERM: _signals.terminate,
        signal.SIGINT: signal.SIG_IGN if in_child() else _signals.interrupt,  # a terminal's Ctrl-C reaches all
    }
    before = {number: signal.signal(number, answer) for number, answer in answers.items()}
    try:
        yield
    finally:
        _signals.active = False
        if in_child():
            _signals.patient = True  # between two jobs a signal stops nothing
        else:
            for number, answer in before.items():
                signal.signal(number, answer)


def asked() -> bool:
    """Whether someone asked this process to stop."""
    return _signals.asked


def check() -> None:
    """Raise `Stopped` if someone did."""
    if asked():
        raise Stopped


def in_child() -> bool:
    """Whether this process was made by another one of the same sweep, as joblib's are."""
    return multiprocessing.parent_process() is not None


def is_orphan() -> bool:
    """Whether the process that made this one is gone."""
    parent: Any = multiprocessing.parent_process()
    return parent is not None and os.getppid() != parent.pid


def note() -> None:
    """Count as asked, as somebody was who listened in this one's place."""
    _signals.asked = True


@contextmanager
def word_for_children(folder: Path) -> Iterator[Callable[[], None]]:
    """What leaves word in a sweep's folder that this process stops it, which its children read before every job."""
    word = _word(folder, os.getpid())
    word.unlink(missing_ok=True)  # of a process that had this number before
    try:
        yield word.touch
    finally:
        word.unlink(missing_ok=True)


def parent_stops(folder: Path) -> bool:
    """Whether the process that made this one has left word in the sweep's folder."""
    parent: Any = multiprocessing.parent_process()
    return parent is not None and _word(folder, parent.pid).exists()


def _word(folder: Path, pid: int) -> Path:
    return folder / f".stopping-{pid}"


def tell(holders: list[Holder]) -> None:
    """Ask those of these that are children of this process to stop; where none is left, this process need not wait."""
    children = [one for one in holders if one.is_here() and one.parent == os.getpid()]
    for child in children:
        if child.pid not in _told:
            _told.add(child.pid)
            os.kill(child.pid, signal.SIGTERM)
    if _signals.patient and not children:
        _signals.patient = _signals.asked = False
        os.kill(os.getpid(), signal.SIGTERM)
