"""The loop that all samplers share: start from a prior, walk down the ladder, yield the state after every level.

Samplers work on a ladder in two ways. A `Chain` stays at a level until its state follows p_σ there. A `Stepper` carries
a state that follows p_σ from each level to the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ..core.randomness import keyed_generator
from ..core.validation import described, strict
from ..distributions.base import Distribution
from ..models.scores import Score

Prior = Literal["gaussian", "moment_matched", "uniform"]

State = Float[Tensor, "n 2"]
"""Where n chains are, in data units."""

Sigmas = Float[Tensor, "levels"]
"""A ladder of noise levels, decreasing, in data units."""

Level = Float[Tensor, ""]
"""One noise level, in data units."""


class Sampler(ABC):
    r"""A walk down noise levels $\sigma_1 > \dots > \sigma_L$.

    A sampler of your own derives from `Chain` or `Stepper`, or from this class where it is neither.

    Args:
        prior: where chains start: `gaussian` N(mean, σ_1² I), the primer's, about the target's mean; `moment_matched`
            N(mean, Cov + σ_1² I), which has the target's covariance too; `uniform` on the smallest square about the
            middle of the target's typical points that holds them.
        denoise: end with one noise-free step $x + \sigma_L^2 s(x, \sigma_L)$ to the posterior mean of the clean point,
            which is also Euler's step from σ_L to 0. Source: Adversarial Score Matching and Improved Sampling for Image
            Generation, Jolicoeur-Martineau et al., 2020, §3.1.
    """

    def __init__(self, *, prior: Prior, denoise: bool) -> None:
        self.prior = prior
        self.denoise = denoise

    __repr__ = described

    @abstractmethod
    def states(self, score: Score, x: State, sigmas: Sigmas, *, generator: Generator | None) -> Iterator[State]:
        """Yield the state after the work of every level, before any denoising.

        Args:
            score: learned or exact.
            x: the start, which may be overwritten.
            sigmas: the ladder.
            generator: source of the noise.
        """

    @abstractmethod
    def evaluations(self, num_levels: int) -> int:
        """How often the score is evaluated for each sample on a ladder of `num_levels` levels.

        The count is exact, except for samplers that choose their own steps: theirs is a budget that is never exceeded.
        """

    def reached(self, sigmas: Sigmas) -> Float[Tensor, "states"]:
        """The level whose p_σ each of the L + 1 states of `walk` should follow, in data units; 0 once denoised."""
        return self._ended(torch.cat([sigmas, sigmas[-1:]]))

    def _ended(self, levels: Float[Tensor, "states"]) -> Float[Tensor, "states"]:
        """The levels with 0 as the last one where the sampler denoises."""
        return torch.cat([levels[:-1], levels.new_zeros(1)]) if self.denoise else levels

    def check(self, sigmas: Sigmas) -> None:  # noqa: B027  (most samplers fit every ladder)
        """Raise a ValueError where this sampler cannot walk this ladder."""

    def check_target(self, target: Distribution, sigmas: Sigmas) -> None:  # noqa: B027
        """Raise a ValueError where chains of this sampler would diverge on this target."""

    def check_score(self, score: Score) -> None:  # noqa: B027
        """Raise a ValueError where this score lacks what the sampler needs."""

    def start(
        self, n: int, target: Distribution, sigma_max: Level | float, *, generator: Generator | None = None
    ) -> State:
        """Draw `n` points from the prior, in data units, with the dtype and device of the target's samples."""
        device = target.mean.device
        if self.prior == "uniform":
            low, high = (target.typical_points - target.mean).float().aminmax(dim=0)
            square = 2 * torch.rand(n, 2, generator=generator, device=device) - 1
            return target.placed((low + high) / 2 + (high - low).max() / 2 * square)
        z = torch.randn(n, 2, generator=generator, device=device)
        if self.prior == "gaussian":
            return target.placed(sigma_max * z)
        covariance = target.covariance + torch.eye(2, device=device) * sigma_max**2
        return target.placed(z @ torch.linalg.cholesky(covariance).float().T)

    @torch.no_grad()
    def trajectory(
        self, score: Score, x: State, sigmas: Sigmas, *, generator: Generator | None = None
    ) -> Iterator[State]:
        """Walk down the ladder from `x` and yield the state after every level, the last one denoised if asked for.

        Raises:
            ValueError: the sampler cannot walk this ladder, or not on this score.
        """
        self.check(sigmas)
        self.check_score(score)
        for index, state in enumerate(self.states(score, x.clone(), sigmas, generator=generator)):
            if self.denoise and index == len(sigmas) - 1:
                yield state + sigmas[-1] ** 2 * score(state, sigmas[-1])
            else:
                yield state.clone()

    def walk(self, score: Score, target: Distribution, sigmas: Sigmas, *, n: int, seed: int) -> Iterator[State]:
        """Yield the states of `n` chains, determined by the seed: the draw from the prior, then one after each level.

        The prior is drawn on the target's device; the chains run on the device of `sigmas`.
        """
        start = keyed_generator(seed, "start", device=target.mean.device)
        x = self.start(n, target, float(sigmas[0]), generator=start).to(sigmas.device)
        yield x
        yield from self.trajectory(score, x, sigmas, generator=keyed_generator(seed, "samples", device=sigmas.device))

    def __call__(self, score: Score, x: State, sigmas: Sigmas, *, generator: Generator | None = None) -> State:
        """Walk down the ladder from `x` and return the last state of `trajectory`."""
        *_, last = self.trajectory(score, x, sigmas, generator=generator)
        return last


class Chain(Sampler):
    """Markov chains that approach p_σ at one level after another; a subclass implements `level`."""

    @abstractmethod
    def level(self, score: Score, x: State, sigmas: Sigmas, index: int, *, generator: Generator | None) -> State:
        """Do the work of level `sigmas[index]` and return the new state; `x` may be overwritten."""

    def states(self, score: Score, x: State, sigmas: Sigmas, *, generator: Generator | None) -> Iterator[State]:
        """Yield what `level` returns for each level in turn."""
        for index in range(len(sigmas)):
            x = self.level(score, x, sigmas, index, generator=generator)
            yield x

    def reached(self, sigmas: Sigmas) -> Float[Tensor, "states"]:
        """σ_1 for the start, then the level at which the chains have just worked."""
        return self._ended(torch.cat([sigmas[:1], sigmas]))


class Stepper(Sampler):
    """Steps from each level to the next; a subclass implements `step`. At the last level there is only denoising to do.

    Args:
        denoise: see `Sampler`.
        prior: see `Sampler`.
    """

    @strict
    def __init__(self, *, denoise: bool = True, prior: Prior = "moment_matched") -> None:
        super().__init__(prior=prior, denoise=denoise)

    @abstractmethod
    def step(self, score: Score, x: State, sigma: Level, lower: Level, *, generator: Generator | None) -> State:
        """Carry a state from the level `sigma` to the next one, `lower`; `x` may be overwritten."""

    def states(self, score: Score, x: State, sigmas: Sigmas, *, generator: Generator | None) -> Iterator[State]:
        """Yield what `step` returns for each pair of neighbouring levels, the last state twice."""
        for sigma, lower in pairwise(sigmas):
            x = self.step(score, x, sigma, lower, generator=generator)
            yield x
        yield x


def noise_like(x: State, generator: Generator | None) -> State:
    """Standard normal numbers with the shape, dtype and device of `x`."""
    return torch.empty_like(x).normal_(generator=generator)
