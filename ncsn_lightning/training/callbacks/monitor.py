"""The norm of the gradient and the speed of a training, as it goes."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from torch.nn.utils import get_total_norm

from ..block_callback import BlockCallback


class TrainingMonitor(BlockCallback):
    """Log `gradient_norm` and `steps_per_second` wherever Lightning logs; the fast loop still runs.

    The norm is that of the gradient of all parameters in the last optimiser step, after clipping where there is any:
    this gradient stays in `p.grad` until the next step. A compiled step (`compile=true`) leaves no gradient there, and
    no `gradient_norm` is logged.

    Steps per second are those since the last value, of the training alone: validation, sampling, drawing and saving do
    not count.
    """

    def __init__(self) -> None:
        self.steps, self.last = 0, 0
        self.seconds, self.started = 0.0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin counting at the step that the training starts from."""
        self.last = trainer.global_step
        self.steps, self.seconds = 0, 0.0

    def on_train_batch_start(self, *_: object) -> None:
        """Start the clock of a step, or of a block of steps."""
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: L.LightningModule, *_: object) -> None:
        """Stop the clock, and log both values where Lightning logs."""
        self.seconds += time.perf_counter() - self.started
        self.steps, self.last = self.steps + trainer.global_step - self.last, trainer.global_step
        period = trainer.log_every_n_steps
        if not (self.steps and period) or trainer.global_step % period:
            return
        values: dict[str, Any] = {"steps_per_second": self.steps / self.seconds}
        if gradients := [p.grad for p in pl_module.parameters() if p.grad is not None]:
            values["gradient_norm"] = get_total_norm(gradients)
        pl_module.log_dict(values)
        self.steps, self.seconds = 0, 0.0
