"""Metrics of samples against the truth, each beside its own value for samples of the truth: the floor.

A metric compares `n` points with p_σ, by its formula or by as many fresh draws. `SampleTest` gathers samples, gives
every metric equal blocks of them, as large as it asks for, and says what the truth itself would score at the same n,
for no finite sample of the truth has the distance 0 to another.
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
        points: a draw of it, as many as there are samples.
    """

    target: Distribution
    sigma: float
    points: Float[Tensor, "n 2"]


class SampleMetric(nn.Module, ABC):
    """A distance of samples from the truth; less is better.

    Args:
        num_points: points of a block, all there are where there are fewer; None for one block of all.
    """

    least: int = 2
    """Points below which the metric has no meaning."""

    @strict
    def __init__(self, *, num_points: Count | None) -> None:
        super().__init__()
        self.num_points = num_points

    @abstractmethod
    def forward(self, samples: Float[Tensor, "n 2"], truth: Truth) -> float:
        """The distance of finite samples from the truth."""

    def applies(self, target: Distribution) -> bool:
        """Whether the metric means something for this target."""
        return True


class Measured(NamedTuple):
    """A metric's value, printed as `value (floor ± deviation)`.

    Attributes:
        value: mean over the blocks of the samples.
        floor: mean over draws of the truth as large as a block.
        deviation: standard deviation of one of these draws.
        num_points: points of a block.
    """

    value: float
    floor: float
    deviation: float
    num_points: int

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.floor:.2g} ± {self.deviation:.1g})"


class SampleTest(Metric):
    """All metrics of a set, on the samples of all updates: a torchmetrics Metric whose value is a dictionary.

    Each process measures what it was given, for only the first one has samples at the end of a training.

    >>> from ncsn_lightning import EightGaussians, EnergyDistance, SampleTest
    >>> target = EightGaussians()
    >>> test = SampleTest(distribution=target, metrics={"energy_distance": EnergyDistance(num_points=500)})
    >>> test.update(target.sample(1000, generator=torch.Generator().manual_seed(0)))
    >>> measured = test.compute()["energy_distance"]
    >>> abs(measured.value - measured.floor) < 5 * measured.deviation
    True

    Args:
        distribution: the target.
        metrics: by their names; those that mean nothing for the target are left out.
        sigma: level of the p_σ that samples are compared with, in data units; 0 for the target itself.
        repeats: most blocks of the samples, and draws of the truth for the floor.
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
        """Add samples; rows that are not finite count as none."""
        self.samples.append(samples)

    def compute(self) -> dict[str, Measured]:
        """Every metric of all samples so far.

        Raises:
            ValueError: there are too few of them for a metric.
        """
        return self.measure(torch.cat(list(self.samples)))

    def measure(self, samples: Float[Tensor, "n 2"], *, first: int = 0) -> dict[str, Measured]:
        """Every metric of these samples alone.

        Args:
            first: draw of the truth that their first block is compared with; the next has the next one. Of several
                sets, each with draws of its own, the spread is that of samples and draws, as the floor's is.

        Raises:
            ValueError: there are too few finite ones for a metric.
        """
        return dict(self.each(samples, first=first))

    def each(self, samples: Float[Tensor, "n 2"], *, first: int = 0) -> Iterator[tuple[str, Measured]]:
        """The same, one metric after the other, by its name."""
        finite = samples[samples.isfinite().all(-1)].to(self.distribution.mean.device)
        self.check(len(finite))
        for name, metric in self.metrics.items():
            yield name, self._measure(name, metric, finite, first)

    def check(self, n: int) -> None:
        """Raise ValueError where `n` samples are too few for a metric."""
        blocks = {name: min(metric.num_points or n, n) for name, metric in self.metrics.items()}
        least = {name: self.metrics[name].least for name, block in blocks.items() if block < self.metrics[name].least}
        if least:
            names, most = ", ".join(least), max(least.values())
            raise ValueError(f"n={n}: too few finite samples for {names}; draw at least {most}")

    def _measure(self, name: str, metric: SampleMetric, samples: Tensor, first: int) -> Measured:
        n = min(metric.num_points or len(samples), len(samples))
        blocks = samples[: len(samples) // n * n].split(n)[: self.repeats]
        values = torch.tensor([metric(block, self._truth(n, index)) for index, block in enumerate(blocks, first)])
        floor = self._floor(name, metric, n)
        return Measured(float(values.mean()), float(floor.mean()), float(floor.std()), n)

    def _floor(self, name: str, metric: SampleMetric, n: int) -> Float[Tensor, "repeats"]:
        """The metric of draws of the truth against others; worked out once for a number of points."""
        if (name, n) not in self.floors:
            draws = (self._draw(n, "floor", index) for index in range(self.repeats))
            values = [metric(draw, self._truth(n, index)) for index, draw in enumerate(draws)]
            self.floors[name, n] = torch.tensor(values)
        return self.floors[name, n]

    def _truth(self, n: int, index: int) -> Truth:
        return Truth(self.distribution, self.sigma, self._draw(n, "truth", index))

    def _draw(self, n: int, purpose: str, index: int) -> Float[Tensor, "n 2"]:
        generator = keyed_generator(self.seed, purpose, index, device=self.distribution.mean.device)
        return self.distribution.sample_noisy(n, self.sigma, generator=generator)
