r"""How wrong a score is at each noise level, against the exact one."""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.randomness import keyed_generator
from ..core.validation import Count, Index, Positive, column, strict
from ..distributions.base import Distribution
from ..models.scores import Score, jacobian
from ..schedules import Geometric


class ScoreErrors(NamedTuple):
    """Errors of a score at each level, all dimensionless (multiplied by σ²).

    Attributes:
        sigmas: the levels, in data units.
        error: Fisher error σ² E‖s_θ − s‖².
        norm: σ² E‖s‖², the error of the score s_θ = 0.
        loss: denoising loss σ² E‖s_θ + z/σ‖².
        minimum: the loss of the exact score on the same points, below which a network can get only by chance.
        error_stderr, loss_stderr, relative_stderr: standard errors of `error`, `loss` and `relative` over the points of
            each level.
        mean_stderr: standard error of the mean of the relative errors, whose levels share their clean points.
    """

    sigmas: Float[Tensor, "levels"]
    error: Float[Tensor, "levels"]
    norm: Float[Tensor, "levels"]
    loss: Float[Tensor, "levels"]
    minimum: Float[Tensor, "levels"]
    error_stderr: Float[Tensor, "levels"]
    loss_stderr: Float[Tensor, "levels"]
    relative_stderr: Float[Tensor, "levels"]
    mean_stderr: Float[Tensor, ""]

    @property
    def relative(self) -> Float[Tensor, "levels"]:
        """E‖s_θ − s‖² / E‖s‖²: 0 is exact, 1 no better than zero."""
        return self.error / self.norm

    @property
    def per_level(self) -> dict[str, float]:
        """The relative error of each level, by the level's name in summaries."""
        return by_level(self.sigmas, self.relative)


def by_level(sigmas: Float[Tensor, "levels"], values: Float[Tensor, "levels"]) -> dict[str, float]:
    """The value of each level, by the level's name in summaries: σ with four digits."""
    return {f"{sigma:.4g}": value for sigma, value in zip(sigmas.tolist(), values.tolist(), strict=True)}


class ScoreTest(nn.Module):
    r"""A test of scores: noisy points and their exact scores, the same for every score that is tested.

    The levels are geometric from `sigma_max` to `sigma_min`. They do not depend on the schedule or the training density
    of the score under test, so that runs can be compared.

    Args:
        distribution: the target.
        sigma_min, sigma_max: ends of the grid, in data units.
        num_levels: levels on the grid.
        num_points: points at each level.
        seed: of the points and their noise.
    """

    x: Float[Tensor, "levels points 2"]
    sigmas: Float[Tensor, "levels"]
    noise: Float[Tensor, "levels points 2"]

    @strict
    def __init__(
        self,
        *,
        distribution: Distribution,
        sigma_min: Positive,
        sigma_max: Positive,
        num_levels: Count = 10,
        num_points: Count = 4096,
        seed: Index = 0,
    ) -> None:
        super().__init__()
        generator = keyed_generator(seed, "score test")
        sigmas = Geometric(sigma_min=sigma_min, sigma_max=sigma_max, num_levels=num_levels).sigmas
        clean = distribution.sample(num_points, generator=generator)
        noise = torch.randn(num_levels, num_points, 2, generator=generator)
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("noise", noise)
        self.register_buffer("x", clean + column(sigmas.unsqueeze(-1), clean) * noise)
        self._truth = distribution.score

    @cached_property
    def _exact(self) -> Float[Tensor, "levels points 2"]:
        """The exact scores, computed at the first use, for a sweep builds every job once only to check it."""
        return self._truth(self.x.cpu(), self.sigmas.cpu().unsqueeze(-1))

    @torch.no_grad()
    def forward(self, score: Score) -> ScoreErrors:
        """Measure the errors of a score at all levels."""
        exact, sigma = self._exact.to(self.x), self.sigmas.unsqueeze(-1)
        denoising = -self.noise / column(sigma, self.noise)
        predicted = torch.stack([score(x, s) for x, s in zip(self.x, self.sigmas, strict=True)])

        def square(field: Float[Tensor, "levels points 2"]) -> Float[Tensor, "levels points"]:
            return self.sigmas.square().unsqueeze(-1) * field.double().square().sum(-1)

        errors, norms, losses = square(predicted - exact), square(exact), square(predicted - denoising)
        error, norm = errors.mean(-1), norms.mean(-1)
        # The influence of each point on the ratio of two means, to first order.
        moves = (errors - (error / norm).unsqueeze(-1) * norms) / norm.unsqueeze(-1)
        return ScoreErrors(
            self.sigmas,
            error=error,
            norm=norm,
            loss=losses.mean(-1),
            minimum=square(exact - denoising).mean(-1),
            error_stderr=_standard_error(errors),
            loss_stderr=_standard_error(losses),
            relative_stderr=_standard_error(moves),
            mean_stderr=_standard_error(moves.mean(0)),
        )


def _standard_error(values: Float[Tensor, "*batch points"]) -> Float[Tensor, "*batch"]:
    """Standard error of the mean over the last dimension; NaN for a single value."""
    n = values.shape[-1]
    return values.std(-1) / math.sqrt(n) if n > 1 else torch.full_like(values[..., 0], math.nan)


@torch.no_grad()
def curl(score: Score, x: Float[Tensor, "points 2"], sigma: Float[Tensor, ""] | float) -> float:
    r"""How far a score is from being a gradient: the antisymmetric part's share of its Jacobian J.

    $$\frac{\mathrm E\,\|\tfrac12 (J - J^\top)\|_F^2}{\mathrm E\,\|J\|_F^2}
      = \frac{\tfrac12\,\mathrm E (\partial_1 s_2 - \partial_2 s_1)^2}{\mathrm E\,\|J\|_F^2}$$

    It is dimensionless and between 0, for a gradient, and 1. Source of the question: Should EBMs Model the Energy or
    the Score?, Salimans & Ho, 2021, §3.

    Args:
        score: is differentiated.
        x: points over which the means are taken, in data units.
        sigma: noise level, in data units.
    """
    derivatives = jacobian(score, x, sigma)[1]
    rotation = derivatives[:, 1, 0] - derivatives[:, 0, 1]
    return float(rotation.square().mean() / 2 / derivatives.square().sum((1, 2)).mean())
