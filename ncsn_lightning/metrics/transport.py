r"""Wasserstein distances of two samples, in data units: exact, and sliced."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.validation import Count, strict
from .samples import SampleMetric, Truth

MAX_PIVOTS = 10**8
"""Most pivots of the network simplex; 10000 points take about a million."""


def wasserstein2(x: Float[Tensor, "n 2"], y: Float[Tensor, "m 2"]) -> float:
    r"""$W_2 = \min_\pi \big(\sum_{ij} \pi_{ij} \|x_i - y_j\|^2\big)^{1/2}$, exact, in data units.

    The network simplex takes about one second for 2000 points, and half a minute for 10000. Library: POT: Python
    Optimal Transport, Flamary et al., 2021.
    """
    import ot  # the import takes a second, which only this metric should cost

    cost = torch.cdist(x.double(), y.double()).square().cpu().numpy()
    squared = ot.emd2([], [], cost, numItermax=MAX_PIVOTS)
    return math.sqrt(max(float(squared), 0.0))


def sliced_wasserstein2(x: Float[Tensor, "n 2"], y: Float[Tensor, "n 2"], *, num_angles: int) -> float:
    r"""$\big(\tfrac1K \sum_k W_2^2(u_k \cdot x, u_k \cdot y)\big)^{1/2}$ over K even angles in [0, π), in data units.

    In one dimension the optimal plan pairs the sorted points. Source: Wasserstein Barycenter and Its Application to
    Texture Mixing, Rabin et al., 2011, §2.3.
    """
    angles = math.pi * torch.arange(num_angles, dtype=torch.float64, device=x.device) / num_angles
    directions = torch.stack([angles.cos(), angles.sin()])
    first, second = ((points.double() @ directions).sort(dim=0).values for points in (x, y))
    return float((first - second).square().mean().sqrt())


class Wasserstein2(SampleMetric):
    """The exact W₂ between the samples and as many draws of the truth, see `wasserstein2`.

    Its floor is high and falls slowly with n, so compare only values of the same n.

    Args:
        num_points: see `SampleMetric`.
    """

    @strict
    def __init__(self, *, num_points: Count | None = 2000) -> None:
        super().__init__(num_points=num_points)

    def forward(self, samples: Float[Tensor, "n 2"], truth: Truth) -> float:
        """The exact W₂ to the draw of the truth, in data units."""
        return wasserstein2(samples, truth.points)


class SlicedWasserstein2(SampleMetric):
    """The sliced W₂ between the samples and as many draws of the truth, see `sliced_wasserstein2`.

    Args:
        num_angles: K.
        num_points: see `SampleMetric`.
    """

    @strict
    def __init__(self, *, num_angles: Count = 32, num_points: Count | None = None) -> None:
        super().__init__(num_points=num_points)
        self.num_angles = num_angles

    def forward(self, samples: Float[Tensor, "n 2"], truth: Truth) -> float:
        """The sliced W₂ to the draw of the truth, in data units."""
        return sliced_wasserstein2(samples, truth.points, num_angles=self.num_angles)
