r"""Distances computed from means over pairs of points.

They are unbiased U-statistics: averaged over samples of the truth they are 0. Pairs are processed in chunks, so that
the memory does not grow with n².
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.validation import Count, Positive, strict
from ..distributions.base import Distribution
from .samples import SampleMetric, Truth

PAIRS = 2**20
"""Pairs in a chunk, which takes 8 MiB of float64."""

Kernel = Callable[[Float64[Tensor, "rows m"]], Float64[Tensor, "rows m"]]
"""A function of the distance between two points."""


def _mean_over_pairs(kernel: Kernel, x: Float64[Tensor, "n 2"], y: Float64[Tensor, "m 2"]) -> float:
    """The mean of kernel(‖x_i − y_j‖) over all i and j."""
    rows = max(1, PAIRS // len(y))
    return math.fsum(float(kernel(torch.cdist(chunk, y)).sum()) for chunk in x.split(rows)) / (len(x) * len(y))


def _mean_over_others(kernel: Kernel, x: Float64[Tensor, "n 2"]) -> float:
    """The mean of kernel(‖x_i − x_j‖) over i ≠ j."""
    n, diagonal = len(x), float(kernel(x.new_zeros(1, 1)))
    return (n * _mean_over_pairs(kernel, x, x) - diagonal) / (n - 1)


def _squared_discrepancy(kernel: Kernel, x: Float[Tensor, "n 2"], y: Float[Tensor, "m 2"]) -> float:
    """E k(x, x′) + E k(y, y′) − 2 E k(x, y), unbiased."""
    x, y = x.double(), y.double()
    return _mean_over_others(kernel, x) + _mean_over_others(kernel, y) - 2 * _mean_over_pairs(kernel, x, y)


def energy_distance(x: Float[Tensor, "n 2"], y: Float[Tensor, "m 2"]) -> float:
    r"""$2\,\mathrm E\|X - Y\| - \mathrm E\|X - X'\| - \mathrm E\|Y - Y'\|$, in data units, unbiased.

    It may be negative. Source: Energy Statistics: A Class of Statistics Based on Distances, Székely & Rizzo, 2013,
    eq. 5.
    """
    return _squared_discrepancy(torch.neg, x, y)


def squared_mmd(x: Float[Tensor, "n 2"], y: Float[Tensor, "m 2"], *, bandwidths: list[float]) -> float:
    r"""MMD² with the mean of the kernels $\exp(-\|x - y\|^2 / 2 b^2)$; unbiased, so it may be negative.

    Source: A Kernel Two-Sample Test, Gretton et al., 2012, eq. 3.
    """

    def kernel(distance: Float64[Tensor, "rows m"]) -> Float64[Tensor, "rows m"]:
        return torch.stack([torch.exp(-(distance / b).square() / 2) for b in bandwidths]).mean(0)

    return _squared_discrepancy(kernel, x, y)


def median_distance(target: Distribution, sigma: float = 0.0) -> float:
    """The median distance between two different points of p_σ, in data units, from a fixed sample."""
    distances = torch.pdist(target.noisy_points(sigma)[:1024].double())
    return float(distances[distances > 0].median())


class EnergyDistance(SampleMetric):
    """The energy distance between the samples and as many draws of the truth, see `energy_distance`.

    Args:
        num_points: see `SampleMetric`.
    """

    @strict
    def __init__(self, *, num_points: Count | None = 1000) -> None:
        super().__init__(num_points=num_points)

    def forward(self, samples: Float[Tensor, "n 2"], truth: Truth) -> float:
        """The energy distance to the draw of the truth, in data units."""
        return energy_distance(samples, truth.points)


class SquaredMMD(SampleMetric):
    """MMD² between the samples and as many draws of the truth, see `squared_mmd`.

    Args:
        bandwidths: b, in units of the median distance between two points of the target, which samples cannot change.
        num_points: see `SampleMetric`.
    """

    @strict
    def __init__(self, *, bandwidths: list[Positive] | None = None, num_points: Count | None = 1000) -> None:
        super().__init__(num_points=num_points)
        self.bandwidths = bandwidths or [0.1, 0.3, 1.0]

    def forward(self, samples: Float[Tensor, "n 2"], truth: Truth) -> float:
        """MMD² to the draw of the truth, dimensionless."""
        median = median_distance(truth.target, truth.sigma)
        return squared_mmd(samples, truth.points, bandwidths=[b * median for b in self.bandwidths])
