r"""The pinwheel: Gaussian blobs stretched along a radius and twisted by an angle that grows with it.

Given the radial normal z₁, a point of arm k is zoom · R(θ_k) (f, b z₂) plus noise, with f = 1 + a z₁ and the angle
θ_k = 2πk/K + rate · exp(f): a Gaussian about a place on a curve, wide along the tangent and as narrow as the noise
along the radius. The density is therefore a one-dimensional integral over z₁ of anisotropic Gaussians, and a mixture
once the nodes of a quadrature rule are fixed.

Far from the data the arms never end: exp(f) winds them ever more tightly. The target is therefore *defined* as the
mixture over the nodes, |z₁| ≤ 6: samples are drawn from that mixture, and its density and score are exact everywhere.
It differs from the untruncated pinwheel by less than 1e-7 in total variation, and by less than 1e-6 in relative density
wherever p_σ has samples. In the empty space between and beyond the arms the two densities are different.
"""

from __future__ import annotations

import math

import torch

from ..core.validation import Count, Finite, Positive, Values, strict
from .mixture import GaussianMixture
from .quadrature import PEAK_STEP, spaced_rule

CUT_OFF = 6.0
"""Largest |z₁|."""

OFF_AXIS = 7.5
"""Tangential standard deviations up to which the nodes resolve the density beside the curve."""

MAX_NODES = 20_000
"""Most nodes of the quadrature; noise so small that it needs more is refused."""


class Pinwheel(GaussianMixture):
    r"""Arms that leave the centre and wind around it.

    x = zoom · R(2πk/K + rate · exp(f)) (f, tangential_std · z₂) + N(0, noise²), f = 1 + radial_std · z₁, k uniform.
    After Johnson et al., "Composing graphical models with neural networks for structured representations and fast
    inference", 2016; the noise is ours, without which the quadrature has no bounded cost as σ → 0.

    Args:
        arms: K.
        radial_std: a, the standard deviation along an arm, before zooming.
        tangential_std: b, the standard deviation across an arm, before zooming.
        rate: of the twist, in radians at f = 0.
        zoom: factor on the arms, not on the noise.
        noise: its standard deviation, in data units.
    """

    @strict
    def __init__(
        self,
        *,
        arms: Count = 5,
        radial_std: Positive = 0.3,
        tangential_std: Positive = 0.1,
        rate: Finite = 0.25,
        zoom: Positive = 2.0,
        noise: Positive = 0.05,
    ) -> None:
        along = math.hypot(zoom * tangential_std, noise)

        def density(z: Values) -> Values:
            """Nodes per unit of z₁: how fast the radial and the tangential residual of a nearby point change."""
            twist = abs(rate) * radial_std * torch.exp(1 + radial_std * z)
            radial = (zoom * radial_std + OFF_AXIS * along * twist) / noise
            tangential = zoom * (1 + radial_std * z) * twist / along
            return (1 + radial.square() + tangential.square()).sqrt() / PEAK_STEP

        if (
            arms * 2 * CUT_OFF * float(density(torch.tensor([-CUT_OFF, CUT_OFF], dtype=torch.float64)).max())
            > MAX_NODES
        ):
            raise ValueError(f"noise={noise:g} is too small for a pinwheel of this size and twist; choose a larger one")
        z, steps = spaced_rule(-CUT_OFF, CUT_OFF, density)
        radius = 1 + radial_std * z
        turn = 2 * math.pi * torch.arange(arms, dtype=torch.float64)[:, None] / arms
        angle = (turn + rate * radius.exp()).flatten()
        outward = torch.stack([angle.cos(), angle.sin()], dim=-1)
        super().__init__(
            zoom * radius.repeat(arms)[:, None] * outward,
            weights=(steps * torch.exp(-0.5 * z.square())).repeat(arms),
            variances=torch.tensor([[along**2, noise**2]], dtype=torch.float64).expand(len(angle), 2),
            directions=torch.stack([-outward[:, 1], outward[:, 0]], dim=-1),
            scale=noise,
            unit=zoom / 2,
        )
