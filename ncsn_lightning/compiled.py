r"""The optimiser step compiled as one function: forward, backward and Adam.

Over Adam's flat state one loop updates all weights, and a call hands over tens of tensors, not a hundred. Adam's bias
corrections come from outside, for the compiler would raise $\beta^t$ anew for every few weights.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from .adam import FlatAdam
from .data import Batch
from .internals import compile_graph, one_number, traced


def check_compilable(kind: object) -> None:
    """Raise ValueError for an optimiser whose update is not written out."""
    if not (isinstance(kind, type) and issubclass(kind, FlatAdam)):
        raise ValueError("compile=true: it knows the update of Adam and AdamW alone; choose optimizer=adam or adamw")


class _TrainingStep(nn.Module):
    """What a step differentiates, with all weights and buffers in it; and what it logs."""

    def __init__(self, module: L.LightningModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, *batch: Float[Tensor, "..."]) -> tuple[Float[Tensor, ""], list[Tensor], list[Any]]:
        with traced(self.module) as (batch_idx, logged):
            loss = one_number(self.module, self.module.training_step(Batch(*batch), batch_idx))
        if loss is None:
            raise ValueError("compile=true: training_step returned no loss to be compiled; use compile=false")
        values = [torch.as_tensor(value).detach() for _, value, _ in logged]
        return loss, values, [(name, options) for name, _, options in logged]


class CompiledStep:
    """The step as one function, which the first call compiles.

    Args:
        trainer: what trains; its module takes the batches of the stream, and its optimiser is a `FlatAdam`.

    Raises:
        ValueError: the optimiser is another one, or its parameters are of several kinds.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        (optimizer,) = trainer.optimizers
        check_compilable(type(optimizer))
        assert isinstance(optimizer, FlatAdam)
        assert optimizer.gathered(), "parameters are of one kind"
        self.optimizer, self.groups = optimizer, optimizer.gathered()
        self.context, self.module = trainer.precision_plugin.train_step_context, trainer.lightning_module
        self.training_step = _TrainingStep(self.module)
        named = dict(self.training_step.named_parameters())
        names = {parameter: name for name, parameter in named.items()}
        self.names = [names[p] for group in self.groups for p in group.parameters]
        self.fixed = {
            **{n: p for n, p in named.items() if n not in self.names},
            **dict(self.training_step.named_buffers()),
        }
        self.taken = int(self.groups[0].count)
        self.logged: list[Any] = []
        self._run: Any = None

    def __call__(self, batch: Any, batch_idx: int = 0) -> Float[Tensor, ""]:
        self.taken += 1
        numbers = [number for group in self.groups for number in group.numbers(self.taken)]
        states = (tensor for group in self.groups for tensor in group.state)
        given = [*states, *self.fixed.values(), *batch, torch.tensor(numbers, device=self.groups[0].weights.device)]
        if self._run is None:
            self._run = compile_graph(self._step, given)
        loss, *values = self._run(*given)
        for (name, options), value in zip(self.logged, values, strict=True):
            self.module.log(name, value, **options)
        self.optimizer.step()  # without gradients it changes nothing, but calls the hooks, the average's among them
        return loss

    def _step(self, *given: Tensor) -> list[Tensor]:
        """The function that is compiled, of what `__call__` gives it."""
        tensors = iter(given)
        states = [list(islice(tensors, len(group.state))) for group in self.groups]
        fixed = {name: next(tensors) for name in self.fixed}
        *batch, numbers = tensors
        split = (group.layout.split(weights) for group, (_, weights, *_) in zip(self.groups, states, strict=True))
        weights = [tensor.detach().requires_grad_() for tensors in split for tensor in tensors]
        with self.context():
            named = fixed | dict(zip(self.names, weights, strict=True))
            loss, values, self.logged = functional_call(self.training_step, named, tuple(batch))
        gradients = iter(torch.autograd.grad(loss, weights))
        with torch.no_grad():
            rest = numbers.unbind()
            for i, (group, state) in enumerate(zip(self.groups, states, strict=True)):
                group.update(state, list(islice(gradients, len(group.layout.shapes))), rest[3 * i : 3 * i + 3])
        return [loss.detach(), *values]
