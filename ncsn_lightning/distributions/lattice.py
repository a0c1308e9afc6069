r"""Sums of many Gaussians of one width, from a lattice on which their centres were spread once.

For centres $x_i$ of weight $c_i$ and a width τ between w and √2 w,

$$\sum_i c_i\, e^{-\|x - x_i\|^2 / 2\tau^2} \approx
  \sum_{j, k} C_{jk}\, e^{-(x_1 - j\delta)^2 / 2\tau^2}\, e^{-(x_2 - k\delta)^2 / 2\tau^2},
  \qquad C_{jk} = \sum_i c_i\, L_j(x_{i1})\, L_k(x_{i2}),$$

where L are the Lagrange polynomials that interpolate a function of the centre from the eight nodes around it; a
Gaussian is as smooth a function of its centre as of x. On the lattice the sum is a product of matrices, each of which
depends on one coordinate only. A point x therefore costs as many exponentials as one row and one column have nodes
within reach, which is at least eight τ. The lattice is stored in square tiles, and only tiles that centres are spread
on are stored. With δ = w / 4 the relative error is about 1e-6 where many centres add up; for an isolated one it is 1e-5
at a distance of three widths, and 1e-2 at six.

Source: The Fast Gauss Transform, Greengard & Strain, 1991, with interpolation in place of Hermite series, as in
particle-mesh methods (Computer Simulation Using Particles, Hockney & Eastwood, 1988, chapter 5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ..core.validation import Rows, Values

PER_WIDTH = 4
"""Nodes per length w along an axis."""

ORDER = 8
"""Nodes along an axis over which a centre is spread."""

SIDE = 16
"""Nodes along a tile's side, which is 4 w long."""

RINGS = 3
"""Rings of tiles around a point's own that are summed: they reach at least 12 w, which is 8.4 τ."""

PATCH = (2 * RINGS + 1) * SIDE
"""Nodes along the side of a patch: a tile and the rings around it."""

PATCHES = 64
"""Patches that are in memory at once, which take 6 MiB."""

MAX_TILES = 2**14
"""Most tiles of a lattice, which take 32 MiB; centres so sparse that they need more are summed one by one."""

SPREAD = 2**15
"""Centres that are spread over nodes at once."""

COLUMN = 2**32
"""Difference between the keys of neighbouring columns of tiles."""

Sums = Float64[Tensor, "n 3"]
"""A sum of Gaussians and its gradient, for each row."""


def tile_keys(tiles: Int64[Tensor, "*n 2"]) -> Int64[Tensor, "*n"]:
    """One integer for each tile; the keys in a column follow each other."""
    return tiles[..., 0] * COLUMN + tiles[..., 1]


def tile_side(octave: int) -> float:
    """The side of a tile, in data units, for the widths of a half octave, 2^(octave / 2) ≤ τ < 2^((octave + 1) / 2)."""
    return SIDE / PER_WIDTH * 2.0 ** (octave / 2)


def tiles(x: Float64[Tensor, "*n 2"], origin: Float64[Tensor, "2"], octave: int) -> Int64[Tensor, "*n 2"]:
    """Column and row of the tiles in which points lie."""
    return ((x.detach() - origin) / tile_side(octave)).floor().clamp(-(2.0**30), 2.0**30).long()


@dataclass(frozen=True)
class Lattice:
    """Weights on the nodes of a square lattice, in square tiles.

    Attributes:
        octave: the half octave of the widths τ.
        origin: of the lattice, in data units.
        keys: of the stored tiles, ascending.
        weights: C at the nodes of the stored tiles; the one tile more is for all others, and has the weights 0.
    """

    octave: int
    origin: Float64[Tensor, "2"]
    keys: Int64[Tensor, "tiles"]
    weights: Float64[Tensor, "tiles+1 side side"]

    @classmethod
    def of(
        cls,
        centres: Float64[Tensor, "m 2"],
        weights: Float64[Tensor, "m"],
        *,
        origin: Float64[Tensor, "2"],
        octave: int,
    ) -> Lattice | None:
        """Spread weighted centres (data units) over a lattice; None where they need more than `MAX_TILES` tiles."""
        spacing, keys = tile_side(octave) / SIDE, centres.new_empty(0, dtype=torch.long)
        for part in centres.split(SPREAD):
            first = _first_nodes((part - origin) / spacing)
            corners = torch.stack([first, first + ORDER - 1], dim=1) // SIDE  # [m, 2 (end), 2 (axis)]
            keys = torch.cat([keys, (corners[:, :, None, 0] * COLUMN + corners[:, None, :, 1]).unique()]).unique()
            if len(keys) > MAX_TILES:
                return None
        lattice = cls(octave, origin, keys, centres.new_zeros(len(keys) + 1, SIDE, SIDE))
        order = tile_keys(tiles(centres, origin, octave)).argsort()  # so that neighbouring memory is written to
        for part in order.split(SPREAD // 8):
            lattice._add(centres[part], weights[part])
        return lattice

    def to(self, device: torch.device) -> Lattice:
        """The same lattice on another device."""
        moved = (field.to(device) for field in (self.origin, self.keys, self.weights))
        return Lattice(self.octave, *moved)

    @property
    def spacing(self) -> float:
        """δ, the distance between nodes, in data units."""
        return tile_side(self.octave) / SIDE

    @property
    def size(self) -> int:
        """The number of stored nodes."""
        return len(self.keys) * SIDE**2

    def centres(self) -> tuple[Float64[Tensor, "m 2"], Float64[Tensor, "m"]]:
        """The nodes (data units) and weights of this lattice, as centres for a coarser one."""
        column = torch.div(self.keys + COLUMN // 2, COLUMN, rounding_mode="floor")
        corner = torch.stack([column, self.keys - column * COLUMN], dim=-1) * SIDE
        inside = torch.arange(SIDE, device=corner.device)
        nodes = corner[:, None, None] + torch.stack(torch.meshgrid(inside, inside, indexing="ij"), dim=-1)
        weights = self.weights[:-1].flatten()
        used = weights != 0
        return self.origin + nodes.view(-1, 2)[used].double() * self.spacing, weights[used]

    def _add(self, centres: Float64[Tensor, "m 2"], weights: Float64[Tensor, "m"]) -> None:
        """Spread weighted centres over the nodes around each, and add them to what is there."""
        places = (centres - self.origin) / self.spacing
        first = _first_nodes(places)
        nodes = first[:, None] + torch.arange(ORDER, device=first.device)[:, None]  # [m, ORDER, 2]
        corners = nodes[:, [0, -1]] // SIDE
        tile = torch.searchsorted(self.keys, corners[:, :, None, 0] * COLUMN + corners[:, None, :, 1])
        second = (nodes // SIDE - corners[:, :1]).clamp_(
            max=1
        )  # 1 where a node lies in the second tile that a centre touches
        tile = tile.gather(1, second[:, :, :1].expand(-1, -1, 2)).gather(2, second[:, None, :, 1].expand(-1, ORDER, -1))
        inside = nodes % SIDE
        index = tile.mul_(SIDE).add_(inside[:, :, None, 0]).mul_(SIDE).add_(inside[:, None, :, 1])
        along, across = _lagrange(places - first).unbind(-1)  # [m, ORDER] each
        values = (weights[:, None] * along)[:, :, None] * across[:, None]
        self.weights.view(-1).index_add_(0, index.flatten(), values.flatten())

    def sums(self, x: Rows, width: Values) -> Sums:
        """The sum of all Gaussians of width τ and its gradient, at points and widths in data units."""
        tile = tiles(x, self.origin, self.octave)
        order, group, slot, first, height = _groups(tile_keys(tile))
        rows = order[first][:, None].repeat(1, height)  # unused slots repeat the first row
        rows[group, slot] = order
        parts = [self._patch_sums(x[part], width[part], tile[part[:, 0]]) for part in rows.split(PATCHES)]
        back = torch.empty_like(order)
        back[order] = group * height + slot
        return torch.cat(parts).view(-1, 3)[back]

    def _patch_sums(
        self, x: Float64[Tensor, "g h 2"], width: Float64[Tensor, "g h"], tile: Int64[Tensor, "g 2"]
    ) -> Float64[Tensor, "g h 3"]:
        """The sums for groups of points; the points of a group lie in one tile."""
        nodes = (tile[:, None] - RINGS) * SIDE + torch.arange(PATCH, device=tile.device)[:, None]
        away = x[:, :, None] - (self.origin + nodes.double() * self.spacing)[:, None]  # [g, h, PATCH, 2]
        precision = width.pow(-2)[..., None]
        (first, second), weights = away.unbind(-1), self._patches(tile)
        (along, across) = ((-0.5 * precision * u.square()).exp() for u in (first, second))
        slope = -precision * first * along
        product, derivative = (torch.cat([along, slope], dim=1) @ weights).chunk(2, dim=1)
        second_slope = -precision * second * across
        pairs = ((product, across), (derivative, across), (product, second_slope))
        return torch.stack([torch.linalg.vecdot(a, b) for a, b in pairs], dim=-1)

    def _patches(self, tile: Int64[Tensor, "g 2"]) -> Float64[Tensor, "g patch patch"]:
        """The weights on the patch around each tile."""
        ring = torch.arange(-RINGS, RINGS + 1, device=tile.device)
        keys = (tile[:, 0, None, None] + ring[:, None]) * COLUMN + tile[:, 1, None, None] + ring
        index = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        index = torch.where(self.keys[index] == keys, index, len(self.keys))
        return self.weights[index].transpose(2, 3).reshape(-1, PATCH, PATCH)


def _first_nodes(places: Float64[Tensor, "m 2"]) -> Int64[Tensor, "m 2"]:
    """The first of the nodes over which each centre is spread; places in units of δ."""
    return places.floor().long() - (ORDER // 2 - 1)


def _lagrange(t: Float64[Tensor, "m 2"]) -> Float64[Tensor, "m order 2"]:
    """The Lagrange polynomials of the nodes 0, 1, …, `ORDER` − 1 at t."""
    nodes = range(ORDER)
    factors = [t - node for node in nodes]
    scales = [math.prod(j - node for node in nodes if node != j) for j in nodes]
    products = [reduce(torch.mul, factors[:j] + factors[j + 1 :]) for j in nodes]
    return torch.stack([product / scale for product, scale in zip(products, scales, strict=True)], dim=1)


def _groups(
    keys: Int64[Tensor, "n"],
) -> tuple[Int64[Tensor, "n"], Int64[Tensor, "n"], Int64[Tensor, "n"], Int64[Tensor, "g"], int]:
    """Sort rows into groups of equal keys, all of one height; a key with more rows gets several groups.

    Returns:
        the order in which rows of a group follow each other; in that order, each row's group and its slot in the group;
        where groups begin; the height.
    """
    ordered, order = keys.sort(stable=True)
    _, which, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    height = min(64, 2 ** max(0, math.ceil(math.log2(len(keys) / len(counts)))))
    place = torch.arange(len(keys), device=keys.device) - (counts.cumsum(0) - counts)[which]
    groups = (counts + height - 1) // height
    group, slot = (groups.cumsum(0) - groups)[which] + place // height, place % height
    return order, group, slot, (slot == 0).nonzero().squeeze(-1), height
