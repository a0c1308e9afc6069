r"""Gaussian mixtures: the engine behind most targets.

Component k has weight w_k, mean m_k and covariance with eigenvalue a_k along the unit vector u_k and b_k across it.
Smoothing adds σ² to both. With A = a_k + σ², B = b_k + σ²,

$$\ell_k(x) = \log w_k - \log 2\pi - \tfrac12 \log AB - \frac{\|x - m_k\|^2}{2B}
              - \tfrac12\Big(\frac1A - \frac1B\Big)(u_k \cdot (x - m_k))^2,$$

log p_σ = logsumexp_k ℓ_k. Components that share (a, b) form a group, and inside a group ℓ is linear in a few
statistics φ(x, σ) that no longer know k: ℓ = φ(x, σ) C with a constant matrix C. So all exponents come from one matrix
product whatever the shape of σ, and the score from a second one with the same matrix, for

$$\nabla \log p_\sigma = \sum_k r_k \nabla \ell_k = \sum_f \nabla\varphi_f \,(C r)_f, \qquad
  r = \mathrm{softmax}\,\ell.$$

The products run in float64: the largest exponent met (‖x‖ = 50, τ = 0.01) is 1e7, of which float64 keeps 1e-9.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .base import Distribution

ENTRIES = 2**18  # 2 MiB of float64: stays in the caches
ENTRIES_COMPILED = 2**24  # a compiled graph unrolls the loop over chunks, so there it has few of them
NEGLIGIBLE = -100.0  # below it exp is nothing beside 1; left to underflow it is twice as slow

Statistics = Float64[Tensor, "n FG"]
"""F statistics of every row for each of G groups, flattened."""


class GaussianMixture(Distribution):
    """A mixture of K Gaussians, isotropic or not; the named mixtures and the curves derive from it.

    Args:
        means: data units.
        weights: positive; normalised here.
        variances: along and across the component's direction, data units squared. Zeros make point masses, for which
            p_σ exists for σ > 0.
        directions: unit vectors; None for isotropic components.
        scale: smallest length, data units.

    Raises:
        ValueError: a shape does not fit the others, or a number is none that a mixture can have.
    """

    means: Tensor
    weights: Tensor
    deviations: Tensor
    directions: Tensor
    group_variances: Tensor
    coefficients: Tensor

    def __init__(
        self,
        means: Float[Tensor, "K 2"],
        *,
        weights: Float[Tensor, "K"],
        variances: Float[Tensor, "K 2"],
        scale: float,
        directions: Float[Tensor, "K 2"] | None = None,
    ) -> None:
        _check(means, weights, variances, directions)
        means, weights, variances = means.double(), weights.double() / weights.double().sum(), variances.double()
        frame = means.new_tensor([[1.0, 0.0]]).expand_as(means) if directions is None else directions.double()
        mean = weights @ means
        covariance = _covariance(means - mean, weights, variances, frame)
        super().__init__(mean=mean, covariance=covariance, scale=scale, blur=float(variances.min().sqrt()))
        groups, group = torch.unique(variances, dim=0, return_inverse=True)
        coefficients = _coefficients(means - mean, weights, None if directions is None else frame)
        member = torch.nn.functional.one_hot(group, groups.shape[0]).T  # [G, K]
        self.isotropic = directions is None
        self._constant("means", means)
        self._constant("weights", weights)
        self._constant("deviations", variances.sqrt())
        self._constant("directions", frame)
        self._constant("group_variances", groups)
        self._constant("coefficients", (coefficients[:, None] * member).flatten(0, 1))  # [F G, K]

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """A component by its weight, then a Gaussian draw."""
        device = self.means.device
        uniform = torch.rand(n, dtype=torch.float64, device=device, generator=generator)
        component = torch.searchsorted(self.weights.cumsum(0)[:-1].contiguous(), uniform, right=True)
        along, across = (self.deviations[component] * _normal(n, device, generator)).unbind(-1)
        direction = self.directions[component]
        offset = along[:, None] * direction + across[:, None] * _rotate(direction)
        return (self.means[component] + offset).float()

    def _log_prob(self, x: Float64[Tensor, "n 2"], sigma: Float64[Tensor, "n"]) -> Float64[Tensor, "n"]:
        return torch.cat([self._log_sum(chunk) for chunk in self._chunks(self._statistics(x - self.mean, sigma))])

    def _score(self, x: Float64[Tensor, "n 2"], sigma: Float64[Tensor, "n"]) -> Float64[Tensor, "n 2"]:
        x = (x - self.mean)[:, None]
        chunks = self._chunks(self._statistics(x[:, 0], sigma))
        moments = torch.cat([self._moments(statistics) for statistics in chunks])
        along, across = self._precisions(sigma)
        groups = across.shape[1]
        mass, first, second, *quadratic = moments.reshape(-1, moments.shape[1] // groups, groups).unbind(1)
        gradient = across[..., None] * (torch.stack([first, second], dim=-1) - mass[..., None] * x)
        if not self.isotropic:
            gradient = gradient + (along - across)[..., None] * _quadratic_gradient(x, quadratic[:5])
        return gradient.sum(1)

    def _log_sum(self, statistics: Statistics) -> Float64[Tensor, "n"]:
        largest, terms = self._terms(statistics)
        return largest[:, 0] + terms.sum(-1).log()

    def _moments(self, statistics: Statistics) -> Statistics:
        """C r for every row: the mean of each coefficient under the responsibilities."""
        _, terms = self._terms(statistics)
        return (terms @ self.coefficients.T) / terms.sum(-1, keepdim=True)

    def _terms(self, statistics: Statistics) -> tuple[Float64[Tensor, "n 1"], Float64[Tensor, "n K"]]:
        """max_k ℓ_k and exp(ℓ_k − max); in place, for fresh memory costs as much as arithmetic."""
        exponents = statistics @ self.coefficients
        largest = exponents.detach().amax(-1, keepdim=True)
        return largest, exponents.sub_(largest).clamp_min_(NEGLIGIBLE).exp_()

    def _chunks(self, statistics: Float64[Tensor, "n F G"]) -> tuple[Float64[Tensor, "_ FG"], ...]:
        """So many rows at once that the matrix of exponents stays small."""
        entries = ENTRIES_COMPILED if torch.compiler.is_compiling() else ENTRIES
        chunks = -(-statistics.shape[0] * self.means.shape[0] // entries)
        return statistics.flatten(1).chunk(max(1, chunks))

    def _precisions(self, sigma: Float64[Tensor, "n"]) -> tuple[Float64[Tensor, "n G"], Float64[Tensor, "n G"]]:
        """1/A and 1/B for every row and group."""
        along, across = (self.group_variances + sigma.square()[:, None, None]).reciprocal().unbind(-1)
        return along, across

    def _statistics(self, x: Float64[Tensor, "n 2"], sigma: Float64[Tensor, "n"]) -> Float64[Tensor, "n F G"]:
        """φ(x, σ), in the order of the rows of `_coefficients`."""
        along, across = self._precisions(sigma)
        (first, second), square = x[:, :, None].unbind(1), x.square().sum(-1, keepdim=True)
        log_volume = 0.5 * (along.log() + across.log()) - math.log(2 * math.pi)
        statistics = [log_volume - 0.5 * square * across, first * across, second * across]
        constant = [torch.ones_like(across), across]
        if not self.isotropic:
            excess = along - across
            statistics += [m * excess for m in (first * first, first * second, second * second, first, second)]
            constant.append(excess)
        return torch.stack(statistics + constant, dim=1)


class Modes(GaussianMixture):
    """A mixture whose components count as modes, so that samples have a weight for each."""

    def responsibilities(self, x: Float[Tensor, "n 2"], sigma: float = 0.0) -> Float64[Tensor, "n K"]:
        r"""$r_k(x) = w_k\,p_{\sigma,k}(x) / p_\sigma(x)$; of point masses at σ = 0 the nearest has it all.

        Args:
            x: points, in data units.
            sigma: noise level, in data units.
        """
        level = sigma if sigma + self.blur > 0 else 1e-4 * self.scale
        _, points, levels = self._rows(x, level)
        chunks = self._chunks(self._statistics(points - self.mean, levels))
        terms = torch.cat([self._terms(statistics)[1] for statistics in chunks])
        return terms / terms.sum(-1, keepdim=True)

    def deviations_away(self, x: Float[Tensor, "n 2"], sigma: float = 0.0) -> Float64[Tensor, "n K"]:
        """How far points are from each mode, in its own deviations (Mahalanobis); arguments as above."""
        offset = x.double()[:, None] - self.means
        along, across = (offset * self.directions).sum(-1), (offset * _rotate(self.directions)).sum(-1)
        first, second = (self.deviations.square() + sigma**2).unbind(-1)
        return (along.square() / first + across.square() / second).sqrt()


def _check(means: Tensor, weights: Tensor, variances: Tensor, directions: Tensor | None) -> None:
    """Raise ValueError for numbers of which no mixture can be made."""
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


def _coefficients(
    means: Float64[Tensor, "K 2"], weights: Float64[Tensor, "K"], directions: Float64[Tensor, "K 2"] | None
) -> Float64[Tensor, "F K"]:
    """C for one group, first what multiplies a function of x; six more rows with a direction."""
    first, second = means.unbind(-1)
    varying = [torch.ones_like(first), first, second]
    constant = [weights.log(), -0.5 * means.square().sum(-1)]
    if directions is not None:
        u, v = directions.unbind(-1)
        along = (directions * means).sum(-1)
        varying += [-0.5 * u * u, -u * v, -0.5 * v * v, along * u, along * v]
        constant.append(-0.5 * along * along)
    return torch.stack(varying + constant)


def _quadratic_gradient(x: Float64[Tensor, "n 1 2"], moments: list[Float64[Tensor, "n G"]]) -> Float64[Tensor, "n G 2"]:
    """Gradient of the five monomials of `_statistics`, contracted with their moments."""
    (first, second), (uu, uv, vv, u, v) = x.unbind(-1), moments
    return torch.stack([2 * uu * first + uv * second + u, uv * first + 2 * vv * second + v], dim=-1)


def _covariance(
    centred: Float64[Tensor, "K 2"],
    weights: Float64[Tensor, "K"],
    variances: Float64[Tensor, "K 2"],
    directions: Float64[Tensor, "K 2"],
) -> Float64[Tensor, "2 2"]:
    frames = torch.stack([directions, _rotate(directions)], dim=1)  # [K, 2 (along, across), 2]
    within = torch.einsum("k,kf,kfi,kfj->ij", weights, variances, frames, frames)
    return within + torch.einsum("k,ki,kj->ij", weights, centred, centred)


def _rotate(direction: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    """By 90 degrees, counterclockwise."""
    return torch.stack([-direction[..., 1], direction[..., 0]], dim=-1)


def _normal(n: int, device: torch.device, generator: torch.Generator | None) -> Float64[Tensor, "n 2"]:
    return torch.randn(n, 2, dtype=torch.float64, device=device, generator=generator)


def isotropic(std: float, like: Float[Tensor, "K 2"]) -> Float64[Tensor, "K 2"]:
    """Variances of equal isotropic components."""
    return torch.full_like(like, std**2, dtype=torch.float64)
