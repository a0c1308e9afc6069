"""The arithmetic around an optimiser step, without Lightning: the average of the weights and the learning rate."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ..models.scores import ScoreModel
from .flat_adam import FlatParameter

OptimizerFactory = Callable[[Iterable[dict[str, object]]], torch.optim.Optimizer]
Decay = Literal["constant", "cosine"]


@dataclass(frozen=True)
class LearningRate:
    """The learning rate's factor, a pure function of the step: linear warm-up, then constant or half a cosine."""

    warmup_steps: int
    total_steps: int
    decay: Decay

    def __call__(self, step: int) -> float:
        """The factor of the rate with which the update after `step` earlier ones is made."""
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

    def share(self, step: int) -> float:
        """1 − d_t, the share of the new weights after `step` earlier updates."""
        return 1 - min(self.decay, (1 + step) / (10 + step)) if self.decay else 1.0

    def follow(self, model: ScoreModel, optimizer: torch.optim.Optimizer, step: Callable[[], int]) -> None:
        """Update the average after every step of an optimiser; in flat memory where the weights are.

        Args:
            model: the model that is trained; its parameters are the optimiser's first group.
            optimizer: gets a hook.
            step: tells how many steps were made before.
        """
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        averages, weights = zip(*((a, w) for a, w in pairs if w.requires_grad), strict=True)
        first = optimizer.param_groups[0]["params"][0]
        if isinstance(first, FlatParameter) and first.holds(weights):
            averages, weights = (first.pieces.gather(averages),), (first,)

        def update(*_: object) -> None:
            share = self.share(step())
            with torch.no_grad():
                for average, weight in zip(averages, weights, strict=True):
                    average.lerp_(weight, share)

        optimizer.register_step_post_hook(update)
