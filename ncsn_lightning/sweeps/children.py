"""Jobs that train in child processes of a sweep (joblib): how they are stopped with it, and notice when it is gone.

A sweep that is asked to stop sends SIGTERM to the children that train, leaves a file in its folder for those that are
between two jobs, and waits until all have saved themselves. A SIGTERM to one child alone stops the job that it trains,
and no other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ..core import signals
from ..core.lease import holder
from .folder import Job


class Children:
    """The child processes of a sweep, as seen by the process that made them.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self._notice = _notice(folder, os.getpid())
        self._asked: set[int] = set()

    def __enter__(self) -> Self:
        self._notice.unlink(missing_ok=True)  # left by an earlier process of the same number
        return self

    def __exit__(self, *_: object) -> None:
        self._notice.unlink(missing_ok=True)

    def pass_on_stop(self, jobs: Sequence[Job]) -> None:
        """If this process was asked to stop, ask its children too; once none of them trains, end the waiting.

        Args:
            jobs: of the sweep, as they are at this moment.
        """
        if not signals.asked():
            return
        self._notice.touch()
        holders = [holder(job.folder) for job in jobs if job.state == "running"]
        children = [one for one in holders if one and one.is_here() and one.parent == os.getpid()]
        for child in children:
            if child.pid not in self._asked:
                self._asked.add(child.pid)
                os.kill(child.pid, signal.SIGTERM)
        if not children:
            signals.wake()


def is_orphan() -> bool:
    """Whether the process that made this one is gone."""
    parent: Any = multiprocessing.parent_process()
    return parent is not None and os.getppid() != parent.pid


def parent_stops(folder: Path) -> bool:
    """Whether the process that made this one has left the notice that it stops in the sweep's folder."""
    parent: Any = multiprocessing.parent_process()
    return parent is not None and _notice(folder, parent.pid).exists()


def _notice(folder: Path, pid: int) -> Path:
    """The file by which a process says that it stops its sweep; children look for it before every job."""
    return folder / f".stopping-{pid}"
