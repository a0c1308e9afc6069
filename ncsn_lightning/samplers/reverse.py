r"""Samplers whose steps add noise: discretisations of the reverse diffusion

$$dx = -2\sigma\, s(x, \sigma)\, d\sigma + \sqrt{2\sigma}\, d\bar w \qquad (\sigma \text{ falling})$$

Source: Score-Based Generative Modeling through Stochastic Differential Equations, Song et al., 2021, eq. 6 and 9.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ..core.validation import Index, NonNegative, Positive, StableRatio, strict
from ..models.scores import Score
from .base import Level, Prior, Sampler, Sigmas, State, Stepper, noise_like
from .ode import heun_step


class Ancestral(Stepper):
    r"""DDPM's sampler: it draws the next level from its posterior, given this level and the denoised point.

    $$x \leftarrow x + (\sigma_i^2 - \sigma_{i+1}^2)\, s + \frac{\sigma_{i+1}}{\sigma_i}
    \sqrt{\sigma_i^2 - \sigma_{i+1}^2}\; z$$

    With $x = x_{VP}/\sqrt{\bar\alpha}$ on the ladder `ddpm` it is DDPM's update, term by term. Sources: Denoising
    Diffusion Probabilistic Models, Ho, Jain & Abbeel, 2020, Algorithm 2; Song et al., 2021, eq. 47, in these variables.

    Args:
        denoise: see `Sampler`; this is DDPM's last step, which adds no noise.
        prior: see `Sampler`.
    """

    def step(self, score: Score, x: State, sigma: Level, lower: Level, *, generator: Generator | None) -> State:
        """Draw the next level from its posterior."""
        return _reverse_step(score, x, sigma, lower, share=lower / sigma, generator=generator)

    def evaluations(self, num_levels: int) -> int:
        """One a step, and one to denoise."""
        return num_levels - 1 + self.denoise


class PredictorCorrector(Stepper):
    r"""A step to the next level, then Langevin steps at that level, whose size follows from a signal-to-noise ratio.

    Predictor: $x + (\sigma_i^2 - \sigma_{i+1}^2) s + c \sqrt{\sigma_i^2 - \sigma_{i+1}^2}\, z$, with c = 1 for
    `reverse_diffusion` and $\sigma_{i+1}/\sigma_i$ for `ancestral`. Corrector: $x + e s + \sqrt{2e}\, z$ with
    $e = 2 (r \|z\| / \|s\|)^2$, where norms are averaged over all chains, so that chains depend on each other. Source:
    Song et al., 2021, Algorithms 1, 2 and 4.

    Args:
        predictor: the step to the next level, with one of the two values of c.
        corrector_steps: Langevin steps at each level after the first; 0 leaves the predictor alone.
        signal_to_noise: r, dimensionless.
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    @strict
    def __init__(
        self,
        *,
        predictor: Literal["reverse_diffusion", "ancestral"] = "reverse_diffusion",
        corrector_steps: Index = 1,
        signal_to_noise: Positive = 0.16,
        denoise: bool = True,
        prior: Prior = "moment_matched",
    ) -> None:
        super().__init__(prior=prior, denoise=denoise)
        self.predictor, self.corrector_steps, self.signal_to_noise = predictor, corrector_steps, signal_to_noise

    def step(self, score: Score, x: State, sigma: Level, lower: Level, *, generator: Generator | None) -> State:
        """The predictor's step, then the corrector's steps at the level that it reaches."""
        share = lower / sigma if self.predictor == "ancestral" else torch.ones_like(sigma)
        x = _reverse_step(score, x, sigma, lower, share=share, generator=generator)
        for _ in range(self.corrector_steps):
            s, z = score(x, lower), noise_like(x, generator)
            e = 2 * (self.signal_to_noise * _mean_norm(z) / _mean_norm(s)) ** 2
            x = x + e * s + (2 * e).sqrt() * z
        return x

    def evaluations(self, num_levels: int) -> int:
        """One a step for the predictor, one for each corrector step, and one to denoise."""
        return (num_levels - 1) * (1 + self.corrector_steps) + self.denoise


def _reverse_step(
    score: Score, x: State, sigma: Level, lower: Level, *, share: Float[Tensor, ""], generator: Generator | None
) -> State:
    """Take a step of either predictor, whose noise has `share` times the deviation √(σ² − lower²)."""
    variance = sigma**2 - lower**2
    return x + variance * score(x, sigma) + share * variance.sqrt() * noise_like(x, generator)


def _mean_norm(vectors: Float[Tensor, "n 2"]) -> Float[Tensor, ""]:
    """The mean length of the vectors."""
    return torch.linalg.vector_norm(vectors, dim=-1).mean()


class ConsistentAnnealed(Stepper):
    r"""One Langevin step a level, whose noise makes the state follow the next level.

    $$x \leftarrow x + \eta \sigma_i^2 s(x, \sigma_i) + \sigma_{i+1} \beta_i z, \qquad
    \beta_i^2 = 1 - \Big(\frac{1 - \eta}{\gamma_i}\Big)^2, \qquad \gamma_i = \frac{\sigma_{i+1}}{\sigma_i}$$

    On a point mass the state then has variance σ_i² exactly, level after level. Source: Adversarial Score Matching and
    Improved Sampling for Image Generation, Jolicoeur-Martineau et al., 2020, Algorithm 2 (ε/σ_L² there is η).

    Args:
        step_ratio: η, in (0, 2), within 1 − γ_i < η < 1 + γ_i at every level.
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    @strict
    def __init__(self, *, step_ratio: StableRatio, denoise: bool = True, prior: Prior = "moment_matched") -> None:
        super().__init__(prior=prior, denoise=denoise)
        self.step_ratio = step_ratio

    def check(self, sigmas: Sigmas) -> None:
        """Raise a ValueError where a level lies so far below the one before that β² would not be positive."""
        if len(sigmas) < 2:
            return
        ratio, index = (sigmas[1:] / sigmas[:-1]).min(0)
        if not abs(1 - self.step_ratio) < float(ratio):
            raise ValueError(
                f"step_ratio={self.step_ratio:g} lies outside 1 − γ … 1 + γ: from σ={float(sigmas[index]):.3g} to "
                f"{float(sigmas[index + 1]):.3g} γ is {float(ratio):.3g}; keep it between {1 - float(ratio):.3g} and "
                f"{1 + float(ratio):.3g}, or raise schedule.num_levels"
            )

    def step(self, score: Score, x: State, sigma: Level, lower: Level, *, generator: Generator | None) -> State:
        """The step with as much noise as the level `lower` needs."""
        beta = (1 - ((1 - self.step_ratio) * sigma / lower) ** 2).sqrt()
        return x + self.step_ratio * sigma**2 * score(x, sigma) + lower * beta * noise_like(x, generator)

    def evaluations(self, num_levels: int) -> int:
        """One a step, and one to denoise."""
        return num_levels - 1 + self.denoise


class StochasticHeun(Sampler):
    r"""Heun's steps; before each, noise is added and raises the level to $\hat\sigma = (1 + \gamma)\sigma$.

    $$\hat x = x + \sqrt{\hat\sigma^2 - \sigma^2}\, S_{noise}\, z, \qquad
    \gamma = \min\Big(\frac{S_{churn}}{L}, \sqrt2 - 1\Big) \text{ for } S_{tmin} \le \sigma \le S_{tmax}$$

    Fresh noise removes old errors, but makes every step longer. The last step, to 0, is taken without it. Source:
    Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022, Algorithm 2.

    Args:
        s_churn: amount of noise over the whole ladder, dimensionless; 0 gives `Heun`.
        s_tmin, s_tmax: lowest and highest level at which noise is added, in data units.
        s_noise: factor on the noise; a little above 1 compensates for denoisers that remove too much.
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    @strict
    def __init__(
        self,
        *,
        s_churn: NonNegative = 10.0,
        s_tmin: NonNegative = 0.05,
        s_tmax: Positive = 50.0,
        s_noise: Positive = 1.0,
        denoise: bool = True,
        prior: Prior = "moment_matched",
    ) -> None:
        if s_tmin > s_tmax:
            raise ValueError(f"s_tmin={s_tmin:g} exceeds s_tmax={s_tmax:g}: exchange or move them")
        super().__init__(prior=prior, denoise=denoise)
        self.s_churn, self.s_tmin, self.s_tmax, self.s_noise = s_churn, s_tmin, s_tmax, s_noise

    def states(self, score: Score, x: State, sigmas: Sigmas, *, generator: Generator | None) -> Iterator[State]:
        """Yield the state after each step with its added noise, the last state twice."""
        gamma = min(self.s_churn / len(sigmas), math.sqrt(2) - 1)
        for sigma, lower in pairwise(sigmas):
            raised = sigma
            if self.s_tmin <= float(sigma) <= self.s_tmax:
                raised = (1 + gamma) * sigma
                x = x + (raised**2 - sigma**2).sqrt() * self.s_noise * noise_like(x, generator)
            x = heun_step(score, x, raised, lower)
            yield x
        yield x

    def evaluations(self, num_levels: int) -> int:
        """Two a step, and one to denoise."""
        return 2 * (num_levels - 1) + self.denoise
