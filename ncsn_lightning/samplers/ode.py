r"""Samplers that solve the probability-flow ODE, which carries p_σ to p_σ' without any noise:

$$\frac{dx}{d\sigma} = -\sigma\, s(x, \sigma) = \frac{x - D(x, \sigma)}{\sigma}, \qquad D = x + \sigma^2 s$$

Source: Score-Based Generative Modeling through Stochastic Differential Equations, Song et al., 2021, eq. 13, in the
variables of Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022, eq. 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Generator, Tensor
from torchdiffeq import odeint

from ..core.validation import Count, Positive, strict
from ..models.scores import Score
from .base import Level, Prior, Sampler, Sigmas, State, Stepper


class NotSolvedError(ValueError):
    """The ODE cannot be solved to the given tolerance; the message says at which σ, and what to change."""


class Euler(Stepper):
    r"""First order: $x \leftarrow x + \sigma_i (\sigma_i - \sigma_{i+1})\, s(x, \sigma_i)$. One evaluation a step.

    In these variables it is DDIM (Denoising Diffusion Implicit Models, Song, Meng & Ermon, 2021, §4.3).

    Args:
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    def step(self, score: Score, x: State, sigma: Level, lower: Level, *, generator: Generator | None) -> State:
        """Euler's step along the slope at `sigma`."""
        return x + sigma * (sigma - lower) * score(x, sigma)

    def evaluations(self, num_levels: int) -> int:
        """One a step, and one to denoise."""
        return num_levels - 1 + self.denoise


class Heun(Stepper):
    r"""Second order: Euler's step, then the mean of the slopes at its two ends. Two evaluations a step.

    With `denoise` on a ladder of L levels it is EDM's sampler with L steps and 2L − 1 evaluations. Source: Elucidating
    the Design Space of Diffusion-Based Generative Models, Karras et al., 2022, Algorithm 1.

    Args:
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    def step(self, score: Score, x: State, sigma: Level, lower: Level, *, generator: Generator | None) -> State:
        """One step of `heun_step`."""
        return heun_step(score, x, sigma, lower)

    def evaluations(self, num_levels: int) -> int:
        """Two a step, and one to denoise."""
        return 2 * (num_levels - 1) + self.denoise


def heun_step(score: Score, x: State, sigma: Level, lower: Level) -> State:
    """Take one step of Heun's rule in σ (Karras et al., 2022, Algorithm 1, lines 4 to 8)."""
    slope = -sigma * score(x, sigma)
    end = x + (lower - sigma) * slope
    return x + (lower - sigma) / 2 * (slope - lower * score(end, lower))


class Multistep(Sampler):
    r"""Third order at one evaluation a step, from the denoised points of the last three levels.

    In $\lambda = -\ln\sigma$ the ODE reads $dx/d\lambda = D - x$, so that over a step $h = \ln(\sigma_i/\sigma_{i+1})$

    $$x_{i+1} = e^{-h} x_i + \int_0^h e^{\tau - h} D(\lambda_i + \tau)\, d\tau,$$

    where D is replaced by the polynomial in λ through its last three values. The levels may be spaced in any way. The
    first step has no past values: its polynomial goes through D at both ends of the step, where Euler's rule predicts
    the second end. This costs one evaluation more and keeps the third order. Sources: DPM-Solver++, Lu et al., 2022, §4
    (the multistep idea, on data prediction); Exponential Time Differencing for Stiff Systems, Cox & Matthews, 2002
    (ETD2RK, the first step).

    Args:
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    @strict
    def __init__(self, *, denoise: bool = True, prior: Prior = "moment_matched") -> None:
        super().__init__(prior=prior, denoise=denoise)

    def states(self, score: Score, x: State, sigmas: Sigmas, *, generator: Generator | None) -> Iterator[State]:
        """Yield the state after each step of the extrapolated polynomial, the last state twice."""
        past: list[tuple[float, Tensor]] = []  # λ and D, the newest first
        for sigma, lower in pairwise(sigmas):
            past = [_denoised(score, x, sigma), *past[:2]]
            if len(past) == 1:
                end = _extrapolated(x, past, lower)
                past.append(_denoised(score, end, lower))
                x = _extrapolated(x, past, lower)
                past.pop()
            else:
                x = _extrapolated(x, past, lower)
            yield x
        yield x

    def evaluations(self, num_levels: int) -> int:
        """One a step, one more for the first step, and one to denoise."""
        return num_levels * (num_levels > 1) + self.denoise


def _denoised(score: Score, x: State, sigma: Level) -> tuple[float, State]:
    """λ = −ln σ and D(x, σ)."""
    return -math.log(sigma), x + sigma**2 * score(x, sigma)


def _extrapolated(x: State, known: list[tuple[float, Tensor]], lower: Level) -> State:
    r"""Step from the level of `known[0]` to `lower`, with Newton's polynomial of D through one to three points.

    $D \approx D_0 + d_1 \tau + d_2 \tau (\tau - \tau_1)$, with divided differences d and τ = 0 at the first point; its
    powers of τ are weighted by $I_k = \int_0^h e^{\tau - h} \tau^k d\tau$.
    """
    times, values = zip(*known, strict=True)
    h = -math.log(lower) - times[0]
    integrals = [-math.expm1(-h), h + math.expm1(-h)]
    integrals.append(h**2 - 2 * integrals[1])
    result = math.exp(-h) * x + integrals[0] * values[0]
    if len(known) > 1:
        slope = (values[1] - values[0]) / (times[1] - times[0])
        result = result + integrals[1] * slope
    if len(known) > 2:
        bend = ((values[2] - values[1]) / (times[2] - times[1]) - slope) / (times[2] - times[0])
        result = result + (integrals[2] - (times[1] - times[0]) * integrals[1]) * bend
    return result


class AdaptiveODE(Sampler):
    r"""Adaptive steps of torchdiffeq in $\lambda = -\ln\sigma$, which keep the error of each below a tolerance.

    One solution runs from σ_1 to σ_L. The levels between them only decide where states are returned, and cost nothing.
    The error is the root mean square over all chains together.

    Args:
        method: Runge-Kutta pair: `bosh3` of order 3 (3 evaluations a step), `dopri5` of 5 (6) or `dopri8` of 8 (13).
        rtol: tolerance relative to the state.
        atol: absolute tolerance, in data units.
        max_evaluations: of the score; the solver that needs more stops with an error.
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    @strict
    def __init__(
        self,
        *,
        method: Literal["dopri5", "dopri8", "bosh3"] = "dopri5",
        rtol: Positive = 1e-4,
        atol: Positive = 1e-4,
        max_evaluations: Count = 2000,
        denoise: bool = True,
        prior: Prior = "moment_matched",
    ) -> None:
        super().__init__(prior=prior, denoise=denoise)
        self.method, self.rtol, self.atol = method, rtol, atol
        self.max_evaluations = max_evaluations

    def states(self, score: Score, x: State, sigmas: Sigmas, *, generator: Generator | None) -> Iterator[State]:
        """Solve from σ_1 to σ_L at once, then yield the state at every level, the last one twice.

        Raises:
            NotSolvedError: the tolerance cannot be kept, or not with `max_evaluations`.
        """
        if len(sigmas) > 1:
            _, *states = self._solve(score, x, sigmas)
            yield from states
            x = states[-1]
        yield x

    def _solve(self, score: Score, x: State, sigmas: Sigmas) -> Float[Tensor, "levels n 2"]:
        """The states at all levels."""
        times, spent, sigma = -sigmas.double().log(), 0, sigmas[0]

        def drift(time: Tensor, x: Tensor) -> Tensor:
            nonlocal spent, sigma
            spent, sigma = spent + 1, (-time).exp().to(x.dtype)
            slope = sigma**2 * score(x, sigma)
            # torchdiffeq reports its own failures as AssertionError too; one handler below catches all of them.
            assert spent <= self.max_evaluations, f"max_evaluations={self.max_evaluations} exceeded"
            assert slope.isfinite().all(), "the score is not finite"
            return slope

        options = {"step_t": times[-1:]}  # no step beyond σ_L, where a network has seen nothing
        try:
            return odeint(drift, x, times, rtol=self.rtol, atol=self.atol, method=self.method, options=options)
        except AssertionError as error:
            raise NotSolvedError(
                f"sampler.rtol={self.rtol:g} and atol={self.atol:g} cannot be kept at σ={float(sigma):.3g} "
                f"({error}); raise the tolerances or max_evaluations"
            ) from error

    def evaluations(self, num_levels: int) -> int:
        """The budget; how many a walk really takes depends on the score and the tolerance."""
        return self.max_evaluations * (num_levels > 1) + self.denoise
