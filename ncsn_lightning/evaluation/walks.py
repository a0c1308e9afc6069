"""Walks of a sampler with any score, each decided by its seed, and their distances from the exact p_σ on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.randomness import keyed_generator
from ..distributions.base import Distribution
from ..metrics.samples import SampleTest
from ..metrics.transport import sliced_wasserstein2
from ..models.scores import Score
from ..samplers.base import Sampler
from ..samplers.ode import Heun
from ..schedules import Karras, Schedule

NEAR_EXACT_LEVELS = 64
"""The number of levels of a ladder on which Heun's rule adds next to no error of its own."""

ANGLES = 64
"""The number of directions of the sliced Wasserstein distance."""

WATCHED = 32
"""The largest number of states of a walk whose distances from the truth are measured."""


@dataclass(frozen=True)
class Chains:
    """A sampler, and the target and ladder of its chains.

    Attributes:
        sampler: moves the chains.
        target: the distribution that the chains should have.
        schedule: the ladder down which the chains go.
        n: the number of chains of a walk.
    """

    sampler: Sampler
    target: Distribution
    schedule: Schedule
    n: int
    _walks: dict[tuple[Score, int], list[Float[Tensor, "n 2"]]] = field(default_factory=dict, init=False, compare=False)

    def near_exact(self, sigma: float) -> Chains:
        """Chains down to a level by a sampler of nearly no error, so that the remaining error is the score's.

        Args:
            sigma: the level at which the chains should end, in data units; for 0 they end at the lowest level of the
                schedule, and the last step denoises them.
        """
        ends = {**self.schedule.ends, **({"sigma_min": sigma} if sigma else {})}
        heun = Heun(prior="moment_matched", denoise=not sigma)
        return replace(self, sampler=heun, schedule=Karras(**ends, num_levels=NEAR_EXACT_LEVELS))

    def walk(self, score: Score, seed: int) -> Iterator[Float[Tensor, "n 2"]]:
        """Yield the start and the state after every level, as they are reached.

        Args:
            score: of the target, or a model of it.
            seed: decides the start and all noise.
        """
        return self.sampler.walk(score, self.target, self.schedule.sigmas, n=self.n, seed=seed)

    def states(self, score: Score, seed: int) -> list[Float[Tensor, "n 2"]]:
        """The start and the state after every level; a walk with the same score and seed is cached."""
        if (score, seed) not in self._walks:
            self._walks[score, seed] = list(self.walk(score, seed))
        return self._walks[score, seed]

    def draw(self, score: Score, seed: int) -> Float[Tensor, "n 2"]:
        """The states in which the chains end."""
        return self.states(score, seed)[-1]

    @property
    def watched(self) -> Int[Tensor, "watched"]:
        """Indices of the states that are compared with the truth: all of a short walk, evenly spread in a long one."""
        last = len(self.sampler.reached(self.schedule.sigmas)) - 1
        return torch.linspace(0, last, min(last + 1, WATCHED)).round().long()

    @property
    def levels(self) -> Float[Tensor, "watched"]:
        """σ that each watched state has reached, in data units: the first level for the start, 0 once denoised."""
        return self.sampler.reached(self.schedule.sigmas)[self.watched]

    def distances(self, score: Score, seeds: Sequence[int]) -> Float[Tensor, "seeds watched"]:
        """Sliced W₂, in data units, between the watched states of every walk and p_σ at the level they have reached."""
        walks = ((seed, self.states(score, seed)) for seed in seeds)
        return torch.tensor(
            [[self._distance(walk[at], at, seed) for at in self.watched.tolist()] for seed, walk in walks]
        )

    def floors(self, seeds: Sequence[int]) -> Float[Tensor, "seeds watched"]:
        """The distances that as many draws of each p_σ have, for comparison with those of the chains."""
        stops = self.watched.tolist()
        return torch.tensor(
            [[self._distance(self._truth(at, "floor", seed), at, seed) for at in stops] for seed in seeds]
        )

    def _distance(self, state: Float[Tensor, "n 2"], at: int, seed: int) -> float:
        return sliced_wasserstein2(state, self._truth(at, "truth", seed), num_angles=ANGLES)

    def _truth(self, at: int, purpose: str, seed: int) -> Float[Tensor, "n 2"]:
        """Draws of p_σ at the level that a state has reached, different for each state, purpose and seed."""
        level = float(self.sampler.reached(self.schedule.sigmas)[at])
        return self.target.sample_noisy(self.n, level, generator=keyed_generator(seed, purpose, at))


class Share(NamedTuple):
    """A metric of several walks, printed as `value ± error`.

    Attributes:
        value: the mean over the walks.
        error: the standard error of the mean; NaN for one walk.
        floor: the mean over draws of the truth with as many points.
        deviation: the standard deviation over these draws.
        num_points: the number of points of each walk and draw.
    """

    value: float
    error: float
    floor: float
    deviation: float
    num_points: int

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.error:.1g}" if math.isfinite(self.error) else f"{self.value:.3g}"


def shares(test: SampleTest, chains: Chains, score: Score, seeds: Iterable[int]) -> dict[str, Share]:
    """Every metric of walks with different seeds.

    Args:
        test: has the metrics and the draws of the truth; each walk is compared with other draws.
        chains: of the walks.
        score: by which the chains move.
        seeds: of the walks.

    Raises:
        ValueError: there are too few points for a metric.
    """
    walks = []
    for index, seed in enumerate(seeds):
        walks.append(test.measure(chains.draw(score, seed), first=index * test.repeats))
    found = {}
    for name, measured in walks[0].items():
        values = torch.tensor([walk[name].value for walk in walks], dtype=torch.float64)
        error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        found[name] = Share(float(values.mean()), error, measured.floor, measured.deviation, measured.num_points)
    return found
