"""The arithmetic of an optimiser step, without Lightning: loss, average of the weights, learning rate, compilation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adam import adam

from .objectives import Objective, Weighting
from .scores import Score, ScoreModel

OptimizerFactory = Callable[[Iterable[dict[str, object]]], torch.optim.Optimizer]
Decay = Literal["constant", "cosine"]

COMPILED_STEPS = 5
"""Steps of one compiled call: ten are 3 % faster and take twice as long to compile."""


class WeightedLoss(nn.Module):
    r"""λ(σ)·e + penalty(σ) of every row, where e is the objective's squared error."""

    def __init__(self, objective: Objective, weighting: Weighting) -> None:
        super().__init__()
        self.objective, self.weighting = objective, weighting

    def forward(
        self,
        score: Score,
        x: Float[Tensor, "*batch 2"],
        sigma: Float[Tensor, "*#batch"],
        noise: Float[Tensor, "*batch 2"],
        references: Float[Tensor, "references 2"],
    ) -> Float[Tensor, "*batch"]:
        error = self.objective(score, x, sigma, noise, references)
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


@dataclass
class Trainee:
    """All that a step changes: the weights under the loss, the optimiser's state and the average.

    Made when training starts, once everything is on its device, for it holds the tensors themselves.
    """

    model: ScoreModel
    loss: WeightedLoss
    average: ExponentialAverage
    optimizer: torch.optim.Optimizer

    def __post_init__(self) -> None:
        self.weights = [p.detach() for p in self.model.parameters()]
        self.averages = [p.detach() for p in self.average.model.parameters()]
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]

    def clear_gradients(self) -> None:
        """What `zero_grad` does, without its 40 µs of bookkeeping."""
        for parameter in self.trained:
            parameter.grad = None

    def update_average(self, step: int) -> None:
        """Take the weights into their average after `step` earlier updates."""
        torch._foreach_lerp_(self.averages, self.weights, weight=self.average.weight(step))


def cuts(start: int, stop: int, *, size: int) -> list[int]:
    """Where to cut the steps from `start` to `stop`: into whole multiples of `size`, and single steps around them.

    Aligned to the absolute step, so that a resumed run is cut as the undisturbed one.

    >>> cuts(3, 16, size=5)
    [3, 4, 5, 10, 15, 16]
    """
    first = min(stop, -(-start // size) * size)
    last = max(first, stop // size * size)
    return [*range(start, first), *range(first, last, size), *range(last, stop), stop]


def check_compilable(kind: object) -> None:
    """Raise ValueError for an optimiser other than Adam and AdamW, whose update alone has a functional form."""
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Adam)):
        raise ValueError("compile=true: it knows the update of Adam and AdamW alone; choose optimizer=adam or adamw")


class CompiledSteps:
    """Forward, backward, Adam and average of `COMPILED_STEPS` optimiser steps, compiled as one function.

    The optimiser object keeps its state and its settings: a checkpoint does not tell how its steps were made.

    Raises:
        ValueError: the optimiser is neither Adam nor AdamW.
    """

    def __init__(self, trainee: Trainee) -> None:
        optimizer = trainee.optimizer
        check_compilable(type(optimizer))
        torch._dynamo.config.trace_autograd_ops = True
        self.trainee = trainee
        self.groups = optimizer.param_groups
        for group in self.groups:
            averages = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if group["amsgrad"] else 2]
            for p in group["params"]:
                if not optimizer.state[p]:
                    zeros = {name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in averages}
                    optimizer.state[p] = {"step": torch.zeros((), device=p.device), **zeros}
        optimizer.step()  # without gradients it changes nothing, but tells the scheduler that steps are made
        self._run = torch.compile(self._steps, fullgraph=True, dynamic=False)

    def __call__(
        self,
        batches: Sequence[Float[Tensor, "steps ..."]],
        *,
        rates: Float[Tensor, "steps groups"],
        shares: Float[Tensor, "steps"],
    ) -> Float[Tensor, "steps"]:
        """Take the steps.

        Args:
            batches: fields of the batches of K steps.
            rates: learning rates, by parameter group.
            shares: the average's share of the new weights.

        Returns:
            the mean loss of every step.
        """
        return self._run(batches, rates, shares)

    def _steps(self, batches: Sequence[Tensor], rates: Tensor, shares: Tensor) -> Tensor:
        losses = []
        for k in range(len(shares)):
            loss = self.trainee.loss(self.trainee.model, *(field[k] for field in batches)).mean()
            gradients = iter(torch.autograd.grad(loss, self.trainee.trained))
            with torch.no_grad():
                for group, rate in zip(self.groups, rates[k], strict=True):
                    self._adam(group, [next(gradients) for _ in group["params"]], rate)
                for average, weight in zip(self.trainee.averages, self.trainee.weights, strict=True):
                    average.lerp_(weight, shares[k])
            losses.append(loss.detach())
        return torch.stack(losses)

    def _adam(self, group: dict[str, Any], gradients: list[Tensor], rate: Tensor) -> None:
        parameters = group["params"]
        states = [self.trainee.optimizer.state[p] for p in parameters]
        adam(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [state["step"] for state in states],
            foreach=False,
            capturable=parameters[0].device.type != "cpu",
            differentiable=False,
            fused=False,
            decoupled_weight_decay=group["decoupled_weight_decay"],
            amsgrad=group["amsgrad"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=rate,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
