"""Points by the square cells they lie in, so that the neighbours of others are found at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class CellList:
    """A cell list: points in the order of their cells, column by column.

    Three cells of a column that follow each other are one stretch of that order, so a block of 3 × 3 cells is three
    stretches, found by bisection. Source: Computer Simulation of Liquids, Allen & Tildesley, 1987, §5.3.2.

    Args:
        points: in data units.
        width: of a cell, in data units.
    """

    def __init__(self, points: Float[Tensor, "points 2"], *, width: float) -> None:
        self.origin, self.width = points.amin(0), width
        cells = self._cells(points)
        self.beyond = cells.amax(0) + 2  # the first cell with no neighbour among them; the last before them is −1
        self.rows = int(self.beyond[1]) + 1
        self.keys, order = (cells[:, 0] * self.rows + cells[:, 1]).sort()
        self.points = points[order]

    def _cells(self, x: Float[Tensor, "n 2"]) -> Tensor:
        """Column and row of the cells of points, `[n, 2]`, counted from 1."""
        return ((x - self.origin) / self.width).floor().long() + 1

    def near(
        self, x: Float[Tensor, "n 2"], count: int, *, offset: Float[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n count 2"], Bool[Tensor, "n count"]]:
        """For each of `x`, `count` of the points in the 3 × 3 cells around it, or all where they are fewer.

        Of more, every k-th is taken, so that each is as likely as any other where `offset` is uniform on [0, 1).

        Returns:
            the points; and which of them were found, where there are fewer than `count`.
        """
        cells = torch.minimum(self._cells(x).clamp(min=-1), self.beyond)
        columns = (cells[:, :1] + torch.arange(-1, 2, device=x.device)) * self.rows + cells[:, 1:]
        first, end = torch.searchsorted(self.keys, columns - 1), torch.searchsorted(self.keys, columns + 1, right=True)
        ends = (end - first).cumsum(-1)  # of the three stretches, put in a row
        stride = (ends[:, -1:] / count).clamp(min=1)
        place = ((torch.arange(count, device=x.device) + offset.unsqueeze(-1)) * stride).long()
        found = place < ends[:, -1:]
        shift = first - torch.nn.functional.pad(ends[:, :-1], (1, 0))
        stretch = torch.where(
            place < ends[:, :1], shift[:, :1], torch.where(place < ends[:, 1:2], shift[:, 1:2], shift[:, 2:])
        )
        return self.points[(place + stretch).clamp(0, len(self.points) - 1)], found
