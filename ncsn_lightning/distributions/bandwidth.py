r"""How wide the kernels of a kernel density should be, and whether they hide structure of the points.

Scott's rule, $h = \sigma_d N^{-1/6}$, is made for one round cloud. The leave-one-out likelihood ℓ makes no such
assumption. It asks how likely each point is under the kernels of all other points:

$$\ell(h) = \frac1N \sum_i \log\Big(\big(1 - \tfrac1N\big)\, p_{-i}(x_i) + \frac1N\,\frac1{E^2}\Big), \qquad
  p_{-i}(x) = \frac1{N - 1} \sum_{j \ne i} \mathcal N(x; x_j, h^2 I).$$

The second term is an even background over the extent E of the points. It bounds the cost of an isolated point, which
would otherwise decide alone. Source, without that term: On the Choice of Smoothing Parameters for Parzen Estimators of
Probability Density Functions, Duin, 1976. Points that coincide count once, or else h = 0 would be best.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from scipy.optimize import minimize_scalar
from scipy.spatial import cKDTree
from torch import Tensor

from .kernels import KernelDensity, kernel_density
from .mixture import GaussianMixture

ROWS = 2000
"""Points over which ℓ is averaged: its error is some hundredths of a nat, while missed structure costs tenths."""

SAMPLE = 8192
"""Most points that `gain_of_narrower` looks at."""

NEIGHBOURS = 16
"""Nearest points whose kernels are summed one by one for an isolated point."""

NOTABLE_GAIN = 0.1
"""Gain of narrower kernels, in nats a point, above which `Points.hides_structure` is true."""


def scott(points: Float64[Tensor, "N 2"]) -> float:
    """Scott's rule (Multivariate Density Estimation, Scott, 1992), data units; 0 for a single distinct point."""
    return math.sqrt(float(points.var(dim=0, correction=0).mean())) * float(len(points)) ** (-1 / 6)


def spacing(points: Float64[Tensor, "N 2"]) -> float:
    """The median distance from a distinct point to its nearest neighbour, data units; infinite for a single one."""
    return _Neighbourhood.of(_distinct(points), lowest=1.0).spacing


def most_likely(points: Float64[Tensor, "N 2"]) -> float:
    """The bandwidth that maximises ℓ, in data units, to about 5 %.

    It is searched between a quarter of `spacing` and twice the bandwidth of `scott`.
    """
    distinct = _distinct(points)
    lowest, highest = spacing(points) / 4, 2 * scott(distinct)
    around = _Neighbourhood.of(distinct, lowest=lowest)
    octaves = range(math.ceil(math.log2(max(highest / lowest, 1))) + 1)
    best = max(octaves, key=lambda k: around.log_likelihood(lowest * 2**k))
    found = minimize_scalar(
        lambda k: -around.log_likelihood(lowest * 2**k), bounds=(best - 1, best + 1), options={"xatol": 0.05}
    )
    return float(max(lowest, lowest * 2**found.x))


def gain_of_narrower(points: Float64[Tensor, "N 2"], bandwidth: float) -> float:
    """How much ℓ grows when kernels become a quarter as wide, in nats a point; negative where it falls."""
    distinct = _distinct(points)
    if len(distinct) < 3:
        return 0.0
    around = _Neighbourhood.of(_some(distinct, SAMPLE), lowest=bandwidth / 4)
    return around.log_likelihood(bandwidth / 4) - around.log_likelihood(bandwidth)


class _Neighbourhood(NamedTuple):
    """Some of many distinct points, and what ℓ needs to know about their neighbours.

    Attributes:
        rows: the points over which ℓ is averaged, in data units.
        distances: from each of them to its nearest other points, ascending, in data units.
        points: all points, in data units.
        density: their kernel density with the bandwidth `lowest`.
        lowest: the smallest bandwidth that can be asked for, in data units.
    """

    rows: Float64[Tensor, "rows 2"]
    distances: Float64[Tensor, "rows neighbours"]
    points: Float64[Tensor, "N 2"]
    density: GaussianMixture | KernelDensity
    lowest: float

    @classmethod
    def of(cls, points: Float64[Tensor, "N 2"], *, lowest: float) -> _Neighbourhood:
        """Prepare ℓ for bandwidths of at least `lowest`."""
        rows, density = _some(points, ROWS), kernel_density(points, bandwidth=lowest)
        distances = cKDTree(points.numpy(), balanced_tree=False).query(rows.numpy(), k=range(2, NEIGHBOURS + 2))[0]
        return cls(rows, torch.from_numpy(distances), points, density, lowest)

    @property
    def spacing(self) -> float:
        """The median distance to the nearest other point, in data units."""
        return float(self.distances[:, 0].median())

    def log_likelihood(self, bandwidth: float) -> float:
        """ℓ(h) in nats a point."""
        n, area = len(self.points), 2 * math.pi * bandwidth**2
        level = math.sqrt(max(bandwidth**2 - self.lowest**2, 0))
        with torch.no_grad():
            everything = self.density.log_prob(self.rows, torch.full_like(self.rows[:, 0], level)).exp() * n * area
        nearest = (-0.5 * (self.distances / bandwidth).square()).exp().sum(-1)
        others = torch.where(nearest < 0.01, nearest, everything - 1)  # a small difference would have no digits left
        extent = float((self.points.amax(0) - self.points.amin(0)).max())
        return float(((1 - 1 / n) * others / ((n - 1) * area) + 1 / (n * extent**2)).log().mean())


def _distinct(points: Float64[Tensor, "N 2"]) -> Float64[Tensor, "M 2"]:
    """The points without repetitions."""
    pairs = np.ascontiguousarray(points.cpu().numpy()).view(np.complex128)
    return torch.from_numpy(np.unique(pairs).view(np.float64).reshape(-1, 2))


def _some(points: Float64[Tensor, "N 2"], count: int) -> Float64[Tensor, "M 2"]:
    """A fixed choice of `count` points, or all of them where there are no more."""
    if len(points) <= count:
        return points
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:count]]
