r"""Circles with Gaussian noise, in closed form.

A circle of radius R about the origin, uniform in angle, smoothed by τ² = noise² + σ², has the density

$$p_R(x) = \frac{1}{2\pi\tau^2} \exp\Big(-\frac{(r - R)^2}{2\tau^2}\Big)\, e^{-z} I_0(z), \qquad
  r = \|x\|,\; z = \frac{rR}{\tau^2},$$

with the modified Bessel function I₀; in the radius this is Rice's law. Its score is radial,

$$\nabla \log p_R = \frac{x}{\tau^2}\Big(\frac{R^2}{\tau^2}\,\frac{I_1(z)}{z\,I_0(z)} - 1\Big).$$
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float, Float64
from pydantic import Field
from torch import Tensor

from ..core.validation import Count, Positive, Rows, Values, strict
from .base import Distribution

TINY = 1e-20
"""Added to the squared radius, in data units², to keep the radius differentiable at the origin."""


class ConcentricCircles(Distribution):
    """Equally likely concentric circles with Gaussian noise; the named ones derive from it.

    Args:
        radii: in data units.
        noise: its standard deviation, in data units.
    """

    radii: Tensor

    def __init__(self, radii: Float[Tensor, "circles"], *, noise: float) -> None:
        variance = noise**2 + float(radii.square().mean()) / 2
        covariance = variance * torch.eye(2, dtype=torch.float64)
        unit = float(radii.max()) / 3
        super().__init__(mean=torch.zeros(2), covariance=covariance, scale=noise, blur=noise, unit=unit)
        self.noise = noise
        self._constant("radii", radii)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw a circle and an angle, then add noise."""
        device = self.radii.device
        radius = self.radii[torch.randint(len(self.radii), (n,), device=device, generator=generator)]
        angle = 2 * math.pi * torch.rand(n, dtype=torch.float64, device=device, generator=generator)
        noise = torch.randn(n, 2, dtype=torch.float64, device=device, generator=generator)
        place = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
        return (place + self.noise * noise).float()

    def _log_prob(self, x: Rows, sigma: Values) -> Values:
        return torch.logsumexp(self._exponents(x, sigma)[0], dim=-1) - math.log(len(self.radii))

    def _score(self, x: Rows, sigma: Values) -> Rows:
        exponents, z, variance = self._exponents(x, sigma)
        z = z.clamp(min=1e-12)
        pull = self.radii.square() / variance * torch.special.i1e(z) / (z * torch.special.i0e(z))
        return x / variance * ((torch.softmax(exponents, dim=-1) * pull).sum(-1, keepdim=True) - 1)

    def _exponents(
        self, x: Rows, sigma: Values
    ) -> tuple[Float64[Tensor, "n circles"], Float64[Tensor, "n circles"], Float64[Tensor, "n 1"]]:
        """log p_R and z for every circle, and τ²."""
        variance = self.noise**2 + sigma.square()[:, None]
        radius = (x.square().sum(-1, keepdim=True) + TINY).sqrt()
        z = radius * self.radii / variance
        peak = torch.special.i0e(z).log() - (radius - self.radii).square() / (2 * variance)
        return peak - torch.log(2 * math.pi * variance), z, variance


class Circles(ConcentricCircles):
    r"""Two concentric circles of radii 1 and `factor`, + N(0, noise²), then × zoom.

    Args:
        factor: radius of the inner circle, before zooming, between 0 and 1.
        noise: standard deviation before zooming.
        zoom: factor on points and noise.
    """

    @strict
    def __init__(
        self,
        *,
        factor: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        noise: Positive = 0.08,
        zoom: Positive = 3.0,
    ) -> None:
        super().__init__(zoom * torch.tensor([1.0, factor], dtype=torch.float64), noise=noise * zoom)


class Rings(ConcentricCircles):
    r"""Equally spaced concentric circles, of radii k/K for k = 1 … K, × zoom, + N(0, noise²).

    Args:
        rings: K.
        noise: its standard deviation after zooming, in data units.
        zoom: factor on the circles, not on the noise: the largest radius.
    """

    @strict
    def __init__(self, *, rings: Count = 4, noise: Positive = 0.08, zoom: Positive = 3.0) -> None:
        radii = torch.arange(rings, 0, -1, dtype=torch.float64) / rings
        super().__init__(zoom * radii, noise=noise)
