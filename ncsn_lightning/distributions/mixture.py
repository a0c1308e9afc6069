"""Gaussian mixtures, which most targets are; `components.py` evaluates their components."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.validation import Rows, Values
from .base import Distribution
from .components import cheapest, rotate


class GaussianMixture(Distribution):
    """A mixture of K Gaussians, isotropic or not; the named mixtures and the curves derive from it.

    Args:
        means: in data units.
        weights: positive; they are normalised here.
        variances: along and across the component's direction, in data units². Zeros make point masses, whose p_σ exists
            only for σ > 0.
        directions: unit vectors; None for isotropic components.
        scale: smallest length, in data units.
        unit: see `Distribution`.

    Raises:
        ValueError: shapes do not fit each other, or a number is impossible in a mixture.
    """

    means: Tensor
    weights: Tensor
    deviations: Tensor
    directions: Tensor

    def __init__(
        self,
        means: Float[Tensor, "K 2"],
        *,
        weights: Float[Tensor, "K"],
        variances: Float[Tensor, "K 2"],
        scale: float,
        directions: Float[Tensor, "K 2"] | None = None,
        unit: float | None = None,
    ) -> None:
        _check(means, weights, variances, directions)
        means, weights, variances = means.double(), weights.double() / weights.double().sum(), variances.double()
        frame = means.new_tensor([[1.0, 0.0]]).expand_as(means) if directions is None else directions.double()
        mean = weights @ means
        covariance = _covariance(means - mean, weights, variances, frame)
        blur = float(variances.min().sqrt())
        super().__init__(mean=mean, covariance=covariance, scale=scale, blur=blur, unit=unit)
        self._constant("means", means)
        self._constant("weights", weights)
        self._constant("deviations", variances.sqrt())
        self._constant("directions", frame)
        self.components = cheapest(means - mean, weights, variances, None if directions is None else frame)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw components by their weights, then a Gaussian point of each."""
        device = self.means.device
        uniform = torch.rand(n, dtype=torch.float64, device=device, generator=generator)
        component = torch.searchsorted(self.weights.cumsum(0)[:-1].contiguous(), uniform, right=True)
        along, across = (self.deviations[component] * _normal(n, device, generator)).unbind(-1)
        direction = self.directions[component]
        offset = along[:, None] * direction + across[:, None] * rotate(direction)
        return self._rounded(self.means[component] + offset)

    def centred(self) -> Distribution:
        """The same mixture with its means moved.

        A subclass that draws or computes in its own way is wrapped instead, as in the base class.
        """
        names = ("sample", "_log_prob", "_score")
        if self._is_centred or any(getattr(type(self), name) is not getattr(GaussianMixture, name) for name in names):
            return super().centred()
        moved = self._moved()
        moved._constant("means", self.means - self.mean)
        return moved

    def _log_prob(self, x: Rows, sigma: Values) -> Values:
        return self.components.log_sum(x - self.mean, sigma)

    def _score(self, x: Rows, sigma: Values) -> Rows:
        return self.components.score(x - self.mean, sigma)


class Modes(GaussianMixture):
    """A mixture whose components count as modes, so that samples have a weight for each."""

    def responsibilities(self, x: Float[Tensor, "n 2"], sigma: float = 0.0) -> Float64[Tensor, "n K"]:
        r"""$r_k(x) = w_k\,p_{\sigma,k}(x) / p_\sigma(x)$; for point masses at σ = 0 it is 1 for the nearest one.

        Args:
            x: points, in data units.
            sigma: noise level, in data units.
        """
        level = sigma if sigma + self.blur > 0 else 1e-4 * self.scale
        _, points, levels = self._rows(x, level)
        return self.components.responsibilities(points - self.mean, levels)

    def deviations_away(self, x: Float[Tensor, "n 2"], sigma: float = 0.0) -> Float64[Tensor, "n K"]:
        """The Mahalanobis distance of points from each mode at σ; arguments as of `responsibilities`."""
        offset = x.double()[:, None] - self.means
        along, across = (offset * self.directions).sum(-1), (offset * rotate(self.directions)).sum(-1)
        first, second = (self.deviations.square() + sigma**2).unbind(-1)
        return (along.square() / first + across.square() / second).sqrt()


def _check(means: Tensor, weights: Tensor, variances: Tensor, directions: Tensor | None) -> None:
    """Raise a ValueError for numbers that are impossible in a mixture."""
    given = {"means": means, "weights": weights, "variances": variances, "directions": directions}
    for name, values in given.items():
        if values is not None and not isinstance(values, Tensor):
            raise ValueError(f"{name} of the type {type(values).__name__}: give a tensor, torch.as_tensor({name})")
    if means.ndim != 2 or means.shape[1] != 2 or not len(means):
        raise ValueError(f"means of the shape {list(means.shape)}: give [K, 2], a row for each component")
    unit = torch.ones_like(weights) if directions is None else directions.norm(dim=-1)
    for name, values, shape in (
        ("weights", weights, means.shape[:1]),
        ("variances", variances, means.shape),
        ("directions", means if directions is None else directions, means.shape),
    ):
        if values.shape != shape:
            raise ValueError(
                f"{name} of the shape {list(values.shape)}: give {list(shape)}, as means has {len(means)} rows"
            )
    for name, right, remedy in (
        ("means", means.isfinite().all(dim=-1), "finite numbers"),
        ("weights", weights.isfinite() & (weights > 0), "positive numbers"),
        ("variances", (variances.isfinite() & (variances >= 0)).all(dim=-1), "finite numbers of at least 0"),
        ("directions", (unit - 1).abs() < 1e-4, "unit vectors"),
    ):
        if not right.all():
            index = int((~right).nonzero()[0, 0])
            raise ValueError(f"{name} of component {index}: give {remedy}")


def _covariance(
    centred: Float64[Tensor, "K 2"],
    weights: Float64[Tensor, "K"],
    variances: Float64[Tensor, "K 2"],
    directions: Float64[Tensor, "K 2"],
) -> Float64[Tensor, "2 2"]:
    """The covariance of the mixture: that within the components plus that of their means."""
    frames = torch.stack([directions, rotate(directions)], dim=1)  # [K, 2 (along, across), 2]
    within = torch.einsum("k,kf,kfi,kfj->ij", weights, variances, frames, frames)
    return within + torch.einsum("k,ki,kj->ij", weights, centred, centred)


def _normal(n: int, device: torch.device, generator: torch.Generator | None) -> Rows:
    """Standard normal vectors in float64."""
    return torch.randn(n, 2, dtype=torch.float64, device=device, generator=generator)


def isotropic(std: float, like: Float[Tensor, "K 2"]) -> Float64[Tensor, "K 2"]:
    """The `variances` of equal isotropic components, one for each row of `like`; `std` in data units."""
    return torch.full_like(like, std**2, dtype=torch.float64)
