"""Metrics of samples against the truth, each beside its floor: the value that samples of the truth have.

A metric compares `n` points with p_σ, either with the formula of p_σ or with as many fresh draws. `SampleTest` collects
samples and cuts them into equal blocks of the size that each metric asks for. It also measures draws of the truth of
that size, because two finite samples of the truth never have the distance 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torchmetrics import Metric

from ..core.randomness import keyed_generator
from ..core.validation import Count, Index, NonNegative, strict
from ..distributions.base import Distribution


class Truth(NamedTuple):
    """What samples are compared with.

    Attributes:
        target: the distribution.
        sigma: the noise level, in data units, of the p_σ that the samples should follow.
        points: a draw of p_σ, of as many points as there are samples.
    """

    target: Distribution
    sigma: float
    points: Float[Tensor, "n 2"]


class SampleMetric(nn.Module, ABC):
    """A distance of samples from the truth; less is better.

    Args:
        num_points: points in a block, or all of them where there are fewer; None for one block of all.
    """

    least: int = 2
    """Fewest points with which the metric has a meaning."""

    @strict
    def __init__(self, *, num_points: Count | None) -> None:
        super().__init__()
        self.num_points = num_points

    @abstractmethod
    def forward(self, samples: Float[Tensor, "n 2"], truth: Truth) -> float:
        """The distance of samples without NaN or infinity from the truth, in the metric's own unit."""

    def applies(self, target: Distribution) -> bool:
        """Whether the metric has a meaning for this target; by default for every one."""
        return True


class Measured(NamedTuple):
    """A metric's value, printed as `value (floor ± deviation)`.

    Attributes:
        value: mean over the blocks of the samples.
        floor: mean over draws of the truth that are as large as a block.
        deviation: standard deviation of the metric of one such draw.
        num_points: points in a block.
    """

    value: float
    floor: float
    deviation: float
    num_points: int

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.floor:.2g} ± {self.deviation:.1g})"


class SampleTest(Metric):
    """A set of metrics on the samples of all updates: a torchmetrics Metric whose value is a dictionary.

    Each process measures its own samples, for at the end of a training only the first process has any.

    >>> from ncsn_lightning import EightGaussians, EnergyDistance, SampleTest
    >>> target = EightGaussians()
    >>> test = SampleTest(distribution=target, metrics={"energy_distance": EnergyDistance(num_points=500)})
    >>> test.update(target.sample(1000, generator=torch.Generator().manual_seed(0)))
    >>> measured = test.compute()["energy_distance"]
    >>> abs(measured.value - measured.floor) < 5 * measured.deviation
    True

    Args:
        distribution: the target.
        metrics: by their names; those that do not apply to the target are left out.
        sigma: level of the p_σ that samples are compared with, in data units; 0 for the target itself.
        repeats: largest number of blocks that are measured, and number of draws of the truth for the floor.
        seed: of all draws of the truth.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    samples: list[Tensor]

    @strict
    def __init__(
        self,
        *,
        distribution: Distribution,
        metrics: dict[str, SampleMetric],
        sigma: NonNegative = 0.0,
        repeats: Annotated[int, Field(ge=2)] = 5,
        seed: Index = 0,
    ) -> None:
        super().__init__(sync_on_compute=False)
        self.distribution, self.sigma, self.repeats, self.seed = distribution, sigma, repeats, seed
        self.metrics = {name: metric for name, metric in metrics.items() if metric.applies(distribution)}
        self.floors: dict[tuple[str, int], Tensor] = {}
        self.add_state("samples", default=[], dist_reduce_fx="cat")

    def update(self, samples: Float[Tensor, "n 2"]) -> None:
        """Add samples, in data units; rows that are not finite are left out later."""
        self.samples.append(samples)

    def compute(self) -> dict[str, Measured]:
        """Every metric of all samples so far.

        Raises:
            ValueError: there are too few finite samples for a metric.
        """
        return self.measure(torch.cat(list(self.samples)))

    def measure(self, samples: Float[Tensor, "n 2"], *, first: int = 0) -> dict[str, Measured]:
        """Every metric of these samples alone.

        Args:
            samples: in data units.
            first: number of the draw of the truth that the first block is compared with; the next block gets the next
                draw. Give several sets of samples different draws: then the spread of their values is due to samples
                and draws together, as the floor's spread is.

        Raises:
            ValueError: there are too few finite samples for a metric.
        """
        return dict(self.each(samples, first=first))

    def each(self, samples: Float[Tensor, "n 2"], *, first: int = 0) -> Iterator[tuple[str, Measured]]:
        """Yield what `measure` returns, one metric after the other."""
        finite = samples[samples.isfinite().all(-1)].to(self.distribution.mean.device)
        self.check(len(finite))
        for name, metric in self.metrics.items():
            yield name, self._measure(name, metric, finite, first)

    def check(self, n: int) -> None:
        """Raise a ValueError where `n` samples are too few for a metric."""
        blocks = {name: min(metric.num_points or n, n) for name, metric in self.metrics.items()}
        least = {name: self.metrics[name].least for name, block in blocks.items() if block < self.metrics[name].least}
        if least:
            names, most = ", ".join(least), max(least.values())
            raise ValueError(f"n={n}: too few finite samples for {names}; draw at least {most}")

    def _measure(self, name: str, metric: SampleMetric, samples: Tensor, first: int) -> Measured:
        """One metric of the blocks of the samples, with its floor."""
        n = min(metric.num_points or len(samples), len(samples))
        blocks = samples[: len(samples) // n * n].split(n)[: self.repeats]
        values = torch.tensor([metric(block, self._truth(n, index)) for index, block in enumerate(blocks, first)])
        floor = self._floor(name, metric, n)
        return Measured(float(values.mean()), float(floor.mean()), float(floor.std()), n)

    def _floor(self, name: str, metric: SampleMetric, n: int) -> Float[Tensor, "repeats"]:
        """The metric of draws of the truth against other draws; computed once for each number of points."""
        if (name, n) not in self.floors:
            draws = (self._draw(n, "floor", index) for index in range(self.repeats))
            values = [metric(draw, self._truth(n, index)) for index, draw in enumerate(draws)]
            self.floors[name, n] = torch.tensor(values)
        return self.floors[name, n]

    def _truth(self, n: int, index: int) -> Truth:
        """What the block number `index` of `n` points is compared with."""
        return Truth(self.distribution, self.sigma, self._draw(n, "truth", index))

    def _draw(self, n: int, purpose: str, index: int) -> Float[Tensor, "n 2"]:
        """Draw `n` points of p_σ, determined by seed, purpose and index."""
        generator = keyed_generator(self.seed, purpose, index, device=self.distribution.mean.device)
        return self.distribution.sample_noisy(n, self.sigma, generator=generator)
