"""Save `last.ckpt` by the clock, and when the process is asked to stop, so that little of a training can be lost."""

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

MAX_SHARE = 0.01
"""The largest share of a training's time that saving may take."""


class LastCheckpoint(Checkpoint, BlockCallback):
    """Save `checkpoints/last.ckpt` every minute or so, and when a rank is asked to stop; then raise `Preempted`.

    All ranks save together: when the first rank's clock says so, or when any rank has received a signal. They save
    between two optimiser steps, before the next batch, when everything about the last one has been logged; where
    gradients are accumulated not between the parts of a step, because a checkpoint holds no gradients. At the end of an
    epoch they save after its validation, so that a resumed run neither skips nor repeats it. Lightning calls checkpoint
    callbacks after all others, and this one must be the last of them.

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
        """Listen to signals: a rank may be a process of its own, in which no command does."""
        self.listening.enter_context(listening())

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen no longer."""
        self.listening.close()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, set the learning rates, and only note signals from here on: they are answered here."""
        self.due = time.monotonic() + self.first
        _follow_schedules(trainer)
        be_patient(True)

    def on_train_batch_start(self, trainer: Any, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Save or stop before a batch, unless gradients are being accumulated."""
        if batch_idx and batch_idx % trainer.accumulate_grad_batches == 0:
            with before_the_batch(trainer):
                self._save_or_stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save or stop after the validation that ends an epoch."""
        self._save_or_stop(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals stop the process at once again: what follows can be done again."""
        be_patient(False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Note further signals only, because the summary is still to be written."""
        be_patient(True)
        self.listening.close()

    def _save_or_stop(self, trainer: Any) -> None:
        """Save where a checkpoint is due or a rank was asked to stop; in the second case raise `Preempted`."""
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
        self.due = now + max(self.every, (now - began) / MAX_SHARE)


def _follow_schedules(trainer: Any) -> None:
    """Set each rate of a `LambdaLR` to its schedule's: one from a checkpoint may be of a training of another length."""
    for scheduler in [config.scheduler for config in trainer.lr_scheduler_configs]:
        if type(scheduler) is LambdaLR:
            set_rates(scheduler)
