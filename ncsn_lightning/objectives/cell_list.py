"""Points sorted by square cells, so that the neighbours of any place are found without looking at all of them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor
from torch.nn.functional import pad

MAX_CELLS = 2**15
"""Most cells along a side: a cell's number then fits in 31 bits, which sort three times as fast as 63."""


class CellList:
    """A cell list: points in the order of their cells, column by column.

    Three cells above each other are one stretch of that order, so a block of 3 × 3 cells is three stretches, found by
    bisection. Source: Computer Simulation of Liquids, Allen & Tildesley, 1987, §5.3.2.

    Args:
        points: in data units; fewer than 2²⁴, so that float32 can number them.
        width: the side of a cell, in data units; raised to 1/32000 of the points' extent where it is less.
    """

    def __init__(self, points: Float[Tensor, "points 2"], *, width: float) -> None:
        assert len(points) < 2**24
        coordinates = points.T.contiguous()
        self.origin, high = coordinates.aminmax(dim=1, keepdim=True)
        self.width = max(width, float((high - self.origin).max()) / (MAX_CELLS - 4))
        self.beyond = self._cells(high) + 2  # the first cell past all points and their neighbours
        self.rows = int(self.beyond[1]) + 1
        columns, rows = self._cells(coordinates)
        self.keys, order = (columns * self.rows + rows).sort()
        self.points = coordinates.index_select(1, order)

    def _cells(self, x: Float[Tensor, "2 n"]) -> Int32[Tensor, "2 n"]:
        """The column and row of the cell of each point, counted from 1; clamped where x lies far outside."""
        return (x - self.origin).div_(self.width).floor_().clamp_(-2, MAX_CELLS).int().add_(1)

    def near(
        self, x: Float[Tensor, "n 2"], count: int, *, offset: Float[Tensor, "n"]
    ) -> tuple[list[Float[Tensor, "n count"]], Bool[Tensor, "n count"]]:
        """Find `count` of the points in the 3 × 3 cells around each of `x`, or all of them where there are fewer.

        Where there are more, every k-th is taken, from a start that `offset` chooses: all are equally likely if
        `offset` is uniform on [0, 1).

        Args:
            x: places, in data units.
            count: how many points are wanted for each.
            offset: in [0, 1), one for each of `x`.

        Returns:
            the points' first and second coordinates, in data units; and a mask of the entries that hold a point.
        """
        column, row = torch.minimum(self._cells(x.T), self.beyond).unsqueeze(-1)
        middle = (column + torch.arange(-1, 2, device=x.device, dtype=torch.int32)) * self.rows + row
        first, end = torch.searchsorted(self.keys, middle - 1), torch.searchsorted(self.keys, middle + 1, right=True)
        ends = (end - first).cumsum(-1)  # positions at which the three stretches end when they are joined
        shift = (first - pad(ends[:, :-1], (1, 0))).float()
        ends = ends.float()
        stride = (ends[:, -1:] / count).clamp(min=1)
        steps = torch.arange(count, device=x.device, dtype=torch.float32)
        place = torch.addcmul(offset.float().unsqueeze(-1) * stride, steps, stride).floor_()
        found = place < ends[:, -1:]
        second_or_third = torch.where(place < ends[:, 1:2], shift[:, 1:2], shift[:, 2:])
        place += torch.where(place < ends[:, :1], shift[:, :1], second_or_third)
        index = place.clamp_(0, self.points.shape[-1] - 1).int().flatten()
        return [coordinate.index_select(0, index).view(found.shape) for coordinate in self.points], found
