r"""Adam over flat state: weights and moments of a parameter group lie side by side in one tensor each.

The step of so small a network loses its time between the kernels. One kernel that updates all weights takes the place
of a dozen, and of the optimiser's bookkeeping for every parameter.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adam import adam

ALIGNMENT = 16
"""Tensors in a flat one begin at multiples of so many numbers: at 64 bytes, as those that torch allocates."""

OPTIONS = (
    *("foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"),
    *("amsgrad", "weight_decay", "eps", "maximize", "lr"),
)
"""Keys of a parameter group that `torch.optim.adam.adam` takes unchanged."""


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


class FlatGroup:
    r"""A parameter group of Adam or AdamW, its weights and state gathered in flat tensors.

    With t steps taken, this one included, the moments m and v of the gradient move the weights by

    $$-\alpha_t\, m / (\sqrt{v} + \epsilon_t), \qquad \alpha_t = \alpha\sqrt{1 - \beta_2^t} / (1 - \beta_1^t), \quad
        \epsilon_t = \epsilon\sqrt{1 - \beta_2^t}$$

    Source: Adam: A Method for Stochastic Optimization, Kingma & Ba, 2015, end of §2; the options are those of
    `torch.optim.Adam`.

    Attributes:
        steps: how many steps each parameter has taken, as the optimiser keeps it; flat, as all that follows.
        weights, moments: of all parameters.
        count: how many steps the group has taken.
    """

    def __init__(self, settings: dict[str, Any], state: dict[Tensor, dict[str, Tensor]]) -> None:
        self.settings = settings
        self.parameters: list[nn.Parameter] = [*settings["params"]]
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
        self.gradients = self.layout.split(self.gradient)
        self.places = [p.data_ptr() for p in self.parameters]

    @staticmethod
    def fits(settings: dict[str, Any], state: dict[Tensor, dict[str, Tensor]]) -> bool:
        """Whether the parameters of a group can share a tensor, and have taken equally many steps."""
        kinds = {(p.dtype, p.device, p.requires_grad) for p in settings["params"]}
        counts = {float(state[p]["step"]) if state[p] else 0.0 for p in settings["params"]}
        return len(kinds) == len(counts) == 1

    def is_current(self) -> bool:
        """Whether nobody has given the parameters other memory, as moving a model does."""
        return self.places == [p.data_ptr() for p in self.settings["params"]]

    def holds(self, parameters: Sequence[Tensor]) -> bool:
        """Whether these are the group's parameters, in its order."""
        return len(parameters) == len(self.parameters) and all(map(operator.is_, parameters, self.parameters))

    @property
    def state(self) -> list[Tensor]:
        """All that a step changes."""
        return [self.steps, self.weights, *self.moments]

    def take_gradients(self) -> bool:
        """Copy the gradients of all parameters; False where one has none."""
        for flat, p in zip(self.gradients, self.parameters, strict=True):
            if p.grad is None:
                return False
            flat.copy_(p.grad)
        return True

    def step(self) -> None:
        """Take torch's own step along the gradients that were taken."""
        first, second, *largest = self.moments
        beta1, beta2 = self.settings["betas"]
        options = {name: self.settings[name] for name in OPTIONS}
        state = ([self.weights], [self.gradient], [first], [second], largest, [self.count])
        adam(*state, **options, beta1=beta1, beta2=beta2)
        self.steps.add_(1)

    def numbers(self, steps: int) -> list[float]:
        """α_t, ε_t, and the share of the weights that decoupled decay leaves."""
        rate, (beta1, beta2) = self.settings["lr"], self.settings["betas"]
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


class FlatAdam(torch.optim.Adam):
    """`torch.optim.Adam` over flat state: the same arguments, step and checkpoints.

    Torch's own step is taken where parameters of a group have no gradient, or differ in kind or in how many steps they
    took.
    """

    flat: Sequence[FlatGroup] = ()

    def gathered(self) -> Sequence[FlatGroup]:
        """The groups over flat state; none where one of them does not allow it."""
        if not self.flat or not all([group.is_current() for group in self.flat]):
            fit = all(FlatGroup.fits(group, self.state) for group in self.param_groups)
            self.flat = [FlatGroup(group, self.state) for group in self.param_groups] if fit else ()
        return self.flat

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not any(p.grad is not None for group in self.param_groups for p in group["params"]):
            return loss
        scaled = "grad_scale" in vars(self)  # by what unscales gradients within the step
        if self.gathered() and not scaled and all([group.take_gradients() for group in self.flat]):
            for group in self.flat:
                group.step()
        else:
            self._plain_step()
        return loss

    def _plain_step(self) -> None:
        """Torch's own step, without this optimiser's hooks, which are called once a step."""
        self.flat = ()
        plain = torch.optim.Adam([torch.zeros(1)])
        scaling = {name: value for name, value in vars(self).items() if name in ("grad_scale", "found_inf")}
        vars(plain).update(param_groups=self.param_groups, state=self.state, **scaling)
        plain.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        if not set_to_none:
            super().zero_grad(set_to_none=False)
        for group in self.param_groups if set_to_none else ():  # without torch's 40 µs of bookkeeping
            for p in group["params"]:
                p.grad = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.flat = ()


class FlatAdamW(FlatAdam, torch.optim.AdamW):
    """`torch.optim.AdamW` over flat state."""
