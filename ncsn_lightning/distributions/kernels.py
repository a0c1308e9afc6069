r"""A kernel density of many points, whose cost hardly depends on their number.

$$p_\sigma(x) = \frac1N \sum_i \mathcal N(x; x_i, \tau^2 I), \qquad \tau^2 = h^2 + \sigma^2$$

Widths τ of one half octave share a lattice (`lattice.py`), which is made at its first use. Where points are so sparse
that a lattice would need too many nodes, the kernels near x are summed one by one. Kernels further from x than eight τ
are neglected; where all of them are, the nearest ones are summed.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from scipy.spatial import cKDTree
from torch import Tensor, nn

from ..core.validation import Rows, Values
from .lattice import COLUMN, RINGS, Lattice, Sums, tile_keys, tiles
from .mixture import GaussianMixture, isotropic

FEW_POINTS = 2**12
"""Most points for which the plain sum is as fast as anything else."""

REACH = 8.0
"""Distance from x, in widths τ, beyond which a kernel is neglected beside nearer ones."""

NEAREST = 32
"""Nearest points that are summed where none is within `REACH`."""

MAX_EXTENT = 2.0**31
"""Largest extent of the points in bandwidths; with more, numbers of tiles would exceed 2³⁰ and be clamped."""

PAIRS = 2**19
"""Pairs of a row and a point that are computed at once."""


class _Sorted(NamedTuple):
    """Points in the order of their tiles, with the keys of these."""

    keys: Int64[Tensor, "N"]
    points: Float64[Tensor, "N 2"]


class KernelDensity(nn.Module):
    """Equal Gaussian kernels on many points.

    `torch.func.vmap` cannot be used, because which kernels are summed depends on x.

    Args:
        points: x_i, in data units.
        bandwidth: h, in data units.

    Raises:
        ValueError: the bandwidth is below 5e-10 of the points' extent.
    """

    points: Tensor

    def __init__(self, points: Float64[Tensor, "N 2"], *, bandwidth: float) -> None:
        super().__init__()
        extent = float((points.amax(0) - points.amin(0)).max())
        if extent > MAX_EXTENT * bandwidth:
            raise ValueError(
                f"bandwidth={bandwidth:g} is too small for points that lie up to {extent:.3g} apart; "
                f"give at least {extent / MAX_EXTENT:.2g}, or leave out what lies far from the others"
            )
        self.register_buffer("points", points, persistent=False)
        self.bandwidth = bandwidth
        self._lattices: dict[int, Lattice | None] = {}
        self._sorted: dict[int, _Sorted] = {}

    @cached_property
    def tree(self) -> cKDTree:
        """The points as a k-d tree, for the search of nearest points."""
        return cKDTree(self.points.cpu().numpy(), balanced_tree=False, compact_nodes=False)

    def log_prob(self, x: Rows, sigma: Values) -> Values:
        """log p_σ at rows of points, in nats."""
        return self(x, sigma)[:, 0]

    def score(self, x: Rows, sigma: Values) -> Rows:
        """∇ₓ log p_σ at rows of points, in 1 / data units."""
        return self(x, sigma)[:, 1:]

    def forward(self, x: Rows, sigma: Values) -> Sums:
        """log p_σ and its gradient at rows of points."""
        width = (self.bandwidth**2 + sigma.square()).sqrt()
        octaves = (2 * width.detach().log2()).floor().long()
        rows = [(octaves == octave).nonzero().squeeze(-1) for octave in octaves.unique()]
        parts = [self._of_octave(x[r], width[r], int(octaves[r[0]])) for r in rows]
        return torch.cat([x.new_empty(0, 3), *parts])[torch.cat([octaves[:0], *rows]).argsort()]

    def _of_octave(self, x: Rows, width: Values, octave: int) -> Sums:
        """log p_σ and its gradient at rows whose widths τ lie in one half octave."""
        lattice = self._lattice(octave)
        mass, slopes = (lattice.sums(x, width) if lattice else self._near_sums(x, width, octave)).split([1, 2], dim=-1)
        least = math.exp(-(REACH**2) / 2) / len(self.points)
        somewhere = x.detach().isfinite().all(-1)
        far = (mass.detach()[:, 0] < least).logical_and(somewhere).nonzero().squeeze(-1)
        mass = mass.clamp(min=least)
        found = torch.cat([mass.log() - (2 * math.pi * width.square()).log()[:, None], slopes / mass], dim=-1)
        found = found.where(somewhere[:, None], math.nan)
        return found.index_copy(0, far, self._nearest(x[far], width[far])) if len(far) else found

    def _lattice(self, octave: int) -> Lattice | None:
        """The lattice of a half octave; None where it would need too many tiles.

        It is made from the points, or from the nodes of the next finer lattice where these are fewer.
        """
        if octave not in self._lattices:
            finer = self._lattice(octave - 1) if octave > math.floor(2 * math.log2(self.bandwidth)) else None
            equal = torch.full_like(self.points[:, 0], 1 / len(self.points))
            centres, weights = finer.centres() if finer and finer.size < len(equal) else (self.points, equal)
            self._lattices[octave] = Lattice.of(centres, weights, origin=self._origin, octave=octave)
        lattice = self._lattices[octave]
        if lattice and lattice.keys.device != self.points.device:
            self._lattices[octave] = lattice = lattice.to(self.points.device)
        return lattice

    @property
    def _origin(self) -> Float64[Tensor, "2"]:
        """The origin of all lattices, in data units."""
        return self.points[0]

    def _in_tiles(self, octave: int) -> _Sorted:
        """The points in the order of their tiles; only the last octave's order is kept."""
        kept = self._sorted.get(octave)
        if kept is None or kept.keys.device != self.points.device:
            keys, order = tile_keys(tiles(self.points, self._origin, octave)).sort()
            kept = _Sorted(keys, self.points[order])
            self._sorted = {octave: kept}
        return kept

    def _near_sums(self, x: Rows, width: Values, octave: int) -> Sums:
        """The sum of the kernels in the tiles around each x, and its gradient."""
        keys, points = self._in_tiles(octave)
        middle = tile_keys(tiles(x, self._origin, octave))[:, None]
        middle = middle + COLUMN * torch.arange(-RINGS, RINGS + 1, device=x.device)
        first = torch.searchsorted(keys, middle - RINGS)
        counts = torch.searchsorted(keys, middle + RINGS, right=True) - first
        part = counts.sum(-1).cumsum(0) // PAIRS
        pieces = part.unique_consecutive(return_counts=True)[1].tolist()
        split = zip(*(field.split(pieces) for field in (x, width, first, counts)), strict=True)
        return torch.cat([_pair_sums(points, *piece) for piece in split])

    def _nearest(self, x: Rows, width: Values) -> Sums:
        """log p_σ and its gradient, from the nearest points only."""
        nearest = torch.tensor(self.tree.query(x.detach().tolist(), k=NEAREST)[1], device=x.device)
        away = self.points[nearest] - x[:, None]
        precision = width.pow(-2)[:, None]
        exponents = -0.5 * precision * away.square().sum(-1)
        log_p = exponents.logsumexp(-1) - (2 * math.pi * len(self.points) * width.square()).log()
        pull = precision * torch.einsum("nk,nkd->nd", exponents.softmax(-1), away)
        return torch.cat([log_p[:, None], pull], dim=-1)


def kernel_density(points: Float64[Tensor, "N 2"], *, bandwidth: float) -> GaussianMixture | KernelDensity:
    """Equal Gaussian kernels of bandwidth h (data units) on points: a mixture where there are few of them."""
    if len(points) > FEW_POINTS:
        return KernelDensity(points, bandwidth=bandwidth)
    kernels = isotropic(bandwidth, points)
    return GaussianMixture(points, weights=torch.ones(len(points)), variances=kernels, scale=bandwidth)


def _pair_sums(
    points: Float64[Tensor, "N 2"],
    x: Rows,
    width: Values,
    first: Int64[Tensor, "n stretches"],
    counts: Int64[Tensor, "n stretches"],
) -> Sums:
    """Sum the kernels of stretches of the sorted points, divided by N; `counts` points from `first` on for each."""
    counts, before = counts.flatten(), counts.flatten().cumsum(0) - counts.flatten()
    place = torch.arange(int(counts.sum()), device=x.device) + (first.flatten() - before).repeat_interleave(counts)
    row = torch.arange(len(x), device=x.device).repeat_interleave(counts.view(len(x), -1).sum(-1))
    away = points[place] - x[row]
    precision = width.pow(-2)[row]
    mass = (-0.5 * precision * away.square().sum(-1)).exp() / len(points)
    terms = torch.cat([mass[:, None], (precision * mass)[:, None] * away], dim=-1)
    return x.new_zeros(len(x), 3).index_add(0, row, terms)
