"""Figures 2 and 3 of Song & Ermon, 2019: two modes of weights .8 and .2 by plain and by annealed Langevin dynamics."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab import Lab, spread
from matplotlib.figure import Figure
from page import table_of
from torch import Tensor

from ncsn_lightning import AnnealedLangevin, Langevin, Sampler, energy_distance, load_run
from ncsn_lightning.core.randomness import keyed_generator
from ncsn_lightning.plotting.space import CONTOURS, Limits, draw_contours, draw_points, plane_figure
from ncsn_lightning.plotting.style import styled
from ncsn_lightning.runs.load import Run

N, WALKS = 1280, 5
SAMPLERS: dict[str, Sampler] = {
    "plain Langevin": Langevin(step=0.05, steps_per_level=1000),
    "annealed Langevin": AnnealedLangevin(base_step=0.05, steps_per_level=100, prior="uniform"),
}


def reproduce(lab: Lab) -> list[str]:
    folders = [job.folder for job in lab.train("", "experiment=ncsn_toy", "seed=0,1,2")]
    found = lab.measure({f"walks_{folder.name}": lambda f=folder: measure(f) for folder in folders})
    head = ["sampler", "score", "weight of the upper mode (truth .8)", "energy distance"]
    rows = [
        [sampler, score, *columns(found.values(), f"{sampler}, {score}")]
        for score in ("exact", "network")
        for sampler in SAMPLERS
    ]
    rows.append(["independent draws", "", *columns(found.values(), "floor")])
    shows = (
        "1280 samples of two modes: independent draws, plain and annealed Langevin on the exact score and on a network"
    )
    return [lab.picture(draw(load_run(folders[0])), shows), "", *table_of(head, rows)]


def columns(runs: Iterable[Any], key: str) -> list[str]:
    """Weight and energy distance, ± standard deviation over walks and networks."""
    return [spread(value for run in runs for value in run[key][name]) for name in ("weight", "energy")]


def measure(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Both numbers of every walk on the exact score and on one network, and of as many draws of the truth."""
    run = load_run(folder)
    clouds = {
        f"{sampler}, {score}": [walk(run, sampler, score, seed) for seed in walks(folder)]
        for sampler in SAMPLERS
        for score in ("exact", "network")
    }
    clouds["floor"] = [truth(run, seed) for seed in walks(folder)]
    return {key: numbers(run, samples) for key, samples in clouds.items()}


def walks(folder: Path) -> range:
    """Seeds that no other network's walks have."""
    first = WALKS * load_run(folder).config["seed"]
    return range(first, first + WALKS)


def numbers(run: Run, clouds: list[Tensor]) -> dict[str, list[float]]:
    others = [truth(run, seed, "against") for seed in range(len(clouds))]
    pairs = zip(clouds, others, strict=True)
    return {"weight": list(map(upper, clouds)), "energy": [energy_distance(cloud, other) for cloud, other in pairs]}


def upper(cloud: Tensor) -> float:
    """Weight of the mode at (5, 5)."""
    return float((cloud.sum(-1) > 0).double().mean())


def walk(run: Run, sampler: str, score: str, seed: int) -> Tensor:
    field = run.distribution.score if score == "exact" else run.score
    *_, last = SAMPLERS[sampler].walk(field, run.distribution, run.schedule.sigmas, n=N, seed=seed)
    return last


def truth(run: Run, seed: int, purpose: str = "independent draws") -> Tensor:
    generator = keyed_generator(seed, purpose)
    return run.distribution.sample_noisy(N, 1.0, generator=generator)


@styled
def draw(run: Run) -> Figure:
    """Independent draws twice, and every sampler on the exact score, above, and on the network, below."""
    frame = Limits(-10, 10, -10, 10)
    figure, rows = plane_figure(frame, rows=2, columns=3, extra=1.3)
    figure.suptitle(CONTOURS, fontsize="medium")
    for row, score in zip(rows, ("exact", "network"), strict=True):
        clouds = {name: walk(run, name, score, 0) for name in SAMPLERS}
        titles = {"independent draws": truth(run, 0), **{f"{name}, {score}": x for name, x in clouds.items()}}
        for axes, (title, cloud) in zip(row, titles.items(), strict=True):
            draw_contours(axes, run.distribution, frame, sigma=1.0)
            draw_points(axes, cloud, frame)
            axes.set_title(f"{title}\n{upper(cloud):.0%} in the upper mode", fontsize="medium")
    return figure
