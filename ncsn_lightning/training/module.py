"""The LightningModule: a noise-conditional score network, its loss, its average and its optimiser."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ..core.validation import Count, Fraction, Index, strict
from ..models.scores import Score, ScoreModel
from ..objectives.regression_targets import squared_error
from ..objectives.weightings import SigmaPower, Weighting
from .average_and_rate import Decay, ExponentialAverage, LearningRate, OptimizerFactory
from .data import Batch, StreamingDataModule
from .flat_adam import FlatAdam

NO_END = "total_steps=None: the learning rate decays to an end that this training has not; give it, or decay='constant'"


@runtime_checkable
class HasScore(Protocol):
    """A LightningModule that samplers, metrics and pictures can use.

    Attributes:
        score: a callable `(x, sigma) -> [*batch, 2]`, in 1 / data units; not necessarily an `nn.Module`.
    """

    @property
    def score(self) -> Score:
        """The score as it is measured and sampled with."""


class NCSN(L.LightningModule):
    r"""A noise-conditional score network, fitted by $\mathrm E[\lambda(\sigma)\,\|s_\theta - target\|^2]$.

    Source: Generative Modeling by Estimating Gradients of the Data Distribution, Song & Ermon, 2019, eq. 6.

    Args:
        score: the parametrised network.
        weighting: λ(σ); σ² by default.
        optimizer: makes the optimiser from parameter groups; by default Adam with a rate of .005.
        ema_decay: d of the average that validation, sampling and `load_run` use; 0 for none.
        warmup_steps, decay, total_steps: the learning rate's factor, see `LearningRate`; `total_steps=None` stands for
            the steps that the trainer is to make.
    """

    loss_sum: Tensor
    loss_count: Tensor

    @strict
    def __init__(
        self,
        *,
        score: ScoreModel,
        weighting: Weighting | None = None,
        optimizer: OptimizerFactory = partial(FlatAdam, lr=5e-3, fused=True),  # noqa: B008  (a function that makes one)
        ema_decay: Fraction = 0.999,
        warmup_steps: Index = 100,
        decay: Decay = "cosine",
        total_steps: Count | None = None,
    ) -> None:
        super().__init__()
        self.model = score
        self.weighting = weighting or SigmaPower()
        self.average = ExponentialAverage(score, decay=ema_decay)
        self.optimizer = optimizer
        self.warmup_steps, self.decay, self.total_steps = warmup_steps, decay, total_steps
        self.register_buffer("loss_sum", torch.zeros(()))
        self.register_buffer("loss_count", torch.zeros(()))

    @property
    def score(self) -> ScoreModel:
        """The averaged score."""
        return self.average.model

    def loss(self, score: Score, batch: Batch) -> Float[Tensor, "groups points"]:
        """λ(σ)·e + penalty(σ) of every row, where e is the squared error of the score."""
        error = squared_error(score(batch.x_noisy, batch.sigma), batch.target)
        return self.weighting(batch.sigma) * error + self.weighting.penalty(batch.sigma)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The mean loss of the network on a batch, which also goes into the mean that is logged."""
        if not isinstance(batch, Batch):
            name = type(batch).__name__
            raise TypeError(f"{type(self).__name__} takes a Batch(x_noisy, sigma, target); the data gave it a {name}")
        loss = self.loss(self.model, batch).mean()
        self.loss_sum.add_(loss.detach())
        self.loss_count.add_(1)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the mean loss of the averaged network on the validation batch."""
        self.log("loss/validation", self.loss(self.score, batch).mean())

    def configure_optimizers(self) -> Any:
        """Make the optimiser and its learning rate, and have the average follow its steps.

        The weights are its first group; those of a learned weighting are its second, without weight decay.
        """
        groups: list[dict[str, object]] = [{"params": [p for p in self.model.parameters() if p.requires_grad]}]
        if learned := list(self.weighting.parameters()):
            groups.append({"params": learned, "weight_decay": 0.0})
        optimizer = self.optimizer(groups)
        self.average.follow(self.model, optimizer, lambda: self.global_step)
        steps = self.total_steps or planned_steps(self.trainer)
        if steps is None and self.decay != "constant":
            raise ValueError(NO_END)
        rate = LambdaLR(optimizer, LearningRate(self.warmup_steps, steps or 1, self.decay))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step", "name": "lr"}}

    def on_train_start(self) -> None:
        """Count the step that a training begins at as logged: nothing is logged there a second time."""
        self.logged_at = self.global_step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the mean loss since its last value, wherever Lightning logs."""
        step, period = self.global_step, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if period and step % period == 0 and step != self.logged_at and self.loss_count:
            self.log("loss/train", self.loss_sum / self.loss_count, prog_bar=True)
            self.loss_sum.zero_()
            self.loss_count.zero_()
            self.logged_at = step

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *arguments: Any, **named: Any) -> Any:
        """Lightning's own method, which makes a module with a checkpoint's weights; the file is read as data alone.

        Raises:
            ValueError: an argument of the constructor is missing or unknown, or does not fit the weights.
        """
        try:
            return super().load_from_checkpoint(checkpoint_path, *arguments, **{"weights_only": True, **named})
        except (TypeError, ValidationError, RuntimeError) as error:
            wrong = error.errors() if isinstance(error, ValidationError) else []
            lines = [f"{each['loc'][-1]}: {each['msg']}" for each in wrong] or str(error).strip().splitlines()[-1:]
            raise ValueError(
                f"{checkpoint_path}: {'; '.join(lines).strip()}; give what the module was made with, "
                f"{cls.__name__}.load_from_checkpoint(path, score=…), or use load_run for a run of ncsn-train"
            ) from error


def planned_steps(trainer: L.Trainer) -> int | None:
    """How many optimiser steps a trainer is to make; None where its options do not say."""
    data, epochs = getattr(trainer, "datamodule", None), trainer.max_epochs
    planned = trainer.estimated_stepping_batches
    steps = [int(planned)] if 0 <= planned < math.inf else []
    if isinstance(data, StreamingDataModule) and epochs is not None and epochs >= 0:
        steps.append(epochs * data.steps_per_epoch)
    return min(steps, default=None)
