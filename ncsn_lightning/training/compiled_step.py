r"""The optimiser step compiled as one function: forward, backward and Adam.

Adam's state is flat, so that one loop updates all weights, and a call hands over tens of tensors, not a hundred. Adam's
bias corrections are computed outside, because the compiler would raise $\beta^t$ anew for every few weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from .data import Batch
from .flat_adam import FlatAdam
from .internals import adam_state, compile_graph, one_number, traced, with_hooks


def check_compilable(kind: object) -> None:
    """Raise ValueError for an optimiser whose update `FlatGroup` does not write out."""
    if not (isinstance(kind, type) and issubclass(kind, FlatAdam)):
        raise ValueError("compile=true: it knows the update of Adam and AdamW alone; choose optimizer=adam or adamw")


class _TrainingStep(nn.Module):
    """A module's `training_step` as a forward pass, which `functional_call` gives other weights and buffers."""

    def __init__(self, module: L.LightningModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, *batch: Float[Tensor, "..."]) -> tuple[Float[Tensor, ""], list[Tensor], list[Any]]:
        """The loss of a batch, the values that the step logs, and the names and options under which it logs them."""
        with traced(self.module) as (batch_idx, logged):
            loss = one_number(self.module, self.module.training_step(Batch(*batch), batch_idx))
        if loss is None:
            raise ValueError("compile=true: training_step returned no loss to be compiled; use compile=false")
        values = [torch.as_tensor(value).detach() for _, value, _ in logged]
        return loss, values, [(name, options) for name, _, options in logged]


class FlatGroup:
    """A parameter group of Adam or AdamW over flat memory, with its update written out for a compiler.

    Attributes:
        state: everything that a step changes: the count of steps, the weights, their moments.

    Raises:
        ValueError: the parameters are of several types, or lie on several devices.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> None:
        if len(settings["params"]) > 1:
            raise ValueError(
                "compile=true: parameters are of several types or lie on several devices; use compile=false"
            )
        (self.parameter,) = settings["params"]
        self.settings, self.pieces = settings, self.parameter.pieces
        self.parameter.grad = torch.zeros_like(self.parameter)  # without a gradient Adam would make no state
        step, *moments = adam_state(optimizer, settings)
        self.parameter.grad = None
        self.state = [step, self.parameter.detach(), *moments]

    def numbers(self, steps: int) -> list[float]:
        """α_t and ε_t, which hold the bias corrections, and the share of the weights that decoupled decay leaves."""
        rate, (beta1, beta2) = self.settings["lr"], self.settings["betas"]
        root = math.sqrt(1 - beta2**steps)
        left = 1 - rate * self.settings["weight_decay"]
        return [rate * root / (1 - beta1**steps), self.settings["eps"] * root, left]

    def update(self, state: Sequence[Tensor], gradient: Tensor, numbers: Tensor) -> None:
        """Take a step on what `state` holds, in place."""
        steps, weights, first, second, *largest = state
        rate, epsilon, left = numbers
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


class CompiledStep:
    """The step as one function, which the first call compiles.

    Args:
        trainer: the trainer, whose module takes the batches of the stream, and whose optimiser is a `FlatAdam`.

    Raises:
        ValueError: the optimiser is another one.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        (optimizer,) = trainer.optimizers
        check_compilable(type(optimizer))
        self.finish = with_hooks(optimizer, lambda _: None)
        self.groups = [FlatGroup(optimizer, group) for group in optimizer.param_groups]
        self.context, self.module = trainer.precision_plugin.train_step_context, trainer.lightning_module
        self.training_step = _TrainingStep(self.module)
        tensors = dict([*self.training_step.named_parameters(), *self.training_step.named_buffers()])
        names = {tensor: name for name, tensor in tensors.items()}
        self.names = [names[p] for group in self.groups for p in group.parameter.parameters]
        self.fixed = {name: tensor for name, tensor in tensors.items() if name not in self.names}
        self.taken = int(self.groups[0].state[0])
        self.logged: list[Any] = []
        self._run: Any = None

    def __call__(self, batch: Any, batch_idx: int = 0) -> Float[Tensor, ""]:
        """Take a step on a batch, log what `training_step` logs, and return the loss."""
        self.taken += 1
        numbers = [group.numbers(self.taken) for group in self.groups]
        states = (tensor for group in self.groups for tensor in group.state)
        given = [*states, *self.fixed.values(), *batch, torch.tensor(numbers, device=self.groups[0].parameter.device)]
        if self._run is None:
            self._run = compile_graph(self._step, given)
        loss, *values = self._run(*given)
        for (name, options), value in zip(self.logged, values, strict=True):
            self.module.log(name, value, **options)
        self.finish()
        return loss

    def _step(self, *given: Tensor) -> list[Tensor]:
        """The function that is compiled: changes the states that `__call__` gives it, returns the loss and the log."""
        tensors = iter(given)
        states = [list(islice(tensors, len(group.state))) for group in self.groups]
        fixed = {name: next(tensors) for name in self.fixed}
        *batch, numbers = tensors
        flat = [weights.detach().requires_grad_() for _, weights, *_ in states]
        weights = (group.pieces.split(whole) for group, whole in zip(self.groups, flat, strict=True))
        with self.context():
            named = fixed | dict(zip(self.names, chain.from_iterable(weights), strict=True))
            loss, values, self.logged = functional_call(self.training_step, named, tuple(batch))
        gradients = torch.autograd.grad(loss, flat)
        with torch.no_grad():
            for group, *rest in zip(self.groups, states, gradients, numbers, strict=True):
                group.update(*rest)
        return [loss.detach(), *values]
