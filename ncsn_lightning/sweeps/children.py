"""Jobs that train in child processes of a sweep's (joblib): told that it stops, and watching whether it lives.

The sweep asks those that train by SIGTERM, leaves word in its folder for those that are between two jobs, and waits
until all have saved. A SIGTERM to one of them alone stops the job that it trains, and no other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core import signals
from ..core.lease import Holder

_told: set[int] = set()


def is_orphan() -> bool:
    """Whether the process that made this one is gone."""
    parent: Any = multiprocessing.parent_process()
    return parent is not None and os.getppid() != parent.pid


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
    if not children:
        signals.wake()
