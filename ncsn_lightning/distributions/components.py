r"""The components of a Gaussian mixture, evaluated together: log-density, responsibilities and score.

Component k has weight w_k, mean m_k and covariance with eigenvalue a_k along the unit vector u_k and b_k across it,
along v_k. Smoothing adds σ² to both. With A = a_k + σ², B = b_k + σ²,

$$\ell_k(x) = \log w_k - \log 2\pi - \tfrac12 \log AB
              - \frac{(u_k \cdot (x - m_k))^2}{2A} - \frac{(v_k \cdot (x - m_k))^2}{2B},$$

log p_σ = logsumexp_k ℓ_k, and the score is the mean of the gradients of ℓ_k under the responsibilities r = softmax ℓ.
There are two implementations, and `cheapest` chooses one:

- `Shared`: components with the same (a, b) form a group. Inside a group ℓ is linear in a few statistics φ(x, σ) that do
  not depend on k: ℓ = φ(x, σ) C with a constant matrix C. All exponents come from one matrix product, whatever the
  shape of σ, and the score from a second one with the same matrix, $\sum_f \nabla\varphi_f\,(C r)_f$. The cost grows
  with the number of groups.
- `Own`: u_k · (x − m_k) and v_k · (x − m_k) are matrix products; all else is computed component by component.

Everything runs in float64: the largest exponent that occurs (‖x‖ = 50, τ = 0.01) is 1e7, and float64 rounds it by 1e-9.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from ..core.validation import Rows, Values

ENTRIES_COMPILED = 2**24
"""Entries of a chunk in a compiled graph: it unrolls the loop over chunks, so there should be few of them."""

NEGLIGIBLE = -100.0
"""Exponents are clamped here: exp of less is negligible beside 1, and twice as slow where it underflows."""

FEW_STATISTICS = 24
"""Most statistics of a row with which `Shared` is cheaper than `Own` for many components."""

Given = tuple[Float64[Tensor, "..."], ...]
"""What the exponents of some rows are computed from."""

Exponents = Float64[Tensor, "_ _"]
"""A number for every row and component; `Components.dim` is the axis of the components."""


class Components(nn.Module, ABC):
    """All components of a mixture; points are in data units, relative to the mixture's mean."""

    dim: int
    """The axis of the components in the matrix of exponents."""

    entries: int
    """Entries of the matrix of exponents that are computed at once: few enough to stay in the caches."""

    def __init__(self, components: int) -> None:
        super().__init__()
        self.components = components

    def log_sum(self, x: Rows, sigma: Values) -> Values:
        """log p_σ at rows of points, in nats."""
        return torch.cat([self._log_sum(*chunk) for chunk in self._chunks(x, sigma)])

    def responsibilities(self, x: Rows, sigma: Values) -> Float64[Tensor, "n K"]:
        """The responsibilities r_k(x), which sum to 1 over the components."""
        chunks = (self._terms(self._exponents(*chunk))[1] for chunk in self._chunks(x, sigma))
        terms = torch.cat([chunk.movedim(self.dim, -1) for chunk in chunks])
        return terms / terms.sum(-1, keepdim=True)

    @abstractmethod
    def score(self, x: Rows, sigma: Values) -> Rows:
        """∇ₓ log p_σ at rows of points, in 1 / data units."""

    @abstractmethod
    def _given(self, x: Rows, sigma: Values) -> Given:
        """The arguments of `_exponents` for all rows."""

    @abstractmethod
    def _exponents(self, *given: Float64[Tensor, "n ..."]) -> Exponents:
        """ℓ_k of every row, in fresh memory, which the caller may overwrite."""

    def _chunks(self, x: Rows, sigma: Values) -> list[Given]:
        """The arguments of `_exponents` in chunks of rows, small enough for the matrix of exponents to stay small."""
        entries = ENTRIES_COMPILED if torch.compiler.is_compiling() else self.entries
        count = max(1, -(-len(x) * self.components // entries))
        return list(zip(*(field.chunk(count) for field in self._given(x, sigma)), strict=True))

    def _log_sum(self, *given: Float64[Tensor, "n ..."]) -> Values:
        """log p_σ of a chunk."""
        largest, terms = self._terms(self._exponents(*given))
        return largest.squeeze(self.dim) + terms.sum(self.dim).log()

    def _terms(self, exponents: Exponents) -> tuple[Exponents, Exponents]:
        """max_k ℓ_k and exp(ℓ_k − max), in place, because fresh memory costs as much as the arithmetic."""
        largest = exponents.detach().amax(self.dim, keepdim=True)
        return largest, exponents.sub_(largest).clamp_min_(NEGLIGIBLE).exp_()


class Own(Components):
    """Components whose covariances differ.

    Args:
        means: m_k, relative to the mixture's mean, in data units.
        weights: w_k, which sum to 1.
        variances: a_k and b_k, along and across the direction, in data units².
        directions: u_k, unit vectors.
    """

    axes: Tensor
    shift: Tensor
    variances: Tensor
    log_weights: Tensor

    dim = 0  # so that sums over a few components add up long rows
    entries = 2**16

    def __init__(
        self,
        means: Float64[Tensor, "K 2"],
        weights: Float64[Tensor, "K"],
        variances: Float64[Tensor, "K 2"],
        directions: Float64[Tensor, "K 2"],
    ) -> None:
        super().__init__(len(means))
        axes = torch.cat([directions, rotate(directions)])  # [2 K, 2]: along all, then across all
        shift = -(axes * means.repeat(2, 1)).sum(-1, keepdim=True)
        log_weights = weights.log()[:, None] - math.log(2 * math.pi)
        constants = {"axes": axes, "shift": shift, "variances": variances.T[:, :, None], "log_weights": log_weights}
        for name, value in constants.items():
            self.register_buffer(name, value.contiguous(), persistent=False)

    def score(self, x: Rows, sigma: Values) -> Rows:
        """∇ₓ log p_σ, chunk by chunk."""
        return torch.cat([self._pull(*chunk) for chunk in self._chunks(x, sigma)])

    def _pull(self, x: Rows, sigma: Values) -> Rows:
        """The score of a chunk: the mean pull of the components under the responsibilities."""
        away, precisions = self._away(x), self._precisions(sigma)
        _, terms = self._terms(self._exponents_of(away, precisions))
        forces = (away * precisions * terms).flatten(0, 1)
        return (self.axes.T @ forces / -terms.sum(0)).T

    def _given(self, x: Rows, sigma: Values) -> Given:
        return x, sigma

    def _exponents(self, *given: Float64[Tensor, "n ..."]) -> Exponents:
        x, sigma = given
        return self._exponents_of(self._away(x), self._precisions(sigma))

    def _exponents_of(
        self, away: Float64[Tensor, "2 K n"], precisions: Float64[Tensor, "2 K #n"]
    ) -> Float64[Tensor, "K n"]:
        """ℓ_k from u · (x − m), v · (x − m) and 1 / A, 1 / B."""
        (along, across), (first, second) = away.square().unbind(), precisions.unbind()
        constant = (first * second).log().mul(0.5).add(self.log_weights)
        return constant.addcmul(along, first, value=-0.5).addcmul(across, second, value=-0.5)

    def _away(self, x: Rows) -> Float64[Tensor, "2 K n"]:
        """u · (x − m) and v · (x − m) for every component and row."""
        return torch.addmm(self.shift, self.axes, x.T).view(2, self.components, -1)

    def _precisions(self, sigma: Values) -> Float64[Tensor, "2 K #n"]:
        """1 / A and 1 / B for every component, and every row unless σ is the same for all."""
        level = sigma[:1] if sigma.stride(0) == 0 else sigma  # one level where all rows share it
        return (self.variances + level.square()).reciprocal()


class Shared(Components):
    """Components of which many share their variances.

    Args:
        means, weights: as for `Own`.
        groups: the different pairs of variances (a, b), in data units².
        group: the index in `groups` of every component.
        directions: u_k, unit vectors; None for isotropic components.
    """

    group_variances: Tensor
    coefficients: Tensor

    dim = -1
    entries = 2**18  # 2 MiB of float64

    def __init__(
        self,
        means: Float64[Tensor, "K 2"],
        weights: Float64[Tensor, "K"],
        groups: Float64[Tensor, "G 2"],
        group: Int64[Tensor, "K"],
        directions: Float64[Tensor, "K 2"] | None,
    ) -> None:
        super().__init__(len(means))
        self.isotropic = directions is None
        coefficients = _coefficients(means, weights, directions)
        member = torch.nn.functional.one_hot(group, len(groups)).T  # [G, K]
        self.register_buffer("group_variances", groups, persistent=False)
        self.register_buffer(
            "coefficients", (coefficients[:, None] * member).flatten(0, 1), persistent=False
        )  # [FG, K]

    def score(self, x: Rows, sigma: Values) -> Rows:
        """∇ₓ log p_σ, from the moments C r and the gradients of the statistics."""
        moments = torch.cat([self._moments(*chunk) for chunk in self._chunks(x, sigma)])
        along, across = self._precisions(sigma)
        groups, x = across.shape[1], x[:, None]
        mass, first, second, *quadratic = moments.reshape(-1, moments.shape[1] // groups, groups).unbind(1)
        gradient = across[..., None] * (torch.stack([first, second], dim=-1) - mass[..., None] * x)
        if not self.isotropic:
            gradient = gradient + (along - across)[..., None] * _quadratic_gradient(x, quadratic[:5])
        return gradient.sum(1)

    def _moments(self, statistics: Float64[Tensor, "n FG"]) -> Float64[Tensor, "n FG"]:
        """C r for every row: the mean of each coefficient under the responsibilities."""
        _, terms = self._terms(self._exponents(statistics))
        return (terms @ self.coefficients.T) / terms.sum(-1, keepdim=True)

    def _exponents(self, *given: Float64[Tensor, "n ..."]) -> Exponents:
        (statistics,) = given
        return statistics @ self.coefficients

    def _given(self, x: Rows, sigma: Values) -> Given:
        """φ(x, σ), F statistics for each of G groups, in the order of the rows of C."""
        along, across = self._precisions(sigma)
        (first, second), square = x[:, :, None].unbind(1), x.square().sum(-1, keepdim=True)
        log_volume = 0.5 * (along.log() + across.log()) - math.log(2 * math.pi)
        statistics = [log_volume - 0.5 * square * across, first * across, second * across]
        constant = [torch.ones_like(across), across]
        if not self.isotropic:
            excess = along - across
            statistics += [m * excess for m in (first * first, first * second, second * second, first, second)]
            constant.append(excess)
        return (torch.stack(statistics + constant, dim=1).flatten(1),)

    def _precisions(self, sigma: Values) -> tuple[Float64[Tensor, "n G"], Float64[Tensor, "n G"]]:
        """1/A and 1/B for every row and group."""
        along, across = (self.group_variances + sigma.square()[:, None, None]).reciprocal().unbind(-1)
        return along, across


def cheapest(
    means: Float64[Tensor, "K 2"],
    weights: Float64[Tensor, "K"],
    variances: Float64[Tensor, "K 2"],
    directions: Float64[Tensor, "K 2"] | None,
) -> Components:
    """Choose `Shared` where it is cheaper, else `Own`.

    Arguments are as for `Own`, but `directions` is None for isotropic components.
    """
    groups, group = torch.unique(variances, dim=0, return_inverse=True)
    statistics = len(groups) * (5 if directions is None else 11)
    if statistics <= FEW_STATISTICS and 3 * statistics <= len(means):
        return Shared(means, weights, groups, group, directions)
    frame = means.new_tensor([[1.0, 0.0]]).expand_as(means) if directions is None else directions
    return Own(means, weights, variances, frame)


def rotate(direction: Rows) -> Rows:
    """Rotate vectors by 90 degrees, counterclockwise."""
    return torch.stack([-direction[..., 1], direction[..., 0]], dim=-1)


def _coefficients(
    means: Float64[Tensor, "K 2"], weights: Float64[Tensor, "K"], directions: Float64[Tensor, "K 2"] | None
) -> Float64[Tensor, "F K"]:
    """C for one group: first the rows for statistics that depend on x, then the others; six more with directions."""
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
    """The gradient of the five quadratic and linear statistics of `Shared._given`, times their moments."""
    (first, second), (uu, uv, vv, u, v) = x.unbind(-1), moments
    return torch.stack([2 * uu * first + uv * second + u, uv * first + 2 * vv * second + v], dim=-1)
