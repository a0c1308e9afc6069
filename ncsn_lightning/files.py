"""How every file of a run is written: whole or not at all. Imports nothing slow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Write a file under a temporary name beside it; it takes the name `path` only once it is whole and on disk.

    A process killed inside leaves the old file as it was. The temporary file of an exception is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what a killed process had half written below a run's folder."""
    for path in folder.rglob(".*.part.*"):
        path.unlink()


def shown(path: Path | str) -> str:
    """A path as it is said to the user: from the working folder on where it lies in it, whole where it does not."""
    whole, here = Path(path).absolute(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
