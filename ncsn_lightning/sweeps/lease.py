"""Who trains a job: one process at a time, on any file system, and no longer than it lives.

A job's folder has a folder `lease/` of numbered files, `1.json`, `2.json`, …: whoever made the last one has the job.

- **Taking** a job is making the next number, with `O_EXCL`: of any number of processes exactly one succeeds, on NFS
  too, where `flock` cannot be relied on. Numbers are never removed, so a process that has slept since it looked finds
  its number taken, whatever happened meanwhile.
- **Keeping** it is touching one's own number every few seconds, from a thread. Nobody else ever writes to it.
- **Losing** it is being dead: a process of this machine that is gone, or a number untouched for `STALE` seconds by the
  file system's own clock, which is the same for all machines. Whoever sees this may make the next number; a loser that
  was only asleep finds that at its next beat, and stops.
- **Letting it go** is giving one's own number the time 0.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

log = logging.getLogger(__name__)

BEAT = 3.0
"""Seconds between two signs of life."""

STALE = 30.0
"""Seconds without one, after which a process counts as dead."""


@dataclass(frozen=True)
class Holder:
    """Who made a number.

    Attributes:
        number: of the lease.
        beat: unix time of the last sign of life; 0 once the job was let go.
        host, pid, parent: the process and its parent.
        pids: the space in which these numbers mean something; containers of one host may have several.
        batch: the job of a batch system that it is part of, "" for none.
    """

    number: int
    beat: float
    host: str = ""
    pid: int = 0
    parent: int = 0
    pids: str = ""
    batch: str = ""

    def lives(self, places: Path) -> bool:
        """Whether it still trains, by the clock of the file system on which its lease lies."""
        if not self.beat or (self.is_here() and not _alive(self.pid)):
            return False
        return _clock(places) - self.beat < STALE

    def is_here(self) -> bool:
        """Whether its process number can be asked for on this machine."""
        return (self.host, self.pids) == (socket.gethostname(), _pids())


class Lease:
    """The right to train one job, as long as the `with` block lasts; see `take`.

    Attributes:
        successor: a file that exists once another process has taken the job over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.successor = _path(path.parent, int(path.stem) + 1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def is_lost(self) -> bool:
        """Whether another process took the job, because this one showed no sign of life for too long."""
        return self.successor.exists()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._touch((0, 0))

    def _beat(self) -> None:
        while not self._ended.wait(BEAT) and not self.is_lost():
            self._touch(None)

    def _touch(self, times: tuple[float, float] | None) -> None:
        try:
            os.utime(self.path, times)
        except OSError as error:  # of a file server that is away, perhaps only for now
            log.warning("%s: no sign of life (%s)", self.path, error.strerror)


def take(folder: Path) -> Lease | None:
    """Take the job in `folder`; None where another process has it."""
    places = folder / "lease"
    places.mkdir(parents=True, exist_ok=True)
    while True:
        last = holder(folder)
        if last and last.lives(places):
            return None
        path = _path(places, last.number + 1 if last else 1)
        try:
            with open(path, "x") as file:
                json.dump(_myself(), file)
        except FileExistsError:  # someone was quicker
            continue
        return Lease(path)


def holder(folder: Path) -> Holder | None:
    """Who took the job in `folder` last; None where nobody ever did."""
    found, places = None, folder / "lease"
    while following := _read(_path(places, found.number + 1 if found else 1)):
        found = following
    return found


def batch() -> str:
    """What names this job of Slurm, and which of its starts; "" outside."""
    return "-".join(filter(None, map(os.environ.get, ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))))


def _path(places: Path, number: int) -> Path:
    return places / f"{number}.json"


def _read(path: Path) -> Holder | None:
    """The maker of a number; one who was killed while writing has neither host nor process."""
    try:
        with open(path) as file:  # opening asks an NFS server, where a bare stat may answer from a cache
            beat, text = os.fstat(file.fileno()).st_mtime, file.read()
    except FileNotFoundError:
        return None
    try:
        return Holder(int(path.stem), beat, **json.loads(text))
    except (ValueError, TypeError):
        return Holder(int(path.stem), beat)


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "pids": _pids(),
        "batch": batch(),
    }


def _pids() -> str:
    try:  # the first space of a machine has the same number on every other
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _clock(places: Path) -> float:
    """The time by the clock that the leases are stamped with; this machine's where one may not write."""
    path = places / ".clock"
    try:
        path.touch()
        return path.stat().st_mtime
    except OSError:
        return time.time()
