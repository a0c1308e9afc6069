r"""A kernel density of many points, at a cost that hardly depends on their number.

$$p_\sigma(x) = \frac1N \sum_i \mathcal N(x; x_i, \tau^2 I), \qquad \tau^2 = h^2 + \sigma^2$$

Widths τ of one half octave share a lattice (`lattice.py`), made when first asked for. Where the points lie so thinly
that a lattice would have more nodes than is worth it, those near x are summed up one by one. What is further from x
than eight τ does not count; where all are, the nearest do.
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

FEW = 2**12
"""Points up to which the plain sum is as fast as any other."""

REACH = 8.0
"""Widths τ beyond which a kernel does not count beside others."""

NEAREST = 32
"""Points that count where none is within reach."""

FINEST = 2.0**31
"""Bandwidths in the extent of the points: more would leave no digits to tell tiles apart."""

PAIRS = 2**19
"""Pairs of a row and a point that are summed at once."""


class _Sorted(NamedTuple):
    """Points in the order of the tiles they lie in."""

    keys: Int64[Tensor, "N"]
    points: Float64[Tensor, "N 2"]


class KernelDensity(nn.Module):
    """Equal Gaussian kernels on many points. Not for `torch.func.vmap`: what is summed depends on where x lies.

    Args:
        points: data units.
        bandwidth: h, data units.

    Raises:
        ValueError: the bandwidth is below 5e-10 of the points' extent.
    """

    points: Tensor

    def __init__(self, points: Float64[Tensor, "N 2"], *, bandwidth: float) -> None:
        super().__init__()
        extent = float((points.amax(0) - points.amin(0)).max())
        if extent > FINEST * bandwidth:
            raise ValueError(
                f"bandwidth={bandwidth:g} is too small for points that lie up to {extent:.3g} apart; "
                f"give at least {extent / FINEST:.2g}, or leave out what lies far from the others"
            )
        self.register_buffer("points", points, persistent=False)
        self.bandwidth = bandwidth
        self._lattices: dict[int, Lattice | None] = {}
        self._sorted: dict[int, _Sorted] = {}

    @cached_property
    def tree(self) -> cKDTree:
        """The points as a tree, in which the nearest are found."""
        return cKDTree(self.points.cpu().numpy(), balanced_tree=False, compact_nodes=False)

    def log_prob(self, x: Rows, sigma: Values) -> Values:
        """log p_σ of rows."""
        return self(x, sigma)[:, 0]

    def score(self, x: Rows, sigma: Values) -> Rows:
        """∇ₓ log p_σ of rows."""
        return self(x, sigma)[:, 1:]

    def forward(self, x: Rows, sigma: Values) -> Sums:
        """log p_σ and its gradient."""
        width = (self.bandwidth**2 + sigma.square()).sqrt()
        octaves = (2 * width.detach().log2()).floor().long()
        rows = [(octaves == octave).nonzero().squeeze(-1) for octave in octaves.unique()]
        parts = [self._of_octave(x[r], width[r], int(octaves[r[0]])) for r in rows]
        return torch.cat([x.new_empty(0, 3), *parts])[torch.cat([octaves[:0], *rows]).argsort()]

    def _of_octave(self, x: Rows, width: Values, octave: int) -> Sums:
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
        """The lattice of a half octave, made of the points, or of the next finer lattice where that has fewer nodes."""
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
        return self.points[0]

    def _in_tiles(self, octave: int) -> _Sorted:
        """The points in the order of their tiles; kept for the last octave alone."""
        kept = self._sorted.get(octave)
        if kept is None or kept.keys.device != self.points.device:
            keys, order = tile_keys(tiles(self.points, self._origin, octave)).sort()
            kept = _Sorted(keys, self.points[order])
            self._sorted = {octave: kept}
        return kept

    def _near_sums(self, x: Rows, width: Values, octave: int) -> Sums:
        """The sum over the points in the tiles around each x, and its gradient."""
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
        """log p_σ and its gradient by the nearest points alone."""
        nearest = torch.tensor(self.tree.query(x.detach().tolist(), k=NEAREST)[1], device=x.device)
        away = self.points[nearest] - x[:, None]
        precision = width.pow(-2)[:, None]
        exponents = -0.5 * precision * away.square().sum(-1)
        log_p = exponents.logsumexp(-1) - (2 * math.pi * len(self.points) * width.square()).log()
        pull = precision * torch.einsum("nk,nkd->nd", exponents.softmax(-1), away)
        return torch.cat([log_p[:, None], pull], dim=-1)


def kernel_density(points: Float64[Tensor, "N 2"], *, bandwidth: float) -> GaussianMixture | KernelDensity:
    """Equal Gaussian kernels on points: a mixture where they are few."""
    if len(points) > FEW:
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
    """Sums over stretches of the points, which begin at `first`; divided by N."""
    counts, before = counts.flatten(), counts.flatten().cumsum(0) - counts.flatten()
    place = torch.arange(int(counts.sum()), device=x.device) + (first.flatten() - before).repeat_interleave(counts)
    row = torch.arange(len(x), device=x.device).repeat_interleave(counts.view(len(x), -1).sum(-1))
    away = points[place] - x[row]
    precision = width.pow(-2)[row]
    mass = (-0.5 * precision * away.square().sum(-1)).exp() / len(points)
    terms = torch.cat([mass[:, None], (precision * mass)[:, None] * away], dim=-1)
    return x.new_zeros(len(x), 3).index_add(0, row, terms)
