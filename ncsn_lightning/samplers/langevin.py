r"""Langevin dynamics, unadjusted, in one convention everywhere:

$$x \leftarrow x + \alpha\, s(x, \sigma) + \sqrt{2\alpha}\, z$$

(Song & Ermon's Algorithm 1 writes α/2 for this α.) On N(0, v) its stationary variance is $v / (1 - \alpha / 2v)$, so α
must stay below 2v, twice the variance where p_σ is narrowest. That is at least σ²: the step relative to the level,
$a = \alpha/\sigma^2$, is safe below 2 on every target.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator

from ..core.validation import Count, Positive, StableRatio, strict
from ..distributions.base import Distribution
from ..models.scores import Score
from .base import Chain, Level, Prior, Sigmas, State


def _langevin_steps(
    score: Score, x: State, sigma: Level, *, alpha: float, count: int, generator: Generator | None
) -> State:
    """Take `count` steps of size `alpha` (data units²) at one level, in place."""
    noise = torch.empty_like(x)
    for _ in range(count):
        x.add_(score(x, sigma), alpha=alpha)
        x.add_(noise.normal_(generator=generator), alpha=math.sqrt(2 * alpha))
    return x


class AnnealedLangevin(Chain):
    r"""T Langevin steps at every level, of size $\alpha_i = a \sigma_i^2$.

    The primer's rule $\epsilon_i = c\,\sigma_i^2/\sigma_L^2$ is $a = c/\sigma_L^2$. If σ_min changes at a fixed c,
    chains freeze or diverge; at a fixed a they do not. Exactly one of the two is given. Sources: Generative Modeling by
    Estimating Gradients of the Data Distribution, Song & Ermon, 2019, Algorithm 1; `technique_4` for `auto`.

    Args:
        step_ratio: a, in (0, 2), or `auto`: the value that `technique_4` gives for this ladder and T.
        base_step: c, in squared data units.
        steps_per_level: T.
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    @strict
    def __init__(
        self,
        *,
        step_ratio: StableRatio | Literal["auto"] | None = None,
        base_step: Positive | None = None,
        steps_per_level: Count = 100,
        denoise: bool = False,
        prior: Prior = "gaussian",
    ) -> None:
        if (step_ratio is None) == (base_step is None):
            raise ValueError(
                f"step_ratio={step_ratio} and base_step={base_step}: give exactly one of them, and null for the other"
            )
        super().__init__(prior=prior, denoise=denoise)
        self.step_ratio = step_ratio
        self.base_step = base_step
        self.steps_per_level = steps_per_level

    def ratio(self, sigmas: Sigmas) -> float:
        """a = α/σ² on this ladder, dimensionless."""
        if self.step_ratio == "auto":
            return technique_4(sigmas, self.steps_per_level)
        if self.step_ratio is not None:
            return self.step_ratio
        assert self.base_step is not None
        return self.base_step / float(sigmas[-1]) ** 2

    def check(self, sigmas: Sigmas) -> None:
        """Raise a ValueError where the step ratio would be 2 or more, or cannot be chosen automatically."""
        if self.step_ratio == "auto" and len(sigmas) < 2:
            raise ValueError(
                "step_ratio='auto' follows from the ratio of two levels, of which there is one; give a number"
            )
        ratio = self.ratio(sigmas)
        if not ratio < 2:
            limit = 2 * float(sigmas[-1]) ** 2
            raise ValueError(
                f"base_step={self.base_step:g} makes the chain unstable: with sigma_min={float(sigmas[-1]):g} the step "
                f"is {ratio:.3g} σ², which must be below 2; keep base_step below {limit:.3g}"
            )

    def level(self, score: Score, x: State, sigmas: Sigmas, index: int, *, generator: Generator | None) -> State:
        """T Langevin steps of size a σ² at this level."""
        alpha = self.ratio(sigmas) * float(sigmas[index]) ** 2
        return _langevin_steps(score, x, sigmas[index], alpha=alpha, count=self.steps_per_level, generator=generator)

    def evaluations(self, num_levels: int) -> int:
        """T a level, and one to denoise."""
        return num_levels * self.steps_per_level + self.denoise


def technique_4(sigmas: Sigmas, steps_per_level: int) -> float:
    r"""The step ratio a with which chains on a point mass end a level with a variance closest to σ_i².

    $$\frac{s_T^2}{\sigma_i^2} = (1 - a)^{2T} \Big(\gamma^2 - \frac{2a}{1 - (1 - a)^2}\Big) + \frac{2a}{1 - (1 - a)^2},
    \qquad \gamma = \frac{\sigma_{i-1}}{\sigma_i}$$

    found by search on a grid, as in the source. The variance grows with γ and is above 1, so on an uneven ladder the
    largest γ decides. Source: Improved Techniques for Training Score-Based Generative Models, Song & Ermon, 2020,
    Technique 4 (ε/σ_L² is our a).
    """
    gamma = float((sigmas[:-1] / sigmas[1:]).max())
    a = torch.logspace(-6, 0, 20_001, dtype=torch.float64)
    settled = 1 / (1 - a / 2)  # 2a / (1 − (1 − a)²)
    variance = (1 - a) ** (2 * steps_per_level) * (gamma**2 - settled) + settled
    return float(a[variance.argmin()])


class Langevin(Chain):
    """Plain Langevin dynamics at the ladder's last level alone: the baseline that cannot mix between modes.

    Args:
        step: α, absolute, in squared data units.
        steps_per_level: number of steps.
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    @strict
    def __init__(
        self, *, step: Positive, steps_per_level: Count = 1000, denoise: bool = False, prior: Prior = "uniform"
    ) -> None:
        super().__init__(prior=prior, denoise=denoise)
        self.step = step
        self.steps_per_level = steps_per_level

    def check_target(self, target: Distribution, sigmas: Sigmas) -> None:
        """Raise a ValueError where the step is so long that the chain diverges on this target."""
        sigma = float(sigmas[-1])
        curvature = target.curvature(sigma)
        if self.step * curvature >= 2:
            raise ValueError(
                f"step={self.step:g} makes the chain unstable: at σ={sigma:g} the target's smallest variance is "
                f"{1 / curvature:.3g}, and the step must be below twice that; keep step below {2 / curvature:.3g}"
            )

    def level(self, score: Score, x: State, sigmas: Sigmas, index: int, *, generator: Generator | None) -> State:
        """All steps at the last level; nothing at the others."""
        if index < len(sigmas) - 1:
            return x
        return _langevin_steps(
            score, x, sigmas[index], alpha=self.step, count=self.steps_per_level, generator=generator
        )

    def evaluations(self, num_levels: int) -> int:
        """One a step and one to denoise, however many levels there are."""
        return self.steps_per_level + self.denoise
