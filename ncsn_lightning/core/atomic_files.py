"""How every file of a run is written: whole or not at all. Imports nothing slow."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

FENCES: list[Callable[[], None]] = []
"""Asked before anything is written to a run's folder; one raises where this process may write there no longer."""

TRIES = 5
"""How often an operation is begun whose file handle a server has forgotten (ESTALE)."""


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Write a file under a temporary name beside it; it takes the name `path` only once it is whole and on disk.

    A process killed inside leaves the old file as it was. The temporary file of an exception is removed.
    """
    path = Path(path)
    demand_right()
    retried(lambda: path.parent.mkdir(parents=True, exist_ok=True))
    temporary = path.with_name(f".{socket.gethostname()}-{os.getpid()}.part.{path.name}")
    try:
        yield temporary
        retried(lambda: _sync(temporary))
        demand_right()
        retried(lambda: os.replace(temporary, path))
        retried(lambda: _sync(path.parent))  # or the machine's death may take the new name away again
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def demand_right() -> None:
    """Raise where another process has taken over what this one is about to write."""
    for fence in FENCES:
        fence()


def retried(action: Callable[[], Result]) -> Result:
    """What an operation on a file returns, tried again where the server has forgotten the file's handle."""
    for attempt in range(TRIES):
        try:
            return action()
        except OSError as error:
            if error.errno != errno.ESTALE or attempt == TRIES - 1:
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError


def remove_parts(folder: Path) -> None:
    """Remove what a killed process had half written below a run's folder."""
    for path in folder.rglob(".*.part.*"):
        path.unlink()


def shown(path: Path | str) -> str:
    """A path as it is said to the user: from the working folder on where it lies in it, whole where it does not."""
    whole, here = Path(path).absolute(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)


def _sync(path: Path) -> None:
    """Put a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # a file system whose folders cannot be synced
            raise
    finally:
        os.close(descriptor)
