"""The loop that all samplers share: start from a prior, walk down the ladder one level at a time, yield every state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..distributions import Distribution
from ..randomness import keyed_generator
from ..scores import Score

Prior = Literal["gaussian", "moment_matched", "uniform"]


class Sampler(ABC):
    r"""A walk along noise levels $\sigma_1 > \dots > \sigma_L$; a subclass owns what happens at one of them.

    Args:
        prior: where chains start: `gaussian` N(0, σ_1² I), the primer's; `moment_matched` N(mean, Cov + σ_1² I) of the
            target, which leaves the weights of an uncentred target unbiased; `uniform` on the smallest square centred
            at the origin that holds the target's typical points.
        denoise: end with one noise-free step $x + \sigma_L^2 s(x, \sigma_L)$, the posterior mean of the clean point.
            Source: Adversarial Score Matching and Improved Sampling for Image Generation, Jolicoeur-Martineau et al.,
            2020, §3.1.
    """

    def __init__(self, *, prior: Prior, denoise: bool) -> None:
        self.prior = prior
        self.denoise = denoise

    @abstractmethod
    def level(
        self,
        score: Score,
        x: Float[Tensor, "n 2"],
        sigmas: Float[Tensor, "levels"],
        index: int,
        *,
        generator: torch.Generator | None,
    ) -> Float[Tensor, "n 2"]:
        """Do the work of level `sigmas[index]` and return the new state; `x` may be overwritten."""

    @abstractmethod
    def evaluations(self, num_levels: int) -> int:
        """How often the score is evaluated for each sample on a ladder of `num_levels` levels."""

    def check(self, sigmas: Float[Tensor, "levels"]) -> None:  # noqa: B027  (most samplers fit every ladder)
        """Raise ValueError where this sampler cannot walk this ladder."""

    def check_target(self, target: Distribution, sigmas: Float[Tensor, "levels"]) -> None:  # noqa: B027
        """Raise ValueError where, besides, chains of this sampler cannot stay on this target."""

    def start(
        self,
        n: int,
        target: Distribution,
        sigma_max: Float[Tensor, ""] | float,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n 2"]:
        """Draw `n` points of the prior, float32, on the target's device."""
        mean, device = target.mean.float(), target.mean.device
        if self.prior == "uniform":
            half_width = target.typical_points.abs().max()
            return half_width * (2 * torch.rand(n, 2, generator=generator, device=device) - 1)
        z = torch.randn(n, 2, generator=generator, device=device)
        if self.prior == "gaussian":
            return sigma_max * z
        covariance = target.covariance + torch.eye(2, device=device) * sigma_max**2
        return mean + z @ torch.linalg.cholesky(covariance).float().T

    @torch.no_grad()
    def trajectory(
        self,
        score: Score,
        x: Float[Tensor, "n 2"],
        sigmas: Float[Tensor, "levels"],
        *,
        generator: torch.Generator | None = None,
    ) -> Iterator[Float[Tensor, "n 2"]]:
        """Walk down the ladder from `x` and yield the state after every level, the last one denoised if asked for."""
        self.check(sigmas)
        x = x.clone()
        for index, sigma in enumerate(sigmas):
            x = self.level(score, x, sigmas, index, generator=generator)
            if self.denoise and index == len(sigmas) - 1:
                x = x + sigma**2 * score(x, sigma)
            yield x.clone()

    def walk(
        self, score: Score, target: Distribution, sigmas: Float[Tensor, "levels"], *, n: int, seed: int
    ) -> Iterator[Float[Tensor, "n 2"]]:
        """`n` chains as a function of the seed: their draw of the prior, then the state after every level.

        The prior is drawn on the target's device, the chains run on that of `sigmas`.
        """
        start = keyed_generator(seed, "start", device=target.mean.device)
        x = self.start(n, target, float(sigmas[0]), generator=start).to(sigmas.device)
        yield x
        yield from self.trajectory(score, x, sigmas, generator=keyed_generator(seed, "samples", device=sigmas.device))

    def __call__(
        self,
        score: Score,
        x: Float[Tensor, "n 2"],
        sigmas: Float[Tensor, "levels"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n 2"]:
        """The last state of `trajectory`."""
        *_, last = self.trajectory(score, x, sigmas, generator=generator)
        return last
