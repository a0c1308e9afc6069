"""Chains of a sampler on any score, as functions of their seeds, and how far they are from the truth on their way."""

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
"""Levels of the ladder on which Heun's rule adds next to no error of its own."""

ANGLES = 64
WATCHED = 32
"""States of a walk, at most, whose distance from the truth is measured."""


@dataclass(frozen=True)
class Chains:
    """A sampler, and where it walks.

    Attributes:
        sampler: walks.
        target: what its chains should follow.
        schedule: the ladder.
        n: chains of a walk.
    """

    sampler: Sampler
    target: Distribution
    schedule: Schedule
    n: int
    _walks: dict[tuple[Score, int], list[Float[Tensor, "n 2"]]] = field(default_factory=dict, init=False, compare=False)

    def near_exact(self, sigma: float) -> Chains:
        """The same down to a level, by a sampler of nearly no error: what is wrong then is the score's.

        Args:
            sigma: where the chains should end, in data units; 0 for the target itself, by denoising at the last level.
        """
        ends = {**self.schedule.ends, **({"sigma_min": sigma} if sigma else {})}
        heun = Heun(prior="moment_matched", denoise=not sigma)
        return replace(self, sampler=heun, schedule=Karras(**ends, num_levels=NEAR_EXACT_LEVELS))

    def walk(self, score: Score, seed: int) -> Iterator[Float[Tensor, "n 2"]]:
        """The start and the state after every level, as they are reached."""
        return self.sampler.walk(score, self.target, self.schedule.sigmas, n=self.n, seed=seed)

    def states(self, score: Score, seed: int) -> list[Float[Tensor, "n 2"]]:
        """The start and the state after every level, walked once."""
        if (score, seed) not in self._walks:
            self._walks[score, seed] = list(self.walk(score, seed))
        return self._walks[score, seed]

    def draw(self, score: Score, seed: int) -> Float[Tensor, "n 2"]:
        """Where the chains end."""
        return self.states(score, seed)[-1]

    @property
    def watched(self) -> Int[Tensor, "watched"]:
        """Which states are compared with the truth: all of a short walk, evenly spread ones of a long one."""
        last = len(self.sampler.reached(self.schedule.sigmas)) - 1
        return torch.linspace(0, last, min(last + 1, WATCHED)).round().long()

    @property
    def levels(self) -> Float[Tensor, "watched"]:
        """σ that each of them has reached, data units; of the start it is the first, once denoised 0."""
        return self.sampler.reached(self.schedule.sigmas)[self.watched]

    def distances(self, score: Score, seeds: Sequence[int]) -> Float[Tensor, "seeds watched"]:
        """Sliced W₂ (data units) of the watched states of every walk from p_σ at the level that they have reached."""
        walks = ((seed, self.states(score, seed)) for seed in seeds)
        return torch.tensor(
            [[self._distance(walk[at], at, seed) for at in self.watched.tolist()] for seed, walk in walks]
        )

    def floors(self, seeds: Sequence[int]) -> Float[Tensor, "seeds watched"]:
        """What as many draws of each p_σ have for distances."""
        stops = self.watched.tolist()
        return torch.tensor(
            [[self._distance(self._truth(at, "floor", seed), at, seed) for at in stops] for seed in seeds]
        )

    def _distance(self, state: Float[Tensor, "n 2"], at: int, seed: int) -> float:
        return sliced_wasserstein2(state, self._truth(at, "truth", seed), num_angles=ANGLES)

    def _truth(self, at: int, purpose: str, seed: int) -> Float[Tensor, "n 2"]:
        """Draws of p_σ at the level that a state has reached, others for each."""
        level = float(self.sampler.reached(self.schedule.sigmas)[at])
        return self.target.sample_noisy(self.n, level, generator=keyed_generator(seed, purpose, at))


class Share(NamedTuple):
    """A metric of several walks, printed as `value ± error`.

    Attributes:
        value: mean over the walks.
        error: its standard error; NaN of one walk.
        floor: mean over draws of the truth, as many points each.
        deviation: standard deviation of one of these draws.
        num_points: points of each.
    """

    value: float
    error: float
    floor: float
    deviation: float
    num_points: int

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.error:.1g}" if math.isfinite(self.error) else f"{self.value:.3g}"


def shares(test: SampleTest, chains: Chains, score: Score, seeds: Iterable[int]) -> dict[str, Share]:
    """Every metric of walks with different seeds, each beside other draws of the truth.

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
