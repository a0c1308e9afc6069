"""What every sampler makes of its evaluations, on the truth and on networks; and every target by twenty of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from lab import Lab
from matplotlib.figure import Figure
from page import table_of
from torch import Tensor

from ncsn_lightning import (
    MALA,
    AdaptiveODE,
    Ancestral,
    AnnealedLangevin,
    ConsistentAnnealed,
    EnergyDistance,
    Euler,
    ExactScore,
    Geometric,
    Heun,
    Karras,
    Multistep,
    PredictorCorrector,
    Sampler,
    SampleTest,
    SlicedWasserstein2,
    StochasticHeun,
    UnderdampedLangevin,
    load_run,
)
from ncsn_lightning.plotting import plot_cost_quality
from ncsn_lightning.report.metrics import plus_minus
from ncsn_lightning.scores import Score
from ncsn_lightning.sweeps.folder import Job
from reproductions.common import divergence

DRAWN = ("two_gaussians", "eight_gaussians", "forty_gaussians", "moons", "checkerboard", "fractal_tree")
BUDGETS, TOLERANCES = (10, 20, 50, 100, 1000), (0.3, 0.1, 0.01, 1e-3, 1e-4)
LEVELS = 9
"""Of chains that stay at a level; one more evaluation goes to the last step without noise."""

NAMES = (
    *("annealed_langevin", "underdamped", "mala", "consistent_annealed", "ancestral", "predictor_corrector"),
    *("stochastic_heun", "euler", "heun", "multistep", "adaptive_ode"),
)
N, BLOCKS = 4000, 4
"""Points of a distance, and how many distances the table averages."""


class Walk(NamedTuple):
    """A sampler on a ladder."""

    sampler: Sampler
    ladder: type[Geometric] | type[Karras]
    levels: int


class Counted(ExactScore):
    """The truth, or a network in its place, that counts how often it is asked."""

    def __init__(self, score: Score, truth: ExactScore) -> None:
        super().__init__(truth.distribution)
        self.score, self.calls = score, 0

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        self.calls += 1
        return self.score(x, sigma)


def reproduce(lab: Lab) -> list[str]:
    jobs = {
        job.overrides["distribution"]: job
        for job in lab.train("", "experiment=default", "distribution=glob(*,exclude=points)", "seed=0")
    }
    tasks = {
        f"{target}_{name}_{'exact' if exact else 'network'}": lambda f=jobs[target].folder, s=name, e=exact: curve(
            f, s, exact=e
        )
        for target in DRAWN
        for name in NAMES
        for exact in (True, False)
        if exact or name != "mala"
    }
    curves = lab.measure(tasks)
    shows = "Distance of samples from the target against evaluations of the score, for every sampler and six targets"
    figure = draw({target: {name: found for name, found in curves.items() if name.startswith(target)} for target in DRAWN})
    return [lab.picture(figure, shows), "", *twenty(lab, jobs)]
