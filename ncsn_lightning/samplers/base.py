"""The loop that all samplers share: start from a prior, walk down the ladder, yield the state after every level.

Two kinds of work happen on a ladder. A `Chain` stays at a level until its state follows p_σ there; a `Stepper` carries
a state that follows p_σ at one level to the next one.
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
"""One of them."""


class Sampler(ABC):
    r"""A walk down noise levels $\sigma_1 > \dots > \sigma_L$. Derive from `Chain` or `Stepper`, or own all the states.

    Args:
        prior: where chains start: `gaussian` N(mean, σ_1² I), the primer's, about the target's mean; `moment_matched`
            N(mean, Cov + σ_1² I), which has the target's covariance too; `uniform` on the square that holds the
            target's typical points, about their middle.
        denoise: end with one noise-free step $x + \sigma_L^2 s(x, \sigma_L)$, the posterior mean of the clean point,
            which is Euler's step from σ_L to 0. Source: Adversarial Score Matching and Improved Sampling for Image
            Generation, Jolicoeur-Martineau et al., 2020, §3.1.
    """

    def __init__(self, *, prior: Prior, denoise: bool) -> None:
        self.prior = prior
        self.denoise = denoise

    __repr__ = described

    @abstractmethod
    def states(self, score: Score, x: State, sigmas: Sigmas, *, generator: Generator | None) -> Iterator[State]:
        """Yield the state after the work of every level, before any denoising; `x` may be overwritten."""

    @abstractmethod
    def evaluations(self, num_levels: int) -> int:
        """How often the score is evaluated for each sample on a ladder of `num_levels` levels.

        Exactly so often, unless the sampler chooses its own steps: then it is the budget that the walk never exceeds.
        """

    def reached(self, sigmas: Sigmas) -> Float[Tensor, "states"]:
        """The level whose p_σ each of the L + 1 states of `walk` is meant to follow; 0 once denoised."""
        return self._ended(torch.cat([sigmas, sigmas[-1:]]))

    def _ended(self, levels: Float[Tensor, "states"]) -> Float[Tensor, "states"]:
        return torch.cat([levels[:-1], levels.new_zeros(1)]) if self.denoise else levels

    def check(self, sigmas: Sigmas) -> None:  # noqa: B027  (most samplers fit every ladder)
        """Raise ValueError where this sampler cannot walk this ladder."""

    def check_target(self, target: Distribution, sigmas: Sigmas) -> None:  # noqa: B027
        """Raise ValueError where, besides, chains of this sampler cannot stay on this target."""

    def check_score(self, score: Score) -> None:  # noqa: B027
        """Raise ValueError where this sampler asks of a score what this one does not have."""

    def start(
        self, n: int, target: Distribution, sigma_max: Level | float, *, generator: Generator | None = None
    ) -> State:
        """Draw `n` points of the prior, of the dtype of the target's samples, on its device."""
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
        """Walk down the ladder from `x` and yield the state after every level, the last one denoised if asked for."""
        self.check(sigmas)
        self.check_score(score)
        for index, state in enumerate(self.states(score, x.clone(), sigmas, generator=generator)):
            if self.denoise and index == len(sigmas) - 1:
                yield state + sigmas[-1] ** 2 * score(state, sigmas[-1])
            else:
                yield state.clone()

    def walk(self, score: Score, target: Distribution, sigmas: Sigmas, *, n: int, seed: int) -> Iterator[State]:
        """`n` chains as a function of the seed: their draw of the prior, then the state after every level.

        The prior is drawn on the target's device, the chains run on that of `sigmas`.
        """
        start = keyed_generator(seed, "start", device=target.mean.device)
        x = self.start(n, target, float(sigmas[0]), generator=start).to(sigmas.device)
        yield x
        yield from self.trajectory(score, x, sigmas, generator=keyed_generator(seed, "samples", device=sigmas.device))

    def __call__(self, score: Score, x: State, sigmas: Sigmas, *, generator: Generator | None = None) -> State:
        """The last state of `trajectory`."""
        *_, last = self.trajectory(score, x, sigmas, generator=generator)
        return last


class Chain(Sampler):
    """Markov chains that are led to p_σ at one level after the other; a subclass owns the work at a level."""

    @abstractmethod
    def level(self, score: Score, x: State, sigmas: Sigmas, index: int, *, generator: Generator | None) -> State:
        """Do the work of level `sigmas[index]` and return the new state; `x` may be overwritten."""

    def states(self, score: Score, x: State, sigmas: Sigmas, *, generator: Generator | None) -> Iterator[State]:
        for index in range(len(sigmas)):
            x = self.level(score, x, sigmas, index, generator=generator)
            yield x

    def reached(self, sigmas: Sigmas) -> Float[Tensor, "states"]:
        return self._ended(torch.cat([sigmas[:1], sigmas]))


class Stepper(Sampler):
    """Steps from each level to the next; a subclass owns the step. At the last level only denoising is left to do.

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
        for sigma, lower in pairwise(sigmas):
            x = self.step(score, x, sigma, lower, generator=generator)
            yield x
        yield x


def noise_like(x: State, generator: Generator | None) -> State:
    """Standard normal numbers with the shape, dtype and device of `x`."""
    return torch.empty_like(x).normal_(generator=generator)
