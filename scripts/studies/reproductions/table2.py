"""The two-dimensional table of Tong et al., Simulation-Free Schrödinger Bridges via Score and Flow Matching, 2023."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
from lab import Lab, spread
from page import table_of
from torch import Tensor

from ncsn_lightning import load_run, wasserstein2
from ncsn_lightning.core.randomness import keyed_generator
from ncsn_lightning.distributions import Distribution
from ncsn_lightning.sweeps.folder import Job
from ncsn_lightning.training.data import training_set

N = 10_000
TARGETS = {
    "eight_gaussians": ("distribution=eight_gaussians", "distribution.radius=5", "distribution.std=1"),
    "moons": ("distribution=moons",),
    "s_curve": ("distribution=s_curve",),
}
PUBLISHED = {
    "[SF]²M-Exact": (".275 ± .058", ".124 ± .023", ".128 ± .005"),
    "OT-CFM": (".303 ± .043", ".130 ± .016", ".144 ± .028"),
    "FM": (".343 ± .058", ".209 ± .055", ".198 ± .037"),
    "I-CFM": (".373 ± .103", ".178 ± .014", ".242 ± .141"),
}
SEEDS = "seed=0,1,2,3,4"
DRAWS = 4
"""Of a network or of the truth, for the test points of a seed."""

SMALL = ("experiment=table2", "compile=true")
USUAL = ("experiment=default", "schedule=karras", "schedule.num_levels=19", "sampler=multistep")
HEAD = ["W₂ of 10 000", *TARGETS]


def reproduce(lab: Lab) -> list[str]:
    published = [[f"{name}, published", *values] for name, values in PUBLISHED.items()]
    names = ("ours, 79 evaluations", "draws of the truth", "ours above these", "the training points, redrawn")
    columns = []
    for target in TARGETS:
        jobs = train(lab, target, SMALL)
        columns.append([*column(lab, target, jobs), spread(drawn(lab, target, jobs, memory, draws=2))])
    return table_of(HEAD, [*published, *transposed(names, columns)])


def reproduce_usual(lab: Lab) -> list[str]:
    """The same test points for networks that are trained on fresh points by the default recipe."""
    names = ("the default recipe, 20 evaluations", "draws of the truth", "the default's above these")
    columns = [column(lab, target, train(lab, target, USUAL)) for target in TARGETS]
    return table_of(HEAD, transposed(names, columns))


def train(lab: Lab, target: str, recipe: tuple[str, ...]) -> list[Job]:
    return lab.train(target, *recipe, *TARGETS[target], SEEDS)


def transposed(names: Sequence[str], columns: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[name, *cells] for name, cells in zip(names, zip(*columns, strict=True), strict=True)]


def column(lab: Lab, target: str, jobs: list[Job]) -> tuple[str, str, str]:
    """The cells of one target: the networks', the truth's, and how far the networks' lie above these in the mean."""
    walks = {f"{job.hash}_{walk}": partial(distance, job.folder, walk) for job in jobs for walk in range(DRAWS)}
    found, truth = list(lab.measure(walks).values()), drawn(lab, target, jobs, floor, draws=DRAWS)
    excess = [mean(own) - mean(others) for own, others in zip(by_seed(found), by_seed(truth), strict=True)]
    error = stdev(excess) / len(excess) ** 0.5  # of pairs, for a seed's test points are the same for both
    return spread(found), spread(truth), f"{mean(excess) / mean(truth):+.0%} ± {error / mean(truth):.0%}"


def by_seed(values: list[float]) -> list[list[float]]:
    return [values[first : first + DRAWS] for first in range(0, len(values), DRAWS)]


def drawn(lab: Lab, target: str, jobs: list[Job], kind: Callable[[Path, int], float], *, draws: int) -> list[float]:
    """W₂ of so many draws of a kind from the test points of every seed."""
    tasks = {
        f"{target}_{kind.__name__}_{job.overrides['seed']}_{draw}": partial(kind, job.folder, draw)
        for job in jobs
        for draw in range(draws)
    }
    return list(lab.measure(tasks).values())


def distance(folder: Path, walk: int) -> float:
    """W₂ between what a network draws and the test points of its seed."""
    run = load_run(folder)
    seed = run.config["seed"]
    key = seed + 5 * walk  # no two of the five seeds share one
    *_, x = run.sampler.walk(run.score, run.distribution, run.schedule.sigmas, n=N, seed=key)
    return wasserstein2(x, test_points(run.distribution, seed))


def memory(folder: Path, draw: int) -> float:
    """W₂ between points drawn from those of a training, with replacement, and the test points: a perfect memory's."""
    run = load_run(folder)
    seed = run.config["seed"]
    points = training_set(run.distribution, N, seed=seed)
    rows = torch.randint(N, (N,), generator=keyed_generator(seed, "redrawn", draw))
    return wasserstein2(points[rows], test_points(run.distribution, seed))


def floor(folder: Path, draw: int) -> float:
    """W₂ between a draw of the truth and the test points of a seed."""
    run = load_run(folder)
    seed = run.config["seed"]
    x = run.distribution.sample(N, generator=keyed_generator(seed, "truth", draw))
    return wasserstein2(x, test_points(run.distribution, seed))


def test_points(target: Distribution, seed: int) -> Tensor:
    return target.sample(N, generator=keyed_generator(seed, "test points"))
