"""The two-dimensional table of Tong et al., Simulation-Free Schrödinger Bridges via Score and Flow Matching, 2023."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import hypot
from pathlib import Path
from statistics import mean, stdev

import torch
from lab import Lab, spread
from page import table_of
from torch import Tensor

from ncsn_lightning import load_run, wasserstein2
from ncsn_lightning.data import training_set
from ncsn_lightning.distributions import Distribution
from ncsn_lightning.randomness import keyed_generator
from ncsn_lightning.sweeps.folder import Job

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
USUAL = ("experiment=default", "schedule=karras", "schedule.num_levels=19", "sampler=multistep")


def reproduce(lab: Lab) -> list[str]:
    columns = {target: column(lab, target, overrides) for target, overrides in TARGETS.items()}
    head = ["W₂ of 10 000", *TARGETS]
    rows = [[f"{name}, published", *values] for name, values in PUBLISHED.items()]
    names = ("ours, 79 evaluations", "the training points, redrawn", "draws of the truth", "ours above these")
    rows += [[name, *cells] for name, cells in zip(names, zip(*columns.values(), strict=True), strict=True)]
    return table_of(head, rows)


def column(lab: Lab, target: str, overrides: tuple[str, ...]) -> tuple[str, ...]:
    """The cells of one target: ours, the two kinds of draws, and how far ours lies above the truth's in the mean."""
    jobs = lab.train(target, "experiment=table2", "compile=true", *overrides, SEEDS)
    found = list(lab.measure({job.hash: partial(distance, job.folder) for job in jobs}).values())
    redrawn, truth = drawn(lab, target, jobs, memory, draws=2), drawn(lab, target, jobs, floor, draws=4)
    above = f"{mean(found) / mean(truth) - 1:+.0%} ± {error(found, truth):.0%}"
    return spread(found), spread(redrawn), spread(truth), above


def drawn(lab: Lab, target: str, jobs: list[Job], kind: Callable[[Path, int], float], *, draws: int) -> list[float]:
    """W₂ of so many draws of a kind from the test points of every seed."""
    tasks = {
        f"{target}_{kind.__name__}_{job.overrides['seed']}_{draw}": partial(kind, job.folder, draw)
        for job in jobs
        for draw in range(draws)
    }
    return list(lab.measure(tasks).values())


def error(found: list[float], truth: list[float]) -> float:
    """Standard error of the ratio of two means, as of independent values."""
    relative = [stdev(values) / mean(values) / len(values) ** 0.5 for values in (found, truth)]
    return mean(found) / mean(truth) * hypot(*relative)


def reproduce_usual(lab: Lab) -> list[str]:
    """The same test points for networks that are trained on fresh points by the default recipe."""
    rows = []
    for target, overrides in TARGETS.items():
        jobs = lab.train(target, *USUAL, *overrides, SEEDS)
        found = lab.measure({job.hash: partial(distance, job.folder) for job in jobs})
        rows.append([target, spread(found.values())])
    return table_of(["target", "W₂ of 10 000, 20 evaluations"], rows)


def distance(folder: Path) -> float:
    """W₂ between what a network draws and the test points of its seed."""
    run = load_run(folder)
    *_, x = run.sampler.walk(run.score, run.distribution, run.schedule.sigmas, n=N, seed=run.config["seed"])
    return wasserstein2(x, test_points(run.distribution, run.config["seed"]))


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
