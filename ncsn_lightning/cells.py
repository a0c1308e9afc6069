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
        low, high = points.aminmax(dim=0)
        self.origin, self.width = low, max(width, float((high - low).max()) / (MOST - 4))
        cells = self._cells(points)
        self.beyond = cells.amax(0) + 2  # the first cell with no neighbour among them; the last before them is −1
        self.rows = int(self.beyond[1]) + 1
        self.keys, order = (cells[:, 0] * self.rows + cells[:, 1]).sort()
        self.points = points[order].T.contiguous()

    def _cells(self, x: Float[Tensor, "n 2"]) -> Int32[Tensor, "n 2"]:
        """Column and row of the cells of points, counted from 1."""
        return ((x - self.origin) / self.width).floor().clamp(-2, MOST).int() + 1

    def near(
        self, x: Float[Tensor, "n 2"], count: int, *, offset: Float[Tensor, "n"]
    ) -> tuple[Float[Tensor, "2 n count"], Bool[Tensor, "n count"]]:
        """For each of `x`, `count` of the points in the 3 × 3 cells around it, or all where they are fewer.

        Of more, every k-th is taken, so that each is as likely as any other where `offset` is uniform on [0, 1).

        Returns:
            the points, first and second coordinates; and which of them were found, where there are fewer than `count`.
        """
        cells = torch.minimum(self._cells(x).clamp(min=-1), self.beyond)
        columns = (cells[:, :1] + torch.arange(-1, 2, device=x.device, dtype=torch.int32)) * self.rows + cells[:, 1:]
        first, end = torch.searchsorted(self.keys, columns - 1), torch.searchsorted(self.keys, columns + 1, right=True)
        ends = (end - first).cumsum(-1)  # of the three stretches, put in a row
        shift = (first - pad(ends[:, :-1], (1, 0))).float()
        ends = ends.float()
        stride = (ends[:, -1:] / count).clamp(min=1)
        place = ((torch.arange(count, device=x.device) + offset.float().unsqueeze(-1)) * stride).floor()
        found = place < ends[:, -1:]
        second_or_third = torch.where(place < ends[:, 1:2], shift[:, 1:2], shift[:, 2:])
        place += torch.where(place < ends[:, :1], shift[:, :1], second_or_third)
        index = place.clamp(0, self.points.shape[-1] - 1).int().flatten()
        return torch.stack([p.index_select(0, index).view(found.shape) for p in self.points]), found
