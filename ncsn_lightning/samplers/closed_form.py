r"""What a sampler does to a Gaussian target, without drawing a sample.

The score of a Gaussian is affine in x. A sampler that walks on it and draws normal numbers $z_1, z_2, \dots$ therefore
applies an affine map to its start and to these numbers,

$$x_L = A x_0 + b + \sum_k B_k z_k,$$

so the law of $x_L$ is Gaussian with mean $A m_0 + b$ and covariance $A C_0 A^\top + \sum_k B_k B_k^\top$. The map is
read off the sampler itself: one walk in float64 carries a row for every coordinate of the start and of every draw, in
which that coordinate is 1 and all others are 0. This works for your own samplers as well.

Source: Diffusion Models for Gaussian Distributions: Exact Solutions and Wasserstein Errors, Pierret & Galerne, 2025
(the four errors; reading the map off the sampler is ours).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..distributions.base import Distribution
from ..models.scores import ExactScore, Score
from .base import Level, Sampler, Sigmas, State

AFFINE_TOLERANCE = 1e-3
"""Largest distance between two readings of one map, in standard deviations: an adaptive solver's own tolerance."""


class Gaussian(NamedTuple):
    """A normal law in the plane: mean, and covariance in data units squared."""

    mean: Float64[Tensor, "2"]
    covariance: Float64[Tensor, "2 2"]


def smoothed(target: Distribution, sigma: Level | float) -> Gaussian:
    """N(mean, Cov + σ² I): p_σ itself where the target is Gaussian, else the Gaussian of the same moments."""
    return Gaussian(target.mean, target.covariance + float(sigma) ** 2 * torch.eye(2, dtype=torch.float64))


def sample_moments(x: State) -> Gaussian:
    """The Gaussian with the mean and covariance of a sample."""
    return Gaussian(x.double().mean(0), x.double().T.cov())


def wasserstein(p: Gaussian, q: Gaussian) -> float:
    r"""The 2-Wasserstein distance of two normal laws, in data units.

    $$W_2^2 = \|m_p - m_q\|^2 + \mathrm{tr}\Big(C_p + C_q - 2 \big(C_p^{1/2} C_q C_p^{1/2}\big)^{1/2}\Big)$$

    Source: The Fréchet Distance between Multivariate Normal Distributions, Dowson & Landau, 1982, eq. 4.
    """
    root = _root(p.covariance)
    bures = (p.covariance + q.covariance - 2 * _root(root @ q.covariance @ root)).trace()
    return float(((p.mean - q.mean).square().sum() + bures).clamp(min=0).sqrt())


def _root(matrix: Float64[Tensor, "2 2"]) -> Float64[Tensor, "2 2"]:
    """The square root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


class AffineMap(NamedTuple):
    """x ↦ A x + b + noise: matrix, offset, and the covariance of the noise."""

    matrix: Float64[Tensor, "2 2"]
    offset: Float64[Tensor, "2"]
    noise: Float64[Tensor, "2 2"]

    def push(self, law: Gaussian) -> Gaussian:
        """The law of the image of a point with the given law."""
        return Gaussian(self.matrix @ law.mean + self.offset, self.matrix @ law.covariance @ self.matrix.T + self.noise)


def affine_map(sampler: Sampler, score: Score, sigmas: Sigmas) -> AffineMap:
    """The affine map that a walk down a ladder applies to its start.

    Args:
        sampler: whose walk is read.
        score: affine in x, such as the exact one of a Gaussian.
        sigmas: the ladder.

    Raises:
        ValueError: the walk is not an affine map, because it draws other than normal numbers (a Metropolis chain), or
            because its steps depend on all chains together (a corrector by signal-to-noise).
    """
    with _Impulses(1.0) as counted:
        sampler(score, torch.zeros(3, 2, dtype=torch.float64), sigmas.double())
    found, other = (_read(sampler, score, sigmas, draws=counted.draws, size=size) for size in (1.0, 1000.0))
    unit = Gaussian(torch.zeros_like(found.offset), float(sigmas[0]) ** 2 * torch.eye(2, dtype=torch.float64))
    first, second = found.push(unit), other.push(unit)
    if not wasserstein(first, second) <= AFFINE_TOLERANCE * float(first.covariance.trace().sqrt()):
        raise ValueError(f"{type(sampler).__name__}: its steps depend on all chains together; measure it instead")
    return found


def _read(sampler: Sampler, score: Score, sigmas: Sigmas, *, draws: int, size: float) -> AffineMap:
    """Read the map from one walk, whose rows have one coordinate of `size` instead of 1."""
    x = torch.zeros(3 + 2 * draws, 2, dtype=torch.float64)
    x[1:3] = size * torch.eye(2)
    with _Impulses(size):
        x = sampler(score, x, sigmas.double())
    columns = (x[1:] - x[0]) / size  # each row holds a column of A or of one B_k
    return AffineMap(columns[:2].T, x[0], columns[2:].T @ columns[2:])


class _Impulses(TorchFunctionMode):
    """Replaces the k-th draw of normal numbers by zeros, but for `size` in one coordinate of each of two rows."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size, self.draws = size, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result, name = func(*args, **(kwargs or {})), func.__name__
        if _draws(name):
            if result.shape[-1:] != (2,) or not name.startswith(("normal", "randn")):
                raise ValueError(f"{name}: a draw of other than normal vectors; measure this sampler instead")
            rows = slice(3 + 2 * self.draws, 5 + 2 * self.draws)
            result.zero_()[rows] = self.size * torch.eye(2, dtype=result.dtype)[: len(result[rows])]
            self.draws += 1
        return result


@cache
def _draws(name: str) -> bool:
    """Whether a function of torch draws random numbers."""
    operator = getattr(torch.ops.aten, name, None)
    overloads = operator.overloads() if operator else []
    return any(torch.Tag.nondeterministic_seeded in getattr(operator, overload).tags for overload in overloads)


class Errors(NamedTuple):
    """Parts of the distance between a sampler's law and a Gaussian target: 2-Wasserstein distances in data units.

    Attributes:
        start: between the ends of two walks on the exact score, one from the prior and one from p_σ1.
        truncation: between p_σ at the last level that is reached and the target.
        discretisation: between the end of the walk from p_σ1 on the exact score and p_σ at the last level.
        score: between the ends of two walks from the prior, one on the given score and one on the exact one.
        total: between the end of the walk from the prior on the given score and the target, at most the sum of the
            four.
    """

    start: float
    truncation: float
    discretisation: float
    score: float
    total: float


def errors(sampler: Sampler, target: Distribution, sigmas: Sigmas, *, score: Score) -> Errors:
    """Split the error of a sampler on a Gaussian target.

    Args:
        sampler: whose walk is examined.
        target: Gaussian.
        sigmas: the ladder.
        score: affine in x: the exact one, or a perturbed one.

    Raises:
        ValueError: the walk is not an affine map of normal numbers, or the prior is not normal.
    """
    if sampler.prior == "uniform":
        raise ValueError("prior='uniform' is not normal: choose gaussian or moment_matched")
    first, end = smoothed(target, sigmas[0]), smoothed(target, sampler.reached(sigmas)[-1])
    isotropic = Gaussian(first.mean, float(sigmas[0]) ** 2 * torch.eye(2, dtype=torch.float64))
    prior, truth = isotropic if sampler.prior == "gaussian" else first, smoothed(target, 0.0)
    true_walk, walk = (affine_map(sampler, s, sigmas) for s in (ExactScore(target), score))
    ideal, exact, given = true_walk.push(first), true_walk.push(prior), walk.push(prior)
    return Errors(
        start=wasserstein(exact, ideal),
        truncation=wasserstein(end, truth),
        discretisation=wasserstein(ideal, end),
        score=wasserstein(given, exact),
        total=wasserstein(given, truth),
    )
