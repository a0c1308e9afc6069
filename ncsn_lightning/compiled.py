r"""The optimiser step compiled as one function: forward, backward, Adam and average.

Over Adam's flat state one loop updates all weights, and a call hands over ten tensors, not a hundred. The graph is
traced without Dynamo, whose guards and wrappers would cost a tenth of every step. Adam's bias corrections come from
outside, for the compiler would raise $\beta^t$ anew for every few weights.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from .adam import AdamStep, is_adam
from .training import Trainee


def check_compilable(kind: object) -> None:
    """Raise ValueError for an optimiser other than Adam and AdamW, whose update alone is written out."""
    if not is_adam(kind):
        raise ValueError("compile=true: it knows the update of Adam and AdamW alone; choose optimizer=adam or adamw")


class _MeanLoss(nn.Module):
    """What a step differentiates, with all weights and buffers in it."""

    def __init__(self, trainee: Trainee) -> None:
        super().__init__()
        self.model, self.loss = trainee.model, trainee.loss

    def forward(self, *batch: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        return self.loss(self.model, *batch).mean()


class CompiledStep(AdamStep):
    """The step as one function, which the first call compiles.

    Args:
        trainee: what is trained.

    Raises:
        ValueError: the optimiser is neither Adam nor AdamW.
    """

    def __init__(self, trainee: Trainee) -> None:
        check_compilable(type(trainee.optimizer))
        super().__init__(trainee)
        self.mean_loss = _MeanLoss(trainee)
        names = {p: name for name, p in self.mean_loss.named_parameters()}
        self.names = [names[p] for group in self.groups for p in group.parameters]
        self.buffers = dict(self.mean_loss.named_buffers())
        self.taken = int(self.groups[0].count)
        self._run: Any = None

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
