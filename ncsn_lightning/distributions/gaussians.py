"""The named Gaussian mixtures."""

from __future__ import annotations

import math
from itertools import product
from typing import Annotated

import torch
from jaxtyping import Float64
from pydantic import Field
from torch import Tensor

from ..core.validation import Finite, NonNegative, Positive, strict
from .mixture import GaussianMixture, Modes, isotropic

OpenFraction = Annotated[float, Field(gt=0, lt=1)]
AtLeastTwo = Annotated[int, Field(ge=2)]

SOFTPLUS_OF_ONE = math.log1p(math.e)
FFJORD_RADIUS = 4 / math.sqrt(2)
FFJORD_STD = 0.5 / math.sqrt(2)

# Drawn by torch.manual_seed(0); (torch.rand(40, 2) - 0.5) * 80 on a CPU, and kept as generators may change.
# fmt: off
FORTY_MEANS: tuple[tuple[float, float], ...] = (
    (-0.299472809, 21.4577446), (-32.9218063, -29.437561), (-15.4061747, 10.7262945), (-0.792527199, 31.71558),
    (-3.54976177, 10.5845022), (-12.0885229, -7.86261559), (-38.2139397, -26.4912834), (-16.488924, 1.48174286),
    (15.8134079, 24.0009117), (-27.1176434, -17.4185143), (14.5286846, 33.215519), (-8.23200703, 29.9324703),
    (-6.44733429, 4.23256397), (36.2190475, -37.1068153), (-25.1815186, -10.1266098), (-15.5919981, 34.5600319),
    (-25.9271851, -18.4133148), (-27.9456177, -37.4624405), (-23.3496189, 34.3839226), (17.8487358, 19.3869019),
    (2.10366249, -20.5073395), (6.76738739, -37.3477898), (-28.9026489, -20.6212006), (25.2375183, 23.4528503),
    (-17.7398014, -1.44329548), (25.582428, 39.7653236), (15.8752871, 5.40371418), (26.8194542, -23.5520935),
    (7.4537611, -31.0122204), (-27.7234459, -20.6633415), (18.0989227, 16.0864162), (-23.6940994, 12.0842838),
    (21.9588814, -5.04869461), (1.52726173, 9.26818848), (24.8150635, 38.4077644), (-30.8249435, -14.6587896),
    (15.720396, 33.1419754), (34.8082924, 35.2942696), (7.96058178, -34.7833061), (3.6796999, -25.0242138),
)
# fmt: on


class TwoGaussians(Modes):
    r"""Two modes of unequal weight, far apart, whose weights plain Langevin dynamics gets wrong.

    $$p = w\,\mathcal N((c, c), \mathrm{std}^2 I) + (1 - w)\,\mathcal N((-c, -c), \mathrm{std}^2 I)$$

    Song & Ermon, "Generative modeling by estimating gradients of the data distribution", 2019, section 3.2.2.

    Args:
        offset: c, in data units.
        std: of each mode, in data units; 0 makes two point masses, whose p_σ exists only for σ > 0.
        weight: w, of the mode at (c, c), between 0 and 1.
    """

    @strict
    def __init__(self, *, offset: Positive = 5.0, std: NonNegative = 1.0, weight: OpenFraction = 0.8) -> None:
        means = torch.tensor([[offset, offset], [-offset, -offset]], dtype=torch.float64)
        weights = torch.tensor([weight, 1 - weight], dtype=torch.float64)
        scale = std if std > 0 else 2 * math.sqrt(2) * offset
        super().__init__(means, weights=weights, variances=isotropic(std, means), scale=scale, unit=offset / 5)


class EightGaussians(Modes):
    r"""Equal modes on a circle.

    $$p = \frac1K \sum_{k=0}^{K-1} \mathcal N\big(r\,(\cos 2\pi k/K, \sin 2\pi k/K), \mathrm{std}^2 I\big)$$

    The defaults are those of Grathwohl et al., "FFJORD", 2019; `radius=5 std=1` is the target of TorchCFM (Tong et al.,
    2023).

    Args:
        radius: r, in data units.
        std: of each mode, in data units; 0 makes point masses.
        modes: K.
    """

    @strict
    def __init__(
        self, *, radius: Positive = FFJORD_RADIUS, std: NonNegative = FFJORD_STD, modes: AtLeastTwo = 8
    ) -> None:
        angle = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
        means = radius * torch.stack([angle.cos(), angle.sin()], dim=-1)
        scale = std if std > 0 else 2 * radius * math.sin(math.pi / modes)
        unit = radius / FFJORD_RADIUS
        super().__init__(means, weights=torch.ones(modes), variances=isotropic(std, means), scale=scale, unit=unit)


class GridGaussians(Modes):
    r"""Equal, narrow modes on a square grid centred at the origin: 5 × 5 at {−4, −2, 0, 2, 4}².

    Args:
        side: modes along each side.
        spacing: distance between neighbouring modes, in data units.
        std: of each mode, in data units; 0 makes point masses.
    """

    @strict
    def __init__(self, *, side: AtLeastTwo = 5, spacing: Positive = 2.0, std: NonNegative = 0.05) -> None:
        ticks = [(i - (side - 1) / 2) * spacing for i in range(side)]
        means = torch.tensor(list(product(ticks, ticks)), dtype=torch.float64)
        scale = std if std > 0 else spacing
        unit = spacing / 2
        super().__init__(means, weights=torch.ones(side**2), variances=isotropic(std, means), scale=scale, unit=unit)


class FortyGaussians(Modes):
    r"""Forty equal modes scattered over a wide square, a common target in the literature on samplers.

    $$p = \frac1{40} \sum_k \mathcal N(m_k, \mathrm{std}^2 I), \qquad m_k \sim U([-40, 40]^2) \text{ once and for all}$$

    Midgley et al., "Flow annealed importance sampling bootstrap", 2023. Its entropy is 6.859 nats.

    Args:
        std: of each mode, in data units; softplus(1) by default.
        spread: factor on the means.
    """

    @strict
    def __init__(self, *, std: Positive = SOFTPLUS_OF_ONE, spread: Positive = 1.0) -> None:
        means = spread * torch.tensor(FORTY_MEANS, dtype=torch.float64)
        super().__init__(means, weights=torch.ones(40), variances=isotropic(std, means), scale=std, unit=spread)


class FractalTree(GaussianMixture):
    r"""A binary tree whose branches are elongated Gaussians: seven scales of structure in one target.

    The trunk has length l and thickness w. Each branch ends in two, shorter by `length_ratio`, thinner by
    `width_ratio`, turned by ± `angle`. A branch of length l is N(midpoint, covariance) with the standard deviation
    l/√12 of a uniform segment along itself and w across; its weight is proportional to length × thickness, so that the
    density is even along the tree. The target is our own.

    Args:
        depth: levels, the trunk included; the tree has 2^depth − 1 branches.
        length: of the trunk, in data units.
        width: standard deviation across the trunk, in data units.
        angle: between a branch and each of the two that grow from it, in radians.
        length_ratio: length of a branch over that of its parent.
        width_ratio: thickness of a branch over that of its parent.
    """

    @strict
    def __init__(
        self,
        *,
        depth: Annotated[int, Field(ge=1, le=10)] = 7,
        length: Positive = 2.0,
        width: Positive = 0.1,
        angle: Finite = 0.5,
        length_ratio: OpenFraction = 0.72,
        width_ratio: OpenFraction = 0.75,
    ) -> None:
        if width >= length / math.sqrt(12):
            raise ValueError(f"width={width:g} must be below length / √12 = {length / math.sqrt(12):.4g}: lower it")
        midpoints, directions, level = _tree(depth, length, angle, length_ratio)
        lengths, widths = length * length_ratio**level, width * width_ratio**level
        super().__init__(
            midpoints - torch.tensor([0.0, length]),
            weights=lengths * widths,
            variances=torch.stack([lengths.square() / 12, widths.square()], dim=-1),
            directions=directions,
            scale=min(width * width_ratio ** (depth - 1), length * length_ratio ** (depth - 1) / math.sqrt(12)),
            unit=length / 2,
        )


def _tree(
    depth: int, length: float, angle: float, ratio: float
) -> tuple[Float64[Tensor, "branches 2"], Float64[Tensor, "branches 2"], Float64[Tensor, "branches"]]:
    """Midpoints, directions and levels of the branches of a tree whose trunk stands on the origin, upright."""
    root, heading = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([math.pi / 2], dtype=torch.float64)
    midpoints, directions, levels = [], [], []
    for level in range(depth):
        direction = torch.stack([heading.cos(), heading.sin()], dim=-1)
        step = length * ratio**level * direction
        midpoints.append(root + step / 2)
        directions.append(direction)
        levels.append(torch.full_like(heading, level))
        root, heading = (root + step).repeat(2, 1), torch.cat([heading + angle, heading - angle])
    return torch.cat(midpoints), torch.cat(directions), torch.cat(levels)
