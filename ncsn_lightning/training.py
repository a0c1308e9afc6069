"""The arithmetic of an optimiser step, without Lightning: loss, average of the weights, learning rate."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .objectives import squared_error
from .scores import Score, ScoreModel
from .weightings import Weighting

OptimizerFactory = Callable[[Iterable[dict[str, object]]], torch.optim.Optimizer]
Decay = Literal["constant", "cosine"]


class WeightedLoss(nn.Module):
    r"""λ(σ)·e + penalty(σ) of every row, where e is the squared error of the score."""

    def __init__(self, weighting: Weighting) -> None:
        super().__init__()
        self.weighting = weighting

    def forward(
        self,
        score: Score,
        x_noisy: Float[Tensor, "*batch 2"],
        sigma: Float[Tensor, "*#batch"],
        target: Float[Tensor, "*batch 2"],
    ) -> Float[Tensor, "*batch"]:
        error = squared_error(score(x_noisy, sigma), target)
        return self.weighting(sigma) * error + self.weighting.penalty(sigma)


@dataclass(frozen=True)
class LearningRate:
    """The learning rate's factor, a pure function of the step: linear warm-up, then constant or half a cosine."""

    warmup_steps: int
    total_steps: int
    decay: Decay

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.decay == "constant":
            return 1.0
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class ExponentialAverage(nn.Module):
    r"""The average of a model's weights, $\bar\theta \leftarrow \bar\theta + (1 - d_t)(\theta - \bar\theta)$.

    $d_t = \min(d, (1 + t)/(10 + t))$ forgets the initial weights early on; d = 0 keeps the weights themselves.
    """

    def __init__(self, model: ScoreModel, *, decay: float) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    def weight(self, step: int) -> float:
        """1 − d_t, the share of the new weights after `step` earlier updates."""
        return 1 - min(self.decay, (1 + step) / (10 + step)) if self.decay else 1.0


@dataclass(frozen=True)
class Trainee:
    """All that a step needs and changes besides the batch.

    Attributes:
        model: the score under training; its parameters are the optimiser's first group.
        loss: of every row.
        average: of the model's weights.
        optimizer: its groups know their `initial_lr`.
        rate: the learning rate's factor.
    """

    model: ScoreModel
    loss: WeightedLoss
    average: ExponentialAverage
    optimizer: torch.optim.Optimizer
    rate: LearningRate


class Step(ABC):
    """One optimiser step on one batch: gradient of the mean loss, update of the weights, their average.

    Made when training starts, once everything is on its device, for it holds the tensors themselves.
    """

    @abstractmethod
    def __call__(self, step: int, *batch: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Take a step after `step` earlier ones, on the fields of a batch as the loss takes them.

        Returns:
            the mean loss, before the step.
        """


class EagerStep(Step):
    """The step as PyTorch runs it, of any optimiser.

    Args:
        trainee: what is trained.
        backward: fills the gradients; Lightning's own where ranks share them.
    """

    def __init__(self, trainee: Trainee, *, backward: Callable[[Float[Tensor, ""]], object] = Tensor.backward) -> None:
        self.trainee, self.backward = trainee, backward
        self.weights = [p.detach() for p in trainee.model.parameters()]
        self.averages = [p.detach() for p in trainee.average.model.parameters()]
        self.trained = [p for group in trainee.optimizer.param_groups for p in group["params"]]

    def __call__(self, step: int, *batch: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        trainee = self.trainee
        loss = trainee.loss(trainee.model, *batch).mean()
        self.backward(loss)
        for group in trainee.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * trainee.rate(step)
        trainee.optimizer.step()
        for parameter in self.trained:  # what `zero_grad` does, without its 40 µs of bookkeeping
            parameter.grad = None
        torch._foreach_lerp_(self.averages, self.weights, weight=trainee.average.weight(step))
        return loss.detach()
