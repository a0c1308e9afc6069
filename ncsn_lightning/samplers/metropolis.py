r"""Langevin dynamics whose steps are accepted or rejected, so that p_σ is exactly stationary at any step size.

This needs log p_σ up to a constant (`Density`). A target and an energy have it; a network for the score does not.
"""

from __future__ import annotations

import math

import torch
from torch import Generator

from ..core.validation import Count, Positive, strict
from ..models.scores import Density, Score
from .base import Chain, Prior, Sigmas, State, noise_like


class MALA(Chain):
    r"""T Metropolis-adjusted Langevin steps at every level, of size $\alpha_i = a \sigma_i^2$.

    The proposal $x' = x + \alpha s(x) + \sqrt{2\alpha}\, z$, of density $q(x' \mid x)$, is accepted with probability

    $$\min\Big(1, \frac{p_\sigma(x')\, q(x \mid x')}{p_\sigma(x)\, q(x' \mid x)}\Big)$$

    Source: Exponential Convergence of Langevin Distributions and Their Discrete Approximations, Roberts & Tweedie,
    1996, §1.4.

    Args:
        step_ratio: a, dimensionless. No step is unstable, but steps that are too long are never accepted.
        steps_per_level: T.
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    @strict
    def __init__(
        self, *, step_ratio: Positive, steps_per_level: Count = 100, denoise: bool = False, prior: Prior = "gaussian"
    ) -> None:
        super().__init__(prior=prior, denoise=denoise)
        self.step_ratio, self.steps_per_level = step_ratio, steps_per_level

    def check_score(self, score: Score) -> None:
        """Raise a ValueError where the score has no log-density."""
        if not isinstance(score, Density):
            raise ValueError(
                f"MALA accepts and rejects by log p_σ, which {type(score).__name__} does not have; "
                "use score=energy, or the exact score (ExactScore, score=exact)"
            )

    def level(self, score: Score, x: State, sigmas: Sigmas, index: int, *, generator: Generator | None) -> State:
        """T proposals, each accepted or rejected for every chain alone."""
        assert isinstance(score, Density)
        sigma = sigmas[index]
        alpha = self.step_ratio * float(sigma) ** 2
        slope, log_prob = score(x, sigma), score.log_density(x, sigma)
        for _ in range(self.steps_per_level):
            z = noise_like(x, generator)
            proposal = x + alpha * slope + math.sqrt(2 * alpha) * z
            new_slope, new_log_prob = score(proposal, sigma), score.log_density(proposal, sigma)
            back = (x - proposal - alpha * new_slope).square().sum(-1) / (4 * alpha)
            log_ratio = new_log_prob - log_prob + z.square().sum(-1) / 2 - back
            accepted = torch.empty_like(log_ratio).uniform_(generator=generator).log() < log_ratio
            x = torch.where(accepted.unsqueeze(-1), proposal, x)
            slope = torch.where(accepted.unsqueeze(-1), new_slope, slope)
            log_prob = torch.where(accepted, new_log_prob, log_prob)
        return x

    def evaluations(self, num_levels: int) -> int:
        """T + 1 a level, each with one of the log-density, and one to denoise."""
        return num_levels * (self.steps_per_level + 1) + self.denoise
