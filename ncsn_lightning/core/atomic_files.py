"""Write the files of a run whole or not at all. Imports nothing slow."""

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
"""Called before anything is written to a run's folder; each raises where this process may no longer write there."""

TRIES = 5
"""How often an operation is tried whose file handle the file server does not know any more (ESTALE)."""


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Have a file written under a temporary name beside it, and rename it to `path` once it is whole and on disk.

    A process that is killed meanwhile leaves the old file as it was. After an exception the temporary file is removed.

    Raises:
        LeaseLost: another process has taken over the run that the file belongs to.
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
        retried(lambda: _sync(path.parent))  # otherwise the new name may be lost when the machine dies
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def demand_right() -> None:
    """Raise LeaseLost where another process has taken over what this one is about to write."""
    for fence in FENCES:
        fence()


def retried(action: Callable[[], Result]) -> Result:
    """Do an operation on a file, up to `TRIES` times where the file server does not know its handle any more."""
    for attempt in range(TRIES):
        try:
            return action()
        except OSError as error:
            if error.errno != errno.ESTALE or attempt == TRIES - 1:
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError


def remove_parts(folder: Path) -> None:
    """Remove the half-written files that a killed process has left in a run's folder."""
    for path in folder.rglob(".*.part.*"):
        path.unlink()


def shown(path: Path | str) -> str:
    """A path as messages show it: relative to the working folder where it lies there, absolute elsewhere."""
    whole, here = Path(path).absolute(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
