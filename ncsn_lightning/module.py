"""The LightningModule: a block of optimiser steps a call, everything else delegated."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from .adam import AdamStep, is_adam
from .arguments import Count, Fraction, Index, strict
from .compiled import CompiledStep
from .data import Block
from .loggers import MetricsCSV
from .scores import ScoreModel
from .training import (
    Decay,
    EagerStep,
    ExponentialAverage,
    LearningRate,
    OptimizerFactory,
    Step,
    Trainee,
    WeightedLoss,
)
from .weightings import Weighting


class NCSN(L.LightningModule):
    """A noise-conditional score network under training.

    One `training_step` takes a block of optimiser steps. `trainer.global_step`, the scheduler, the average and the
    loggers' x axis count optimiser steps all the same.

    Args:
        score: the parametrised network.
        weighting: λ(σ).
        optimizer: makes the optimiser from parameter groups.
        ema_decay: d of the average that validation, sampling and `load_run` use; 0 for none.
        warmup_steps, decay, total_steps: of the learning rate's factor, see `LearningRate`.
        compile: compile the whole step; pays after some 20 thousand steps.
        log_every_n_steps: optimiser steps whose mean loss makes one logged value.

    Attributes:
        config: the plain configuration of the run, kept in its checkpoints.
        files: contents of the files that it names, kept likewise, so that a checkpoint alone suffices.
        results: what the callbacks found at the end of the run, for its summary.
    """

    loss_sum: Tensor

    @strict
    def __init__(
        self,
        *,
        score: ScoreModel,
        weighting: Weighting,
        optimizer: OptimizerFactory,
        ema_decay: Fraction,
        warmup_steps: Index,
        decay: Decay,
        total_steps: Count,
        compile: bool,
        log_every_n_steps: Count,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = score
        self.loss = WeightedLoss(weighting)
        self.average = ExponentialAverage(score, decay=ema_decay)
        self.optimizer = optimizer
        self.rate = LearningRate(warmup_steps, total_steps, decay)
        self.compiles = compile
        self.log_every_n_steps = log_every_n_steps
        self.register_buffer("loss_sum", torch.zeros(()))
        self.config: dict[str, Any] = {}
        self.files: dict[str, Tensor] = {}
        self.results: dict[str, Any] = {}

    @property
    def score(self) -> ScoreModel:
        """The averaged score."""
        return self.average.model

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, object]] = [{"params": [p for p in self.model.parameters() if p.requires_grad]}]
        if learned := list(self.loss.weighting.parameters()):
            groups.append({"params": learned, "weight_decay": 0.0})
        optimizer = self.optimizer(groups)
        schedule = {"scheduler": LambdaLR(optimizer, self.rate), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_start(self) -> None:
        optimizer, scheduler = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert isinstance(scheduler, LambdaLR)
        self.scheduler = scheduler
        trainee = Trainee(self.model, self.loss, self.average, optimizer, self.rate)
        if self.compiles:
            self.step: Step = CompiledStep(trainee)
        else:
            backward = self.manual_backward if self.trainer.world_size > 1 else Tensor.backward
            self.step = (AdamStep if is_adam(type(optimizer)) else EagerStep)(trainee, backward=backward)

    def training_step(self, batch: Block, batch_idx: int) -> dict[str, Tensor]:
        losses = []
        for step, fields in enumerate(zip(*(field.unbind() for field in batch), strict=True), self.trainer.global_step):
            losses.append(self.step(step, *fields))
            self.loss_sum.add_(losses[-1])
        self._count(len(losses))
        if self.trainer.global_step % self.log_every_n_steps == 0:
            self._log_loss()
        return {"loss": torch.stack(losses).mean()}

    def _count(self, steps: int) -> None:
        """Tell the scheduler and `trainer.global_step` of optimiser steps that Lightning did not see."""
        self.scheduler.last_epoch += steps - 1  # its factor is a function of the step, which may jump
        self.scheduler.step()
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for counts in (progress.total, progress.current):
            counts.ready += steps
            counts.completed += steps

    def _log_loss(self) -> None:
        """Straight to the loggers, for Lightning would repeat the value at every block until the next."""
        loss = self.loss_sum / self.log_every_n_steps
        self.loss_sum.zero_()
        self.log("loss/train", loss, logger=False, prog_bar=True)
        for logger in self.loggers:
            logger.log_metrics({"loss/train": float(loss)}, self.trainer.global_step)

    @torch.no_grad()
    def validation_step(self, batch: Block, batch_idx: int) -> None:
        loss = self.loss(self.score, *(field[0] for field in batch)).mean()
        self.log_dict({"loss/validation": loss, "step": float(self.trainer.global_step)})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the configuration, and how far the metrics on disk go with this checkpoint."""
        checkpoint["config"], checkpoint["files"] = self.config, self.files
        for logger in self.loggers:
            logger.save()
        checkpoint["metrics_rows"] = sum(logger.rows for logger in self.loggers if isinstance(logger, MetricsCSV))
