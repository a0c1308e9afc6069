"""Who trains a job: one process at a time, on any file system, and no longer than it lives.

A job's folder has a folder `lease/` of numbered files, `1.json`, `2.json`, …; the owner is whoever made the last one.

- **Taking** the job is making the next number, by a hard link of a file that is already whole: of any number of
  processes exactly one succeeds, on NFS as well, where neither `flock` nor `O_APPEND` can be relied on.
- **Keeping** it is rewriting one's own number every few seconds, from a thread. Nobody ever writes another's number, and
  no number is ever removed, so that the last one cannot be mistaken.
- **Losing** it is being dead: a process of this host that is gone, or a beat that is older than `STALE` seconds by the
  clock of the file system, the same for all hosts. Whoever sees that makes the next number; a loser that was only asleep
  finds it there at its next beat, and stops.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEAT = 3.0
"""Seconds between two signs of life."""

STALE = 30.0
"""Seconds without one, after which a process counts as dead."""


@dataclass(frozen=True)
class Holder:
    """What the last number says.

    Attributes:
        number: of the lease.
        host, pid: of the process.
        token: names this one taking, by chance.
        beat: unix time of the last sign of life; 0 once the job was let go.
    """

    number: int
    host: str
    pid: int
    token: str
    beat: float

    def lives(self, now: float | None = None) -> bool:
        """Whether the job is being trained, by the clock `now` (default: this host's)."""
        if self.host == socket.gethostname() and not _alive(self.pid):
            return False
        return (time.time() if now is None else now) - self.beat < STALE


def holder(folder: Path) -> Holder | None:
    """Who took the job in `folder` last; None where nobody ever did."""
    number, found = 1, None
    while record := _read(folder / "lease" / f"{number}.json"):
        found = Holder(number=number, **record)
        number += 1
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text())
        return {key: record[key] for key in ("host", "pid", "token", "beat")}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
