r"""Langevin dynamics with inertia, in the variables of one level (unit mass):

$$dx = v\, dt, \qquad dv = s(x, \sigma)\, dt - \Gamma v\, dt + \sqrt{2\Gamma}\, dw$$

Its stationary law is $p_\sigma(x)\, \mathcal N(v; 0, I)$. A chain crosses p_σ in a time proportional to the width of
p_σ; an overdamped chain diffuses across it in a time proportional to the width squared.
"""

from __future__ import annotations

import math

from torch import Generator

from ..core.validation import Count, NonNegative, StableRatio, strict
from ..models.scores import Score
from .base import Chain, Prior, Sigmas, State, noise_like


class UnderdampedLangevin(Chain):
    r"""T steps of the BAOAB splitting at every level, of length $h_i = b\,\sigma_i$, each level with a new velocity.

    B kicks, $v \leftarrow v + \tfrac h2 s$; A drifts, $x \leftarrow x + \tfrac h2 v$; O is the exact Ornstein-Uhlenbeck
    step $v \leftarrow e^{-\Gamma h} v + \sqrt{1 - e^{-2 \Gamma h}}\, z$. The last B of a step and the first of the next
    share one evaluation, and the very last B moves no position, so a step costs one evaluation. On a Gaussian the
    stationary law of x is exact for every stable step, unlike that of overdamped steps. Steps are stable for
    $h < 2/\omega$, with ω² the largest curvature of −log p_σ. That is at most 1/σ², so b < 2 is stable on every target.
    Source: Rational Construction of Stochastic Numerical Methods for Molecular Sampling, Leimkuhler & Matthews, 2013
    (at a fixed level).

    Args:
        step_ratio: b = h/σ, in (0, 2).
        friction: Γσ, dimensionless; at 0 all noise comes from the velocity drawn at each level.
        steps_per_level: T.
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    @strict
    def __init__(
        self,
        *,
        step_ratio: StableRatio,
        friction: NonNegative = 1.0,
        steps_per_level: Count = 100,
        denoise: bool = False,
        prior: Prior = "gaussian",
    ) -> None:
        super().__init__(prior=prior, denoise=denoise)
        self.step_ratio, self.friction, self.steps_per_level = step_ratio, friction, steps_per_level

    def level(self, score: Score, x: State, sigmas: Sigmas, index: int, *, generator: Generator | None) -> State:
        """T steps of BAOAB at this level, from a velocity drawn from N(0, I)."""
        sigma = sigmas[index]
        h = self.step_ratio * float(sigma)
        kept = math.exp(-self.friction * self.step_ratio)
        v, kick = noise_like(x, generator), h / 2
        for _ in range(self.steps_per_level):
            v.add_(score(x, sigma), alpha=kick)
            x.add_(v, alpha=h / 2)
            v.mul_(kept).add_(noise_like(x, generator), alpha=math.sqrt(1 - kept**2))
            x.add_(v, alpha=h / 2)
            kick = h
        return x

    def evaluations(self, num_levels: int) -> int:
        """T a level, and one to denoise."""
        return num_levels * self.steps_per_level + self.denoise
