"""The lease of a run: it lets one process at a time train the run, on any file system.

A run's folder has a folder `lease/` of numbered files, `1.json`, `2.json`, …; the process that made the last one, its
holder, has the run.

- **Take**: a process makes the file with the next number, with `O_EXCL`. Of any number of processes exactly one
  succeeds, on NFS too, where `flock` cannot be relied on. Files are never removed, so a process that has slept since it
  looked finds its number taken, whatever happened meanwhile.
- **Keep**: a thread of the holder touches its file every few seconds. No other process ever changes that file.
- **Lose**: others count the holder as dead when it is a process of this machine that has ended, or when its file was
  not touched for `STALE` seconds by the file system's clock, and then for `WATCH` seconds more while one of them
  watches it by a clock that does not jump.
- **Doubt** comes before that: a holder that could not touch its file for `DOUBT` seconds, because it slept or the file
  server was away, writes nothing until it has made the next file itself. It has lost the run if another process has
  made that file. The making asks the file server; a look-up might be answered by a cache.
- **Let go**: the holder gives its file the time 0.

`filelock.SoftFileLock` has neither numbers nor doubt: a holder that slept would write beside its successor.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .atomic_files import FENCES, retried

log = logging.getLogger(__name__)

BEAT = 3.0
"""Seconds from one touch of the holder's file to the next."""

DOUBT = 10.0
"""Seconds without a touch after which a holder must ask, by making the next file, whether it still has the run."""

WATCH = 15.0
"""Seconds for which a stale file is watched before the run is taken from its holder; more than `DOUBT`."""

STALE = 30.0
"""Seconds without a touch after which others count a holder as dead."""


class LeaseLost(RuntimeError):  # noqa: N818  (it names what happened)
    """Another process has taken the run over, and alone may write in its folder."""


@dataclass(frozen=True)
class Holder:
    """The process that made a file of the lease.

    Attributes:
        number: the file's number.
        beat: unix time of the last touch; 0 once the run was let go.
        host, pid, parent: the machine, the process and its parent.
        pids: the namespace of the process numbers; a host with containers has several.
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
        """Whether it has not ended, and has touched its file lately by the clock of the lease's file system."""
        return not self.is_gone() and _clock(places) - self.beat < STALE

    def is_gone(self) -> bool:
        """Whether it has let the run go, or is a process of this machine that has ended."""
        return not self.beat or (self.is_here() and not _alive(self.pid))

    def is_here(self) -> bool:
        """Whether its process number is one of this machine's."""
        return (self.host, self.pids) == (socket.gethostname(), _pids())


class Lease:
    """The right to train one run, as long as the `with` block lasts; `take` makes it.

    Inside the block `atomic_files.replacing` writes no file once the lease is lost.
    """

    def __init__(self, path: Path, began: float) -> None:
        self.path, self.beat = path, began
        self._lost, self._lock = False, threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def is_lost(self) -> bool:
        """Whether another process has the run; a holder in doubt finds out by making the next file.

        Raises:
            OSError: the holder is in doubt, and the file server does not answer.
        """
        with self._lock:
            self._lost = self._lost or follows(self.path)
            if not self._lost and _now() - self.beat > DOUBT:
                began, following = _now(), _path(self.path.parent, int(self.path.stem) + 1)
                self._lost = not _make(following)
                if not self._lost:
                    self.path, self.beat = following, began
            return self._lost

    def demand(self) -> None:
        """Wait until it is known whether this process still has the run; raise LeaseLost where another one has it."""
        while True:
            try:
                if self.is_lost():
                    raise LeaseLost("this process slept for too long, and another one has taken the run over")
                return
            except OSError as error:
                log.warning("%s: cannot find out which process has this run (%s)", self.path, error.strerror)
                time.sleep(1)

    def __enter__(self) -> Self:
        FENCES.append(self.demand)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        FENCES.remove(self.demand)
        if not self._lost:
            _touch(self.path, (0, 0))

    def _beat(self) -> None:
        """Touch the file until the block ends or the run is lost; the thread's function."""
        while not self._ended.wait(BEAT) and self.give_sign():
            pass

    def give_sign(self) -> bool:
        """Touch the file, unless the run is lost; returns whether this process still has the run."""
        with self._lock:
            began = _now()  # before the touch, because the file server may take any time for it
            try:
                if not self.is_lost() and _touch(self.path, None):
                    self.beat = began
            except OSError as error:
                log.warning("%s: no sign of life (%s)", self.path, error.strerror)
            return not self._lost


def take(folder: Path, *, waiting: Callable[[Holder], None] = lambda holder: None) -> Lease | None:
    """Take the run in `folder`; None where another process has it.

    Args:
        folder: the run's folder.
        waiting: called with a holder that has not touched its file for `STALE` seconds and is now watched for `WATCH`
            seconds.
    """
    places = folder / "lease"
    places.mkdir(parents=True, exist_ok=True)
    while True:
        last = holder(folder)
        if last and (last.lives(places) or not (last.is_gone() or _stays_silent(last, places, waiting))):
            return None
        path, began = _path(places, last.number + 1 if last else 1), _now()
        if _make(path):
            return Lease(path, began)
        if not _read(path):  # another process was quicker, but a cache says that there is no such file
            _refresh_cache(path)


def holder(folder: Path) -> Holder | None:
    """The process that took the run in `folder` last; None where none ever did."""
    found, places = None, folder / "lease"
    while following := _read(_path(places, found.number + 1 if found else 1)):
        found = following
    return found


def batch() -> str:
    """The name of this Slurm job, with the number of its restarts; "" outside of Slurm."""
    return "-".join(filter(None, map(os.environ.get, ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))))


def _stays_silent(last: Holder, places: Path, waiting: Callable[[Holder], None]) -> bool:
    """Whether a holder does not touch its file while this process watches for `WATCH` seconds, past any cache."""
    waiting(last)
    path, end = _path(places, last.number), _now() + WATCH
    before = _fresh_beat(path)
    while _now() < end:
        time.sleep(min(1.0, WATCH))
        if last.is_gone():
            return True
        if _fresh_beat(path) != before or follows(path):
            return False
    return True


def _fresh_beat(path: Path) -> int:
    """The time of a file's last touch, asked of the file server: a change, even to the same mode, renews the cache."""
    try:
        os.chmod(path, os.stat(path).st_mode & 0o7777)
    except PermissionError:  # it is another user's file; opening it has to do
        with open(path) as file:
            return os.fstat(file.fileno()).st_mtime_ns
    return os.stat(path).st_mtime_ns


def follows(path: Path) -> bool:
    """Whether the next file is there, as far as a cache knows."""
    return _path(path.parent, int(path.stem) + 1).exists()


def _path(places: Path, number: int) -> Path:
    return places / f"{number}.json"


def _make(path: Path) -> bool:
    """Make a file of the lease; False where it exists."""
    try:
        with open(path, "x") as file:
            json.dump(_myself(), file)
    except FileExistsError:
        return False
    return True


def _refresh_cache(path: Path) -> None:
    """Have a cache learn of a file that exists: only an opening that may create a file asks the server."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT))


def _touch(path: Path, times: tuple[float, float] | None) -> bool:
    try:
        os.utime(path, times)
    except OSError as error:  # the file server may be away, and come back
        log.warning("%s: no sign of life (%s)", path, error.strerror)
        return False
    return True


def _read(path: Path) -> Holder | None:
    """The maker of a file, None where there is no file; without host and process if it was killed while writing."""
    try:
        beat, text = retried(lambda: _beat_and_text(path))
    except FileNotFoundError:
        return None
    try:
        return Holder(int(path.stem), beat, **json.loads(text))
    except (ValueError, TypeError):
        return Holder(int(path.stem), beat)


def _beat_and_text(path: Path) -> tuple[float, str]:
    with open(path) as file:  # opening a file asks an NFS server; a bare stat may be answered by a cache
        return os.fstat(file.fileno()).st_mtime, file.read()


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "pids": _pids(),
        "batch": batch(),
    }


def _pids() -> str:
    """The namespace of process numbers: the machine's start too, because the first one has the same name everywhere."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # this is not Linux
        return ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's process
        return True
    return True


def _now() -> float:
    """Seconds by a clock that never jumps and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _clock(places: Path) -> float:
    """The time by the file system's clock, which stamps the files; by this machine's where it may not be written to."""
    path = places / ".clock"
    try:
        path.touch()
        return path.stat().st_mtime
    except OSError:
        return time.time()
