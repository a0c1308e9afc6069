"""Points by the square cells they lie in, so that the neighbours of others are found at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor
from torch.nn.functional import pad

MOST = 2**15
"""Cells of a side, so that a cell's number has 31 bits, which sort three times as fast as 63."""


class CellList:
    """A cell list: points in the order of their cells, column by column.

    Three cells of a column that follow each other are one stretch of that order, so a block of 3 × 3 cells is three
    stretches, found by bisection. Source: Computer Simulation of Liquids, Allen & Tildesley, 1987, §5.3.2.

    Args:
        points: in data units; fewer than 2²⁴, whose places are whole numbers in float32.
        width: of a cell, in data units; 1/32000 of the points' extent at least.
    """

    def __init__(self, points: Float[Tensor, "points 2"], *, width: float) -> None:
        assert len(points) < 2**24
        coordinates = points.T.contiguous()
        self.origin, high = coordinates.aminmax(dim=1, keepdim=True)
        self.width = max(width, float((high - self.origin).max()) / (MOST - 4))
        self.beyond = self._cells(high) + 2  # the first cell with no neighbour among them; the last before them is −1
        self.rows = int(self.beyond[1]) + 1
        columns, rows = self._cells(coordinates)
        self.keys, order = (columns * self.rows + rows).sort()
        self.points = coordinates.index_select(1, order)

    def _cells(self, x: Float[Tensor, "2 n"]) -> Int32[Tensor, "2 n"]:
        """Column and row of the cells of points, counted from 1."""
        return (x - self.origin).div_(self.width).floor_().clamp_(-2, MOST).int().add_(1)

    def near(
        self, x: Float[Tensor, "n 2"], count: int, *, offset: Float[Tensor, "n"]
    ) -> tuple[list[Float[Tensor, "n count"]], Bool[Tensor, "n count"]]:
        """For each of `x`, `count` of the points in the 3 × 3 cells around it, or all where they are fewer.

        Of more, every k-th is taken, so that each is as likely as any other where `offset` is uniform on [0, 1).

        Returns:
            the points' first and second coordinates; and which were found, where there are fewer than `count`.
        """
        column, row = torch.minimum(self._cells(x.T), self.beyond).unsqueeze(-1)
        middle = (column + torch.arange(-1, 2, device=x.device, dtype=torch.int32)) * self.rows + row
        first, end = torch.searchsorted(self.keys, middle - 1), torch.searchsorted(self.keys, middle + 1, right=True)
        ends = (end - first).cumsum(-1)  # of the three stretches, put in a row
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
