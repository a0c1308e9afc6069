"""How checkpoints, and every other file of a run, are written whole, found again and read safely."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


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


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and are loaded as data, never as code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(path, map_location=map_location)


def read_checkpoint(path: Path | str, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint of this program as plain data.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is torn, holds more than data, or comes from another program.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint={path}: no such file; give a run's folder or one of its checkpoints/*.ckpt"
        )
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint={path}: it holds more than data and is not loaded; use one that this program wrote"
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise ValueError(f"checkpoint={path}: truncated or no checkpoint; use another one of the run") from error
    if not isinstance(checkpoint, dict) or not {"config", "state_dict", "global_step"} <= checkpoint.keys():
        raise ValueError(f"checkpoint={path}: not written by ncsn-lightning; use one that this program wrote")
    return checkpoint


def remove_parts(folder: Path) -> None:
    """Remove what a killed process had half written below a run's folder."""
    for path in folder.rglob(".*.part.*"):
        path.unlink()


def latest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The furthest whole checkpoint in a run's `checkpoints/`, and a line about each that was torn."""
    torn, found = [], []
    for path in sorted((folder / "checkpoints").glob("[!.]*.ckpt")):
        try:
            found.append((read_checkpoint(path)["global_step"], path.stat().st_mtime, path))
        except ValueError as error:
            torn.append(str(error))
    return (max(found)[-1] if found else None), torn
