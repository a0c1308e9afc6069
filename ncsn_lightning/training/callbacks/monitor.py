"""How the training goes: the norm of its gradient and its speed."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from torch.nn.utils import get_total_norm

from ..block_callback import BlockCallback


class TrainingMonitor(BlockCallback):
    """Log `gradient_norm` and `steps_per_second`, wherever Lightning logs, and keep the fast loop.

    The gradient is the one along which the last optimiser step before the logged value was taken, of all parameters,
    after clipping where there is any: it lies in `p.grad` until the next step. A compiled step (`compile=true`) keeps
    its gradients to itself; then there is no `gradient_norm`.

    Steps per second are those of the training alone since the last value; validation, sampling, drawing and saving do
    not count.
    """

    def __init__(self) -> None:
        self.steps, self.last = 0, 0
        self.seconds, self.started = 0.0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last = trainer.global_step
        self.steps, self.seconds = 0, 0.0

    def on_train_batch_start(self, *_: object) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: L.LightningModule, *_: object) -> None:
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
