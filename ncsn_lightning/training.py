"""The arithmetic around an optimiser step, without Lightning: the average of the weights and the learning rate."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .adam import FlatAdam, FlatGroup
from .scores import ScoreModel

OptimizerFactory = Callable[[Iterable[dict[str, object]]], torch.optim.Optimizer]
Decay = Literal["constant", "cosine"]


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

    def share(self, step: int) -> float:
        """1 − d_t, the share of the new weights after `step` earlier updates."""
        return 1 - min(self.decay, (1 + step) / (10 + step)) if self.decay else 1.0


class Follow:
    """A hook of an optimiser: after every step an average follows the weights, over flat state where there is one.

    Args:
        average: of the weights of `model`.
        model: whose parameters make the optimiser's first group.
        step: how many steps were made before.
    """

    def __init__(self, average: ExponentialAverage, model: ScoreModel, step: Callable[[], int]) -> None:
        self.average, self.step = average, step
        pairs = zip(average.model.parameters(), model.parameters(), strict=True)
        self.averages, self.weights = zip(*((a, w) for a, w in pairs if w.requires_grad), strict=True)
        self.group: FlatGroup | None = None
        self.flat: Tensor | None = None

    def __call__(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        share = self.average.share(self.step())
        group = optimizer.flat[0] if isinstance(optimizer, FlatAdam) and optimizer.flat else None
        if group is not self.group:
            self.group = group
            self.flat = group.layout.gather(self.averages) if group and group.holds(self.weights) else None
        if group and self.flat is not None and self.flat.data_ptr() == self.averages[0].data_ptr():
            self.flat.lerp_(group.weights, share)
            return
        with torch.no_grad():
            for average, weight in zip(self.averages, self.weights, strict=True):
                average.lerp_(weight, share)
