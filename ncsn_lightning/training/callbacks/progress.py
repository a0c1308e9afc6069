"""Lightning's progress bar, counting optimiser steps of the whole run."""

from __future__ import annotations

import logging
import sys
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from ..block_callback import BlockCallback
from ..module import planned_steps

log = logging.getLogger(__name__)


def shows_bar(trainer: L.Trainer) -> bool:
    """Whether this process draws a progress bar on a terminal."""
    bar = trainer.progress_bar_callback
    return isinstance(bar, StepProgressBar) and bar.is_enabled and trainer.is_global_zero


class StepProgressBar(TQDMProgressBar, BlockCallback):
    """One bar over all optimiser steps on a terminal; elsewhere a line of the log at every validation."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 0, leave=True)

    def init_validation_tqdm(self) -> Tqdm:
        """Draw no bar for a validation."""
        return Tqdm(disable=True)

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Draw the bar from the step that the training starts from to its last one."""
        super().on_train_start()
        self.steps = planned_steps(trainer)
        self.train_progress_bar.reset(total=self.steps)
        self.train_progress_bar.initial = trainer.global_step

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin no new bar: this one spans all epochs."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Move the bar to the step that was taken last."""
        self._show(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show what was logged at the end of the epoch."""
        self._show(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log a line with the step, the loss and the score error where there is no bar."""
        super().on_validation_end(trainer, pl_module)
        if self.is_disabled and trainer.is_global_zero:
            metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k in ("loss/train", "score_error")}
            text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            log.info("step %d%s  %s", trainer.global_step, f" of {self.steps}" if self.steps else "", text)

    def _show(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.is_enabled:
            self.train_progress_bar.n = trainer.global_step
            metrics = self.get_metrics(trainer, pl_module)
            self.train_progress_bar.set_postfix({k: v for k, v in metrics.items() if k != "v_num"})
