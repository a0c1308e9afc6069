r"""Adam's step over flat state: weights, moments and averages lie side by side in one tensor each.

The step of so small a network loses its time between the kernels. One kernel that updates all weights, and one that
averages them, take the place of a dozen each and of the optimiser's bookkeeping for every parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adam import adam

from .training import Step, Trainee

ALIGNMENT = 16
"""Tensors in a flat one begin at multiples of so many numbers: at 64 bytes, as those that torch allocates."""

OPTIONS = (
    *("foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"),
    *("amsgrad", "weight_decay", "eps", "maximize"),
)
"""Of a parameter group, which torch's function takes as they are."""


def is_adam(kind: object) -> bool:
    """Whether the update of a class of optimisers is the one written here: that of Adam and of AdamW."""
    return kind in (torch.optim.Adam, torch.optim.AdamW)


class Layout:
    """Where tensors of given shapes lie in a flat one."""

    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        self.shapes = shapes
        self.sizes = [-(-shape.numel() // ALIGNMENT) * ALIGNMENT for shape in shapes]

    def split(self, flat: Float[Tensor, "numbers"]) -> list[Tensor]:
        """Views of the tensors."""
        starts = accumulate(self.sizes[:-1], initial=0)
        return [flat[a : a + shape.numel()].view(shape) for a, shape in zip(starts, self.shapes, strict=True)]

    def join(self, tensors: Sequence[Tensor]) -> Float[Tensor, "numbers"]:
        """Copies of the tensors side by side, with zeros between."""
        pieces = []
        for tensor, size in zip(tensors, self.sizes, strict=True):
            pieces.append(tensor.flatten())
            if size > tensor.numel():
                pieces.append(tensor.new_zeros(size - tensor.numel()))
        return torch.cat(pieces)

    def gather(self, tensors: Sequence[Tensor]) -> Float[Tensor, "numbers"]:
        """Join the tensors, and make each of them a view of the result."""
        flat = self.join([tensor.detach() for tensor in tensors])
        for tensor, view in zip(tensors, self.split(flat), strict=True):
            tensor.data = view
        return flat


class AdamGroup:
    r"""A parameter group of Adam or AdamW, its weights and state gathered in flat tensors.

    With t steps taken, this one included, the moments m and v of the gradient move the weights by

    $$-\alpha_t\, m / (\sqrt{v} + \epsilon_t), \qquad \alpha_t = \alpha\sqrt{1 - \beta_2^t} / (1 - \beta_1^t), \quad
        \epsilon_t = \epsilon\sqrt{1 - \beta_2^t}$$

    Source: Adam: A Method for Stochastic Optimization, Kingma & Ba, 2015, end of §2; the options are those of
    `torch.optim.Adam`.

    A parameter without a gradient counts as one whose gradient is zero.

    Attributes:
        steps: how many were taken, for each parameter, as the optimiser keeps it; flat, as all that follows.
        weights, moments: of all parameters.
        count: the same number once more, for the group as a whole.
    """

    def __init__(self, settings: dict[str, Any], state: dict[Tensor, dict[str, Tensor]]) -> None:
        self.settings = settings
        self.parameters: list[nn.Parameter] = settings["params"]
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if settings["amsgrad"] else 2]
        on_device = settings["fused"] or settings["capturable"]  # where torch keeps the count of its steps
        for p in self.parameters:
            if not state[p]:
                step = torch.zeros((), device=p.device if on_device else "cpu")
                state[p] |= {"step": step, **{m: torch.zeros_like(p) for m in names}}
        self.steps = Layout([torch.Size()] * len(self.parameters)).gather([state[p]["step"] for p in self.parameters])
        self.count = self.steps.max()
        self.layout = Layout([p.shape for p in self.parameters])
        self.weights = self.layout.gather(self.parameters)
        self.moments = [self.layout.gather([state[p][m] for p in self.parameters]) for m in names]
        self.gradient = torch.zeros_like(self.weights)
        self._gradients = self.layout.split(self.gradient)

    @property
    def state(self) -> list[Tensor]:
        """All that a step changes."""
        return [self.steps, self.weights, *self.moments]

    def step(self, factor: float) -> None:
        """Take torch's own step along the gradients of the parameters, which are forgotten."""
        torch._foreach_copy_(
            self._gradients, [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        )
        for p in self.parameters:
            p.grad = None
        first, second, *largest = self.moments
        (beta1, beta2), rate = self.settings["betas"], self.settings["initial_lr"] * factor
        adam(
            [self.weights],
            [self.gradient],
            [first],
            [second],
            largest,
            [self.count],
            **{name: self.settings[name] for name in OPTIONS},
            beta1=beta1,
            beta2=beta2,
            lr=rate,
        )
        self.steps.add_(1)

    def numbers(self, steps: int, factor: float) -> list[float]:
        """α_t, ε_t, and the share of the weights that decoupled decay leaves."""
        rate, (beta1, beta2) = self.settings["initial_lr"] * factor, self.settings["betas"]
        root = math.sqrt(1 - beta2**steps)
        left = 1 - rate * self.settings["weight_decay"]
        return [rate * root / (1 - beta1**steps), self.settings["eps"] * root, left]

    def update(self, state: Sequence[Tensor], gradients: Sequence[Tensor], numbers: Sequence[Tensor]) -> None:
        """Take the same step on what `state` holds, in place, written out for a compiler."""
        steps, weights, first, second, *largest = state
        rate, epsilon, left = numbers
        gradient = self.layout.join(gradients)
        (beta1, beta2), decay = self.settings["betas"], self.settings["weight_decay"]
        if self.settings["maximize"]:
            gradient = -gradient
        if decay and self.settings["decoupled_weight_decay"]:
            weights.mul_(left)
        elif decay:
            gradient = gradient + decay * weights
        steps.add_(1)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if largest:
            second = largest[0].copy_(torch.maximum(largest[0], second))
        weights.sub_(rate * first / (second.sqrt() + epsilon))


class AdamStep(Step):
    """The step of Adam or AdamW as PyTorch runs it.

    The optimiser keeps its state and its settings: a checkpoint does not tell how its steps were made.

    Args:
        trainee: what is trained.
        backward: fills the gradients; Lightning's own where ranks share them.
    """

    def __init__(self, trainee: Trainee, *, backward: Callable[[Float[Tensor, ""]], object] = Tensor.backward) -> None:
        optimizer = trainee.optimizer
        self.trainee, self.backward = trainee, backward
        self.groups = [AdamGroup(group, optimizer.state) for group in optimizer.param_groups]
        pairs = zip(trainee.model.parameters(), trainee.average.model.parameters(), strict=True)
        self.average = self.groups[0].layout.gather([average for p, average in pairs if p.requires_grad])
        optimizer.step()  # without gradients it changes nothing, but tells the scheduler that steps are made

    def __call__(self, step: int, *batch: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        loss = self.trainee.loss(self.trainee.model, *batch).mean()
        self.backward(loss)
        for group in self.groups:
            group.step(self.trainee.rate(step))
        self.average.lerp_(self.groups[0].weights, self.trainee.average.weight(step))
        return loss.detach()
