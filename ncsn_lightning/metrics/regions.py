r"""Metrics of where samples lie: on the support, near true points, in modes, in the cells of a grid."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from scipy.spatial import cKDTree
from torch import Tensor

from ..core.validation import Count, strict
from ..distributions.base import Distribution
from ..distributions.mixture import Modes
from .samples import SampleMetric, Truth

FINE = 8
"""Points along the side of a cell at which a density is evaluated, to be averaged."""


def total_variation(p: Float[Tensor, "cells"], q: Float[Tensor, "cells"]) -> float:
    r"""$\tfrac12 \sum_k |p_k - q_k|$ of the masses of disjoint cells; mass missing to 1 counts as one more cell."""
    difference = p.double() - q.double()
    return float(difference.abs().sum() + difference.sum().abs()) / 2


def off_support(target: Distribution, samples: Float[Tensor, "n 2"]) -> float:
    """Share of the samples where the noise-free target has no density (0 for targets that are positive everywhere)."""
    return float(torch.isneginf(target.log_prob(samples, 0.0)).double().mean())


def coverage(x: Float[Tensor, "n 2"], y: Float[Tensor, "m 2"], *, neighbours: int) -> float:
    r"""Share of the true points y with a sample x at least as near as the k-th nearest other true point.

    For n = m samples of the truth itself the expectation is $1 - \binom{2n - 1 - k}{n} \big/ \binom{2n - 1}{n}$, about
    $1 - 2^{-k}$. Source: Reliable Fidelity and Diversity Metrics for Generative Models, Naeem et al., 2020, eq. 4.
    """
    samples, truth = (cKDTree(points.double().cpu().numpy()) for points in (x, y))
    radius = truth.query(truth.data, k=[neighbours + 1])[0][:, 0]  # the nearest of all is the point itself
    nearest = samples.query(truth.data, k=1)[0]
    return float((nearest <= radius).mean())


class OffSupport(SampleMetric):
    """The share of the samples where the noise-free target has no density, see `off_support`.

    Only for targets that have no density somewhere.

    Args:
        num_points: see `SampleMetric`.
    """

    least = 1

    def applies(self, target: Distribution) -> bool:
        """Whether the target has no density far outside."""
        far = target.mean + 1000 * target.diameter
        return not math.isfinite(float(target.log_prob(far, 0.0)))

    @strict
    def __init__(self, *, num_points: Count | None = None) -> None:
        super().__init__(num_points=num_points)

    def forward(self, samples: Float[Tensor, "n 2"], truth: Truth) -> float:
        """The share of the samples off the support."""
        return off_support(truth.target, samples)


class CoverageGap(SampleMetric):
    """1 − coverage: the share of true points that no sample comes near, see `coverage`.

    Args:
        neighbours: k.
        num_points: see `SampleMetric`.
    """

    @strict
    def __init__(self, *, neighbours: Count = 5, num_points: Count | None = 2000) -> None:
        super().__init__(num_points=num_points)
        self.neighbours, self.least = neighbours, neighbours + 1

    def forward(self, samples: Float[Tensor, "n 2"], truth: Truth) -> float:
        """1 − the coverage of the draw of the truth by the samples."""
        return 1 - coverage(samples, truth.points, neighbours=self.neighbours)


class _OfModes(SampleMetric):
    """A metric for targets that have modes, and for no others."""

    @strict
    def __init__(self, *, num_points: Count | None = None) -> None:
        super().__init__(num_points=num_points)

    def applies(self, target: Distribution) -> bool:
        """Whether the target has modes."""
        return isinstance(target, Modes)


class ModeWeights(_OfModes):
    r"""Total variation between the weights that samples give to the modes of a mixture and the exact ones.

    $$\tfrac12 \sum_k \Big|\frac1n \sum_i r_k(x_i) - w_k\Big|, \qquad
      r_k(x) = \frac{w_k\, p_{\sigma, k}(x)}{p_\sigma(x)}$$

    It uses the responsibilities r rather than the nearest mode, because their mean over the truth is exactly w, however
    modes overlap. Only for targets that have modes.

    Args:
        num_points: see `SampleMetric`.
    """

    def forward(self, samples: Float[Tensor, "n 2"], truth: Truth) -> float:
        """The total variation of the samples' mean responsibilities from the exact weights."""
        assert isinstance(truth.target, Modes)
        responsibilities = truth.target.responsibilities(samples, truth.sigma)
        return total_variation(responsibilities.mean(0), truth.target.weights)


def within_modes(target: Modes, samples: Float[Tensor, "n 2"], sigma: float = 0.0) -> float:
    r"""Share of the samples within three deviations of a mode; $1 - e^{-9/2}$, 98.89 %, for modes far apart.

    That is the truth's share; a larger one says that modes are drawn too narrow, a smaller one that samples lie between
    modes.
    """
    return float((target.deviations_away(samples, sigma).amin(-1) <= 3).double().mean())


class WithinModes(_OfModes):
    """The difference between samples and truth in the share within three deviations of a mode, see `within_modes`.

    Only for targets that have modes.

    Args:
        num_points: see `SampleMetric`.
    """

    least = 1

    def forward(self, samples: Float[Tensor, "n 2"], truth: Truth) -> float:
        """|share of the samples − share of the draw of the truth|."""
        assert isinstance(truth.target, Modes)
        ours, theirs = (within_modes(truth.target, x, truth.sigma) for x in (samples, truth.points))
        return abs(ours - theirs)


class Grid(NamedTuple):
    """Square cells of side h (data units) from the corner (left, bottom); `shape` is (columns, rows)."""

    left: float
    bottom: float
    h: float
    shape: tuple[int, int]

    def counts(self, x: Float[Tensor, "n 2"]) -> Float64[Tensor, "cells"]:
        """The share of the points in every cell, cells counted column by column."""
        corner = torch.tensor([self.left, self.bottom], dtype=torch.float64, device=x.device)
        column, row = ((x.double() - corner) / self.h).floor().long().unbind(-1)
        columns, rows = self.shape
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        cells = (column * rows + row)[inside]
        return torch.bincount(cells, minlength=columns * rows).double() / len(x)

    def fine_points(self) -> Float64[Tensor, "fine_columns fine_rows 2"]:
        """Evenly spaced points, FINE² in every cell, in data units."""
        ticks = [
            start + (torch.arange(count * FINE, dtype=torch.float64) + 0.5) * self.h / FINE
            for start, count in zip((self.left, self.bottom), self.shape, strict=True)
        ]
        return torch.stack(torch.meshgrid(*ticks, indexing="ij"), dim=-1)


def grid_of(target: Distribution, sigma: float, resolution: int) -> Grid:
    """A grid that covers a fixed sample of p_σ, with `resolution` cells along the longer side."""
    points = target.noisy_points(sigma).double()
    low, high = points.amin(0), points.amax(0)
    h = float((high - low).max()) / resolution
    columns, rows = (max(1, math.ceil(length / h)) for length in (high - low).tolist())
    return Grid(float(low[0]), float(low[1]), h, (columns, rows))


@lru_cache(maxsize=8)
def cell_masses(target: Distribution, sigma: float, grid: Grid) -> Float64[Tensor, "cells"]:
    """The mass of p_σ in every cell, from its mean over a finer grid, smoothed by the spacing of that grid.

    Averaging over a square of side h equals smoothing by N(0, h²/12 I) to fourth order in h, so the sum is the integral
    to that order, at hard edges too.
    """
    columns, rows = grid.shape
    points = grid.fine_points().to(target.mean.device)
    density = target.log_prob(points, math.hypot(sigma, grid.h / FINE / math.sqrt(12))).exp()
    return density.reshape(columns, FINE, rows, FINE).mean((1, 3)).flatten() * grid.h**2


class DensityTV(SampleMetric):
    """Total variation between the samples' shares of the cells of a grid and their exact masses.

    One more cell holds all that lies outside, or else samples thrown far away would cost nothing.

    Args:
        resolution: cells along the longer side.
        num_points: see `SampleMetric`.
    """

    @strict
    def __init__(self, *, resolution: Count = 32, num_points: Count | None = None) -> None:
        super().__init__(num_points=num_points)
        self.resolution = resolution

    def forward(self, samples: Float[Tensor, "n 2"], truth: Truth) -> float:
        """The total variation between both, over the grid's cells and the outside."""
        grid = grid_of(truth.target, truth.sigma, self.resolution)
        return total_variation(grid.counts(samples), cell_masses(truth.target, truth.sigma, grid))
