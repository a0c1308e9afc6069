"""What keeps a training from being lost: `last.ckpt` by the clock, and when the process is asked to stop."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.optim.lr_scheduler import LambdaLR

from ...core.signals import SIGNALS, Preempted, asked, be_patient, listening, note
from ...core.validation import Positive, strict
from ..block_callback import BlockCallback
from ..internals import before_the_batch, set_rates

log = logging.getLogger(__name__)

SHARE = 0.01
"""Of a training's time that saving may take at most."""


class LastCheckpoint(Checkpoint, BlockCallback):
    """Save `checkpoints/last.ckpt` every minute or so, and once a rank was asked to stop, which ends with `Preempted`.

    The first rank's clock decides for all, and so does the signal of any. It happens between two optimiser steps,
    before the next batch, when all of the last one has been logged; not between the parts of a step where gradients are
    accumulated, because a checkpoint holds no gradients. What ends an epoch is saved after its validation, so that a
    resumed run neither skips nor repeats one. A checkpoint callback is called after all others, the last of them last.

    Args:
        folder: the run's folder.
        first: seconds from the start of the training to the first checkpoint.
        every: seconds from one to the next; more where saving would take over a hundredth of the time.
    """

    @strict
    def __init__(self, *, folder: str, first: Positive = 5.0, every: Positive = 60.0) -> None:
        self.path = Path(folder) / "checkpoints" / "last.ckpt"
        self.first, self.every = first, every
        self.listening = ExitStack()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.listening.enter_context(listening())  # a rank may be a process of its own, which no command has told to

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.listening.close()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.due = time.monotonic() + self.first
        _follow_schedules(trainer)
        be_patient(True)

    def on_train_batch_start(self, trainer: Any, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx and batch_idx % trainer.accumulate_grad_batches == 0:
            with before_the_batch(trainer):
                self._look(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._look(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        be_patient(False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        be_patient(True)  # the summary is still to be written
        self.listening.close()

    def _look(self, trainer: Any) -> None:
        """Save where it is due or asked for, and stop where it is asked for."""
        mine = asked()
        wanted = [SIGNALS.index(mine) + 1 if mine else 0, int(trainer.is_global_zero and time.monotonic() >= self.due)]
        if trainer.world_size > 1:
            highest = torch.tensor(wanted, device=trainer.strategy.root_device)
            wanted = trainer.strategy.reduce(highest, reduce_op="max").tolist()
        signal, due = wanted
        if signal or due:
            self._save(trainer)
        if signal:
            note(SIGNALS[signal - 1])
            name, folder = SIGNALS[signal - 1].name, self.path.parents[1]
            raise Preempted(f"preempted by {name} at step {trainer.global_step}; go on with resume={folder}")

    def _save(self, trainer: L.Trainer) -> None:
        began = time.monotonic()
        trainer.save_checkpoint(self.path)
        now = time.monotonic()
        self.due = now + max(self.every, (now - began) / SHARE)


def _follow_schedules(trainer: Any) -> None:
    """Set every rate that is a function of the step alone: a checkpoint has that of the length which it was to have."""
    for scheduler in [config.scheduler for config in trainer.lr_scheduler_configs]:
        if type(scheduler) is LambdaLR:
            set_rates(scheduler)
