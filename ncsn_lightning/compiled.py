r"""The optimiser step compiled as one function: forward, backward, Adam and average.

The step of so small a network loses its time between the kernels, so little is left there. Weights, moments and
averages lie side by side in one tensor each: one loop updates them all, and a call hands over ten tensors, not a
hundred. The graph is traced without Dynamo, whose guards and wrappers would cost a tenth of every step. Adam's bias
corrections come from outside, for the compiler would raise $\beta^t$ anew for every few weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from .training import Step, Trainee

ALIGNMENT = 16
"""Tensors in a flat one begin at multiples of so many numbers: at 64 bytes, as those that torch allocates."""


def check_compilable(kind: object) -> None:
    """Raise ValueError for an optimiser other than Adam and AdamW, whose update alone is written out here."""
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Adam)):
        raise ValueError("compile=true: it knows the update of Adam and AdamW alone; choose optimizer=adam or adamw")


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

    Attributes:
        state: flat tensors that a step changes: count of steps, weights, moments.
    """

    def __init__(self, settings: dict[str, Any], state: dict[Tensor, dict[str, Tensor]]) -> None:
        self.settings = settings
        parameters = settings["params"]
        moments = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if settings["amsgrad"] else 2]
        for p in parameters:
            if not state[p]:
                state[p] |= {"step": torch.zeros((), device=p.device), **{m: torch.zeros_like(p) for m in moments}}
        self.layout = Layout([p.shape for p in parameters])
        steps = Layout([torch.Size()] * len(parameters)).gather([state[p]["step"] for p in parameters])
        weights = self.layout.gather(parameters)
        self.state = [steps, weights, *(self.layout.gather([state[p][m] for p in parameters]) for m in moments)]

    def numbers(self, steps: int, factor: float) -> list[float]:
        """α_t, ε_t, and the share of the weights that decoupled decay leaves."""
        rate, (beta1, beta2) = self.settings["initial_lr"] * factor, self.settings["betas"]
        root = math.sqrt(1 - beta2**steps)
        left = 1 - rate * self.settings["weight_decay"]
        return [rate * root / (1 - beta1**steps), self.settings["eps"] * root, left]

    def update(self, state: Sequence[Tensor], gradients: Sequence[Tensor], numbers: Sequence[Tensor]) -> None:
        """Take a step on what `state` holds, in place."""
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


class _MeanLoss(nn.Module):
    """What a step differentiates, with all weights and buffers in it."""

    def __init__(self, trainee: Trainee) -> None:
        super().__init__()
        self.model, self.loss = trainee.model, trainee.loss

    def forward(self, *batch: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        return self.loss(self.model, *batch).mean()


class CompiledStep(Step):
    """The step as one function, which the first call compiles.

    The optimiser keeps its state and its settings: a checkpoint does not tell how its steps were made.

    Args:
        trainee: what is trained.

    Raises:
        ValueError: the optimiser is neither Adam nor AdamW.
    """

    def __init__(self, trainee: Trainee) -> None:
        optimizer = trainee.optimizer
        check_compilable(type(optimizer))
        self.trainee, self.mean_loss = trainee, _MeanLoss(trainee)
        names = {p: name for name, p in self.mean_loss.named_parameters()}
        self.names = [names[p] for group in optimizer.param_groups for p in group["params"]]
        self.buffers = dict(self.mean_loss.named_buffers())
        self.groups = [AdamGroup(group, optimizer.state) for group in optimizer.param_groups]
        self.average = self.groups[0].layout.gather(list(trainee.average.model.parameters()))
        self.taken = int(self.groups[0].state[0][0])
        self._run: Any = None
        optimizer.step()  # without gradients it changes nothing, but tells the scheduler that steps are made

    def __call__(self, step: int, *batch: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        self.taken += 1
        factor, numbers = self.trainee.rate(step), [self.trainee.average.weight(step)]
        for group in self.groups:
            numbers += group.numbers(self.taken, factor)
        states = (tensor for group in self.groups for tensor in group.state)
        given = [*states, self.average, *self.buffers.values(), *batch]
        given.append(torch.tensor(numbers, device=self.average.device))
        if self._run is None:
            self._run = self._compile(given)
        return self._run(*given)

    def _compile(self, example: list[Tensor]) -> Any:
        graph = make_fx(lambda *given: self._step(*given), tracing_mode="fake")(*example)
        on_cpu = self.average.device.type == "cpu"  # where calling a kernel from Python costs as much as the kernel
        return torch._inductor.compile(graph, [*example], options={"cpp_wrapper": on_cpu})

    def _step(self, *given: Tensor) -> Float[Tensor, ""]:
        """The function that is compiled, of what `__call__` gives it."""
        tensors = iter(given)
        states = [list(islice(tensors, len(group.state))) for group in self.groups]
        average = next(tensors)
        named = {name: next(tensors) for name in self.buffers}
        *batch, numbers = tensors
        split = (group.layout.split(weights) for group, (_, weights, *_) in zip(self.groups, states, strict=True))
        weights = [tensor.detach().requires_grad_() for tensors in split for tensor in tensors]
        loss = functional_call(self.mean_loss, named | dict(zip(self.names, weights, strict=True)), tuple(batch))
        gradients = iter(torch.autograd.grad(loss, weights))
        with torch.no_grad():
            share, *rest = numbers.unbind()
            for i, (group, state) in enumerate(zip(self.groups, states, strict=True)):
                group.update(state, list(islice(gradients, len(group.layout.shapes))), rest[3 * i : 3 * i + 3])
            average.lerp_(states[0][1], share)
        return loss.detach()
