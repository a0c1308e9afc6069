"""Write checkpoints whole, find them again, and read them as data alone."""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from ..core.atomic_files import replacing
from ..distributions.base import Distribution


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are whole or absent, and loads them as data, never as code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint under another name; it takes its own once it is whole.

        Raises:
            OSError: the file cannot be written, most likely because the disk is full.
        """
        with replacing(path) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:  # torch raises this where a file cannot be written
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint as data; the paths in one of a run are those of the folder where it lies now."""
        path = Path(path)
        content = _load(path, map_location=map_location)
        return relocated(content, path.parents[1]) if path.parent.name == "checkpoints" else content


def relocated(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A checkpoint in whose callbacks' states all paths of the run's folder lie in `folder`, where it was moved.

    Otherwise a ModelCheckpoint would forget which checkpoint was best, because its folder is not the one in its state.
    """
    before = os.path.realpath(content.get("config", {}).get("paths", {}).get("folder", folder))

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {moved(key): moved(inner) for key, inner in value.items()}
        if isinstance(value, str) and value.startswith(before + os.sep):
            return os.path.realpath(folder) + value[len(before) :]
        return value

    states = {name: moved(state) for name, state in content.get("callbacks", {}).items()}
    return {**content, "callbacks": states}


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Load a checkpoint of this program as plain data.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, holds more than data, or comes from another program.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a run's folder or one of its checkpoints/*.ckpt")
    checkpoint = _load(path, map_location="cpu")
    parts = {"config": dict, "state_dict": dict, "global_step": int}
    if isinstance(checkpoint, dict) and "config" not in checkpoint and "state_dict" in checkpoint:
        raise ValueError(
            f"{path}: holds weights and no configuration, as training in plain Python leaves it; use "
            "NCSN.load_from_checkpoint(path, score=…)"
        )
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(k), kind) for k, kind in parts.items()):
        raise ValueError(f"{path}: not written by ncsn-lightning; use one that this program wrote")
    return checkpoint


def check_frame(content: dict[str, Any], target: Distribution) -> None:
    """Raise ValueError where an earlier version has trained a checkpoint's weights on data that were not centred."""
    if not content.get("centred") and target.centred() is not target:
        raise ValueError(
            "trained by an earlier version, on data that were not centred, which this one would misread; train it again"
        )


def _load(path: Path, *, map_location: Any) -> Any:
    """The data in a file; a file that holds anything else is refused."""
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            said = "it holds more than data and is not loaded; use one that this program wrote"
        else:
            said = "truncated or no checkpoint; use another one of the run"
        raise ValueError(f"{path}: {said}") from error


class Checkpoint(NamedTuple):
    """A whole checkpoint: its path and its content."""

    path: Path
    content: dict[str, Any]

    @property
    def progress(self) -> tuple[int, float]:
        """The step, then the time of writing, which orders two checkpoints of the same step."""
        return self.content["global_step"], self.path.stat().st_mtime


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The furthest whole checkpoint in a run's `checkpoints/`, and a message about each one that cannot be read."""
    torn, found = [], []
    for path in sorted((folder / "checkpoints").glob("[!.]*.ckpt")):
        try:
            found.append(Checkpoint(path, read_checkpoint(path)))
        except ValueError as error:
            torn.append(str(error))
    return max(found, key=lambda checkpoint: checkpoint.progress, default=None), torn
