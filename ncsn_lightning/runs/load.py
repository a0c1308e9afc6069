"""Load a trained run: `load_run(path)` rebuilds everything from a checkpoint alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ..config.build import MODEL_KINDS, MODEL_TRUSTED, Builder
from ..distributions.base import Distribution
from ..models.scores import Score, uncentred
from ..samplers.base import Sampler
from ..schedules import Schedule
from ..training.checkpoints import check_frame, latest_checkpoint, read_checkpoint
from ..training.module import HasScore

PARTS: dict[str, type] = {
    "distribution": Distribution,
    "schedule": Schedule,
    "sampler": Sampler,
    "module": L.LightningModule,
}


@dataclass(frozen=True)
class Run:
    """A trained run, rebuilt from a checkpoint.

    Attributes:
        config: the run's plain configuration.
        distribution: the target, in the data's own coordinates.
        schedule: the ladder.
        sampler: the run's sampler.
        module: the module as it was trained, on the target about its mean; in float32, without gradients and in
            evaluation mode.
        score: the module's score, in the data's own coordinates; NCSN's is that of the averaged weights.
        steps: how many optimiser steps were taken.
    """

    config: dict[str, Any]
    distribution: Distribution
    schedule: Schedule
    sampler: Sampler
    module: L.LightningModule
    score: Score
    steps: int

    def __repr__(self) -> str:
        """One line: target, score and network, how long they were trained, sampler and ladder."""
        score: Any = self.module.score  # about the mean of the target; `self.score` wraps it
        network = getattr(score, "network", None)
        names = [type(part).__name__ for part in (self.distribution, score, network) if part is not None]
        weights = sum(parameter.numel() for parameter in getattr(score, "parameters", tuple)())
        return (
            f"Run({' '.join(names)}, {weights} weights, {self.steps} steps, seed {self.config.get('seed')}; "
            f"{type(self.sampler).__name__} on {self.schedule})"
        )


def take_threads(threads: object) -> None:
    """Set how many threads of the CPU torch takes, for everything that this process does from here on.

    Raises:
        ValueError: `threads` is no whole number of at least 1.
    """
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ValueError(f"threads={threads!r}: give a whole number of at least 1")
    torch.set_num_threads(threads)


def load_run(path: Path | str, *, trust: tuple[str, ...] = (), threads: int | None = 1) -> Run:
    """Rebuild a run from its folder or from one of its checkpoints.

    A checkpoint is read as data, and may name classes only of this package and of packages that you trust.

    Args:
        path: a run's folder, whose furthest whole checkpoint is taken, or a checkpoint.
        trust: further packages whose targets, networks, modules, … the checkpoint may name.
        threads: how many threads torch takes from here on; more than one gain nothing for networks this small. None
            changes nothing.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the checkpoint is truncated, comes from another program, or names a class that it may not.
    """
    if threads is not None:
        take_threads(threads)
    checkpoint = _read(Path(path).expanduser())
    builder = Builder(
        checkpoint["config"], trust=(*MODEL_TRUSTED, *trust), kinds=MODEL_KINDS, given=checkpoint.get("files")
    )
    parts = {name: builder.build(name, kind) for name, kind in PARTS.items()}
    builder.attempt(f"run={path}: ", lambda: check_frame(checkpoint, builder.build("distribution")))
    builder.check()
    module = parts["module"]
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"run={path}: its weights do not fit its own configuration; use another checkpoint") from error
    module.requires_grad_(False).eval()
    assert isinstance(module, HasScore)
    score = uncentred(module.score, parts["distribution"])
    return Run(config=checkpoint["config"], steps=checkpoint["global_step"], score=score, **parts)


def _read(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, or the furthest whole one of the run there."""
    if (path / "sweep.json").is_file():
        raise FileNotFoundError(f"run={path}: a sweep; give the folder of one of its jobs")
    if path.is_dir():
        newest, torn = latest_checkpoint(path)
        if newest is None:
            raise FileNotFoundError("\n".join([f"run={path}: holds no whole checkpoint; give another run", *torn]))
        return newest.content
    try:
        return read_checkpoint(path)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"run={error}") from error
