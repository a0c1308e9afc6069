"""A training that is asked to stop saves itself first, on all ranks at the same step."""

from __future__ import annotations

import signal
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from ..arguments import strict
from ..preemption import SIGNALS, Preempted, asked, listen, note

__all__ = ["Preempted", "PreemptionCheckpoint", "SignalsLeftAlone"]


class SignalsLeftAlone(_SignalConnector):
    """In place of Lightning's own handlers, which save, broadcast and requeue from wherever a signal finds them."""

    def register_signal_handlers(self) -> None:
        """Register none."""


class PreemptionCheckpoint(Checkpoint):
    """Once a rank was asked to stop: at the end of the block, save `checkpoints/last.ckpt` and raise `Preempted`.

    The block that ends an epoch is saved after its validation, so that a resumed run neither skips nor repeats one. A
    checkpoint callback is called after all others, and the last of several last: nothing of the step is still to come.

    Args:
        folder: the run's folder.
    """

    @strict
    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        listen()  # a rank may be a process of its own, which no command has told to

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if not trainer.is_last_batch:
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        signum = _agreed(trainer)
        if signum is not None:
            note(signum)
            trainer.save_checkpoint(self.folder / "checkpoints" / "last.ckpt")
            raise Preempted(
                f"preempted by {signum.name} at step {trainer.global_step}; go on with resume={self.folder}"
            )


def _agreed(trainer: L.Trainer) -> signal.Signals | None:
    """The signal that counts over all ranks, whichever of them it reached."""
    mine = asked()
    place = SIGNALS.index(mine) if mine else -1
    if trainer.world_size > 1:
        highest = torch.tensor(place, device=trainer.strategy.root_device)
        place = int(trainer.strategy.reduce(highest, reduce_op="max"))
    return SIGNALS[place] if place >= 0 else None
