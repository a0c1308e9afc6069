"""Who trains a run: one process at a time, on any file system, and no longer than it lives.

A run's folder has a folder `lease/` of numbered files, `1.json`, `2.json`, …: whoever made the last one has the run.

- **Taking** it is making the next number, with `O_EXCL`: of any number of processes exactly one succeeds, on NFS too,
  where `flock` cannot be relied on. Numbers are never removed, so a process that has slept since it looked finds its
  number taken, whatever happened meanwhile.
- **Keeping** it is touching one's own number every few seconds, from a thread. Nobody else ever changes it.
- **Losing** it is being dead: a process of this machine that is gone, or a number untouched for `STALE` seconds by the
  file system's clock, and untouched for `WATCH` more while somebody watches it by a clock that does not jump.
- **Doubting** it comes first: a holder that did not touch its number for `DOUBT` seconds, because it slept or the
  server was away, counts itself as lost, and writes nothing, until it has made the next number itself, if nobody else
  has. No cache of look-ups answers that question.
- **Letting it go** is giving one's own number the time 0.

`filelock.SoftFileLock` has neither the numbers nor the doubt: a holder that slept would write beside its successor.
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
"""Seconds between two signs of life."""

DOUBT = 10.0
"""Seconds without one, after which a process counts itself as lost until it has asked."""

WATCH = 15.0
"""Seconds for which a silent number is watched before it is taken from a process that may live; more than `DOUBT`."""

STALE = 30.0
"""Seconds without a sign of life, after which a process counts as dead."""


class LeaseLost(RuntimeError):  # noqa: N818  (it names what happened)
    """Another process has taken the run over, and has the last word about it."""


@dataclass(frozen=True)
class Holder:
    """Who made a number.

    Attributes:
        number: of the lease.
        beat: unix time of the last sign of life; 0 once the run was let go.
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
        return not self.is_gone() and _clock(places) - self.beat < STALE

    def is_gone(self) -> bool:
        """Whether it has let the run go, or is a process of this machine that has ended."""
        return not self.beat or (self.is_here() and not _alive(self.pid))

    def is_here(self) -> bool:
        """Whether its process number can be asked for on this machine."""
        return (self.host, self.pids) == (socket.gethostname(), _pids())


class Lease:
    """The right to train one run, as long as the `with` block lasts; see `take`.

    Inside the block no file of this process takes its name (`files.replacing`) while the lease is lost.
    """

    def __init__(self, path: Path, began: float) -> None:
        self.path, self.beat = path, began
        self._lost, self._lock = False, threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def is_lost(self) -> bool:
        """Whether another process has the run; a holder in doubt asks by making the next number.

        Raises:
            OSError: it is in doubt, and the server does not answer.
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
        """Wait until it is known whether this process has the run, and raise LeaseLost where it has not."""
        while True:
            try:
                if self.is_lost():
                    raise LeaseLost("this process slept for too long, and another one has taken the run over")
                return
            except OSError as error:
                log.warning("%s: not known whose this run is (%s)", self.path, error.strerror)
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
        while not self._ended.wait(BEAT) and self.give_sign():
            pass

    def give_sign(self) -> bool:
        """Touch the number, unless it is lost; whether there will be another time."""
        with self._lock:
            began = _now()  # before the touch, which may take as long as the server likes
            try:
                if not self.is_lost() and _touch(self.path, None):
                    self.beat = began
            except OSError as error:
                log.warning("%s: no sign of life (%s)", self.path, error.strerror)
            return not self._lost


def take(folder: Path, *, waiting: Callable[[Holder], None] = lambda holder: None) -> Lease | None:
    """Take the run in `folder`; None where another process has it.

    Args:
        folder: of the run.
        waiting: told of a holder that has been silent for `STALE` seconds and is watched for `WATCH` more.
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
        if not _read(path):  # someone was quicker, and a cache still says that nobody was
            _renew(path)


def holder(folder: Path) -> Holder | None:
    """Who took the run in `folder` last; None where nobody ever did."""
    found, places = None, folder / "lease"
    while following := _read(_path(places, found.number + 1 if found else 1)):
        found = following
    return found


def batch() -> str:
    """What names this job of Slurm, and which of its starts; "" outside."""
    return "-".join(filter(None, map(os.environ.get, ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))))


def _stays_silent(last: Holder, places: Path, waiting: Callable[[Holder], None]) -> bool:
    """Whether a holder gives no sign of life while this process watches, by attributes that the server gives anew."""
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
    """The time of a number's last sign of life, after a change of nothing, whose answer renews what is cached."""
    try:
        os.chmod(path, os.stat(path).st_mode & 0o7777)
    except PermissionError:  # another user's: opening it must do
        with open(path) as file:
            return os.fstat(file.fileno()).st_mtime_ns
    return os.stat(path).st_mtime_ns


def follows(path: Path) -> bool:
    """Whether the next number is there, as far as a cache knows."""
    return _path(path.parent, int(path.stem) + 1).exists()


def _path(places: Path, number: int) -> Path:
    return places / f"{number}.json"


def _make(path: Path) -> bool:
    """Make a number; False where it is there."""
    try:
        with open(path, "x") as file:
            json.dump(_myself(), file)
    except FileExistsError:
        return False
    return True


def _renew(path: Path) -> None:
    """Look a number up that is there, past what a cache says: only an opening that may create asks the server."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT))


def _touch(path: Path, times: tuple[float, float] | None) -> bool:
    try:
        os.utime(path, times)
    except OSError as error:  # of a file server that is away, perhaps only for now
        log.warning("%s: no sign of life (%s)", path, error.strerror)
        return False
    return True


def _read(path: Path) -> Holder | None:
    """The maker of a number; one who was killed while writing has neither host nor process."""
    try:
        beat, text = retried(lambda: _beat_and_text(path))
    except FileNotFoundError:
        return None
    try:
        return Holder(int(path.stem), beat, **json.loads(text))
    except (ValueError, TypeError):
        return Holder(int(path.stem), beat)


def _beat_and_text(path: Path) -> tuple[float, str]:
    with open(path) as file:  # opening asks an NFS server, where a bare stat may answer from a cache
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


def _now() -> float:
    """Seconds of a clock that never jumps, and goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _clock(places: Path) -> float:
    """The time by the clock that the leases are stamped with; this machine's where one may not write."""
    path = places / ".clock"
    try:
        path.touch()
        return path.stat().st_mtime
    except OSError:
        return time.time()
