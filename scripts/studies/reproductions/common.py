"""What several reproductions measure of a run."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import Tensor

from ncsn_lightning import Likelihood, RungeKutta, SampleMetric, Sampler, SampleTest, Schedule, load_run
from ncsn_lightning.models.scores import Score


class Counted:
    """A score, or the truth with its density, that counts how often it is asked."""

    def __init__(self, score: Score) -> None:
        self.score, self.calls = score, 0

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        self.calls += 1
        return self.score(x, sigma)

    def log_density(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return self.score.log_density(x, sigma)


def samples_of(
    folder: Path,
    metrics: dict[str, SampleMetric],
    *,
    n: int,
    sampler: Sampler | None = None,
    schedule: Schedule | None = None,
    exact: bool = False,
    repeats: int = 5,
) -> dict[str, list[float]]:
    """Of samples of a run every metric's value, floor and the floor's deviation.

    Args:
        folder: of the run.
        n: samples.
        sampler, schedule: other ones than the run's own.
        exact: whether they walk down the exact score instead of the network's.
        repeats: blocks of the samples, and draws of the truth, which are others for each seed.
    """
    run = load_run(folder)
    sigmas = (schedule or run.schedule).sigmas
    score = run.distribution.score if exact else run.score
    *_, x = (sampler or run.sampler).walk(score, run.distribution, sigmas, n=n, seed=run.config["seed"])
    test = SampleTest(distribution=run.distribution, metrics=metrics, repeats=repeats, seed=run.config["seed"])
    return {name: [found.value, found.floor, found.deviation] for name, found in test.measure(x).items()}


def divergence(folder: Path, *, exact: bool = False) -> list[float]:
    """KL of a run's target at σ_min from what its network, or the exact score, makes of the matched Gaussian, in nats.

    Returns:
        The divergence, and its standard error over 10 000 points.
    """
    run = load_run(folder)
    likelihood = Likelihood(distribution=run.distribution, schedule=run.schedule, solver=RungeKutta(steps=64))
    return list(likelihood(run.distribution.score if exact else copy.deepcopy(run.score).double()).kl)
