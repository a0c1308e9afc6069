"""Adam over flat memory: the parameters of a group lie side by side in one tensor, and so do their gradients.

The step of so small a network loses its time between the kernels. One kernel that updates all weights replaces a dozen,
and the optimiser's bookkeeping for every parameter.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

ALIGNMENT = 16
"""Tensors in a flat one begin at multiples of so many numbers: at 64 bytes, as those that torch allocates."""


class Layout:
    """Where tensors of given shapes lie in a flat one."""

    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        self.shapes = shapes
        self.sizes = [-(-shape.numel() // ALIGNMENT) * ALIGNMENT for shape in shapes]

    def split(self, flat: Float[Tensor, "numbers"]) -> list[Tensor]:
        """Views of the tensors."""
        pieces = zip(flat.split(self.sizes), self.shapes, strict=True)
        return [piece[: shape.numel()].view(shape) for piece, shape in pieces]

    def join(self, tensors: Sequence[Tensor]) -> Float[Tensor, "numbers"]:
        """Copies of the tensors side by side, with zeros between."""
        gaps = (t.new_zeros(size - t.numel()) for t, size in zip(tensors, self.sizes, strict=True))
        return torch.cat([piece for t, gap in zip(tensors, gaps, strict=True) for piece in (t.flatten(), gap)])

    def gather(self, tensors: Sequence[Tensor]) -> Float[Tensor, "numbers"]:
        """Join the tensors, and make each of them a view of the result."""
        flat = self.join([tensor.detach() for tensor in tensors])
        for tensor, view in zip(tensors, self.split(flat), strict=True):
            tensor.data = view
        return flat


class FlatParameter(nn.Parameter):
    """Parameters of one type and device as a single one, whose memory and gradient they share.

    Its gradient is gathered from theirs whenever it is read, so they may be given other gradients or other memory. If
    some of them have a gradient, those that have none count as having a gradient of zero.

    Attributes:
        parameters: views of this one; once their gradients were gathered, these are views of this one's gradient.
        pieces: where they lie.
    """

    parameters: Sequence[Tensor]
    pieces: Layout

    def __new__(cls, parameters: Sequence[Tensor]) -> FlatParameter:
        """Copy the parameters into one tensor, and make them views of it."""
        pieces = Layout([p.shape for p in parameters])
        self = super().__new__(cls, pieces.gather(parameters))
        self.parameters, self.pieces = parameters, pieces
        self._share()
        return self

    def holds(self, parameters: Sequence[Tensor]) -> bool:
        """Whether these are all of its parameters, in its order."""
        return len(parameters) == len(self.parameters) and all(map(operator.is_, parameters, self.parameters))

    def _share(self) -> None:
        """Note where the parameters lie, and make room for their gradients."""
        self.addresses = [p.data_ptr() for p in self.parameters]
        self.gradient = torch.zeros_like(self.data)
        self.gradients = self.pieces.split(self.gradient)

    @property
    def grad(self) -> Tensor | None:
        """The gradients of all parameters, as `backward` or anything else has left them; None if none has one."""
        if self.addresses != [p.data_ptr() for p in self.parameters]:
            self.data = self.pieces.gather(self.parameters)
            self._share()
        found = [p.grad for p in self.parameters]
        if all(gradient is None for gradient in found):
            return None
        for p, theirs, ours in zip(self.parameters, found, self.gradients, strict=True):
            if theirs is not ours:
                ours.copy_(torch.zeros_like(p) if theirs is None else theirs)
                p.grad = ours
        return self.gradient

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        """Give each parameter its piece of a gradient, or take the gradients away from all of them for None."""
        gradients = [None] * len(self.parameters) if value is None else self.pieces.split(value)
        for p, gradient in zip(self.parameters, gradients, strict=True):
            p.grad = gradient


class FlatAdam(torch.optim.Adam):
    """`torch.optim.Adam` over flat memory: the same arguments and steps.

    A group holds one `FlatParameter` instead of the parameters of one type and device, and so does the checkpoint.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group whose trainable parameters are joined, those of each type and device into a `FlatParameter`."""
        given = param_group["params"]
        parameters = [given] if isinstance(given, Tensor) else [p[1] if isinstance(p, tuple) else p for p in given]
        kinds: dict[Any, list[Tensor]] = {}
        for p in parameters:
            kinds.setdefault((p.dtype, p.device) if p.requires_grad else p, []).append(p)
        flat = [FlatParameter(kind) if kind[0].requires_grad else kind[0] for kind in kinds.values()]
        super().add_param_group({**param_group, "params": flat})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients, without torch's 40 µs of bookkeeping."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None


class FlatAdamW(FlatAdam, torch.optim.AdamW):
    """`torch.optim.AdamW` over flat memory."""
