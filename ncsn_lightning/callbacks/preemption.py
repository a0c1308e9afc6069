"""A training that is asked to stop saves itself first, on all ranks at the same step."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from ..arguments import strict
from ..internals import end_batch
from ..loops import BlockCallback
from ..preemption import SIGNALS, Preempted, asked, listen, note

__all__ = ["Preempted", "PreemptionCheckpoint"]


class PreemptionCheckpoint(Checkpoint, BlockCallback):
    """Once a rank was asked to stop: at the end of the block, save `checkpoints/last.ckpt` and raise `Preempted`.

    Where gradients are accumulated it waits for the optimiser's step, because a checkpoint holds no gradients. The
    block that ends an epoch is saved after its validation, so that a resumed run neither skips nor repeats one. A
    checkpoint callback is called after all others, and the last of several last: nothing of the step is still to come.

    Args:
        folder: the run's folder.
    """

    @strict
    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        listen()  # a rank may be a process of its own, which no command has told to

    def on_train_batch_end(self, trainer: Any, pl_module: L.LightningModule, *batch: Any) -> None:
        stepped = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and not trainer.is_last_batch and (signum := _agreed(trainer)) is not None:
            end_batch(trainer, *batch)
            self._stop(trainer, signum)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if (signum := _agreed(trainer)) is not None:
            self._stop(trainer, signum)

    def _stop(self, trainer: L.Trainer, signum: signal.Signals) -> None:
        note(signum)
        trainer.save_checkpoint(self.folder / "checkpoints" / "last.ckpt")
        raise Preempted(f"preempted by {signum.name} at step {trainer.global_step}; go on with resume={self.folder}")


def _agreed(trainer: L.Trainer) -> signal.Signals | None:
    """The signal that counts over all ranks, whichever of them it reached."""
    mine = asked()
    place = SIGNALS.index(mine) if mine else -1
    if trainer.world_size > 1:
        highest = torch.tensor(place, device=trainer.strategy.root_device)
        place = int(trainer.strategy.reduce(highest, reduce_op="max"))
    return SIGNALS[place] if place >= 0 else None
