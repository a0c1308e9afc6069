r"""How wide the kernels of a density of points should be, and whether they hide what the points show.

Scott's rule, $h = \sigma_d N^{-1/6}$, is made for one round cloud. Leaving one out makes no such assumption: it asks
how likely each point is under the kernels of the others,

$$\ell(h) = \frac1N \sum_i \log\Big(\big(1 - \tfrac1N\big)\, p_{-i}(x_i) + \frac1N\,\frac1{E^2}\Big), \qquad
  p_{-i}(x) = \frac1{N - 1} \sum_{j \ne i} \mathcal N(x; x_j, h^2 I).$$

The second term, an even background over the extent E of the points, bounds what a lonely point costs, which would else
decide alone. Source without it: On the Choice of Smoothing Parameters for Parzen Estimators of Probability Density
Functions, Duin, 1976. Points that coincide count once, or h = 0 would be the best.
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
"""Points whose likelihood is averaged, to some hundredths of a nat; structure that is missed costs tenths."""

SAMPLE = 8192
"""Points by which it is judged whether kernels are too wide."""

NEIGHBOURS = 16
"""The nearest points: all that counts for one that is lonely at this width."""

MATTERS = 0.1
"""Nats a point that narrower kernels must gain before wide ones are said to hide something."""


def scott(points: Float64[Tensor, "N 2"]) -> float:
    """Scott's rule (Multivariate Density Estimation, Scott, 1992), data units; 0 for a single distinct point."""
    return math.sqrt(float(points.var(dim=0, correction=0).mean())) * float(len(points)) ** (-1 / 6)


def spacing(points: Float64[Tensor, "N 2"]) -> float:
    """The median distance from a distinct point to its nearest neighbour, data units; infinite for a single one."""
    return _Neighbourhood.of(_distinct(points), lowest=1.0).spacing


def most_likely(points: Float64[Tensor, "N 2"]) -> float:
    """The bandwidth of the largest ℓ, to some 5 %, between a quarter of the spacing and twice Scott's; data units."""
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
    """By how much kernels of a quarter of the bandwidth make a point more likely, nats; below 0 where they do not."""
    distinct = _distinct(points)
    if len(distinct) < 3:
        return 0.0
    around = _Neighbourhood.of(_some(distinct, SAMPLE), lowest=bandwidth / 4)
    return around.log_likelihood(bandwidth / 4) - around.log_likelihood(bandwidth)


class _Neighbourhood(NamedTuple):
    """Some of many distinct points, and what lies around them."""

    rows: Float64[Tensor, "rows 2"]
    distances: Float64[Tensor, "rows neighbours"]
    points: Float64[Tensor, "N 2"]
    density: GaussianMixture | KernelDensity
    lowest: float

    @classmethod
    def of(cls, points: Float64[Tensor, "N 2"], *, lowest: float) -> _Neighbourhood:
        """For bandwidths from `lowest`."""
        rows, density = _some(points, ROWS), kernel_density(points, bandwidth=lowest)
        distances = cKDTree(points.numpy(), balanced_tree=False).query(rows.numpy(), k=range(2, NEIGHBOURS + 2))[0]
        return cls(rows, torch.from_numpy(distances), points, density, lowest)

    @property
    def spacing(self) -> float:
        return float(self.distances[:, 0].median())

    def log_likelihood(self, bandwidth: float) -> float:
        """ℓ(h), nats."""
        n, area = len(self.points), 2 * math.pi * bandwidth**2
        level = math.sqrt(max(bandwidth**2 - self.lowest**2, 0))
        with torch.no_grad():
            everything = self.density.log_prob(self.rows, torch.full_like(self.rows[:, 0], level)).exp() * n * area
        nearest = (-0.5 * (self.distances / bandwidth).square()).exp().sum(-1)
        others = torch.where(nearest < 0.01, nearest, everything - 1)  # where little is left, little must be right
        extent = float((self.points.amax(0) - self.points.amin(0)).max())
        return float(((1 - 1 / n) * others / ((n - 1) * area) + 1 / (n * extent**2)).log().mean())


def _distinct(points: Float64[Tensor, "N 2"]) -> Float64[Tensor, "M 2"]:
    pairs = np.ascontiguousarray(points.cpu().numpy()).view(np.complex128)
    return torch.from_numpy(np.unique(pairs).view(np.float64).reshape(-1, 2))


def _some(points: Float64[Tensor, "N 2"], count: int) -> Float64[Tensor, "M 2"]:
    """A fixed choice of so many points, or all."""
    if len(points) <= count:
        return points
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:count]]
