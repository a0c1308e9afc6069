"""The primer's demonstration on the checkerboard, in all its settings, and the default recipe beside it."""

from __future__ import annotations

from pathlib import Path

import torch
from lab import Lab, floor_of, spread
from matplotlib.figure import Figure
from page import table_of
from torch import Tensor

from ncsn_lightning import DensityTV, EnergyDistance, OffSupport, load_run
from ncsn_lightning.core.randomness import keyed_generator
from ncsn_lightning.plotting.space import draw_points, limits, plane_figure
from ncsn_lightning.plotting.style import styled
from ncsn_lightning.sweeps.folder import Job
from reproductions.common import divergence, samples_of

N = 10_000
METRICS = {
    "energy distance": EnergyDistance(num_points=2000),
    "density total variation": DensityTV(resolution=32),
    "off the support": OffSupport(),
}


def reproduce(lab: Lab) -> list[str]:
    recipes = {
        "the primer's": lab.train("", "experiment=primer", "seed=0,1,2"),
        "the default": lab.train("default", "experiment=default", "distribution=checkerboard", "seed=0,1,2"),
    }
    jobs = [job for found in recipes.values() for job in found]
    measured = lab.measure({f"samples_{job.hash}": lambda f=job.folder: samples_of(f, METRICS, n=N) for job in jobs})
    kl = lab.measure({f"kl_{job.hash}": lambda f=job.folder: divergence(f) for job in jobs})
    head = ["recipe", "score error", "KL (nats)", *METRICS]
    rows = [
        [
            name,
            spread(job.metrics["score_error"] for job in found),
            spread(kl[f"kl_{job.hash}"][0] for job in found),
            *(spread(measured[f"samples_{job.hash}"][metric][0] for job in found) for metric in METRICS),
        ]
        for name, found in recipes.items()
    ]
    floors = measured[f"samples_{jobs[0].hash}"]
    rows.append(["draws of the truth", "0", "0", *(floor_of(*floors[m][1:]) for m in METRICS)])
    pictures = {name: drawn(found[0]) for name, found in recipes.items()}
    shows = "10 000 samples of the checkerboard: the truth's, the primer's and the default recipe's"
    return [lab.picture(draw(jobs[0].folder, pictures), shows), "", *table_of(head, rows)]


def drawn(job: Job) -> Tensor:
    run = load_run(job.folder)
    *_, last = run.sampler.walk(run.score, run.distribution, run.schedule.sigmas, n=N, seed=0)
    return last


@styled
def draw(folder: Path, pictures: dict[str, Tensor]) -> Figure:
    """The truth's draws, and a panel for each recipe."""
    target = load_run(folder).distribution
    clouds = {"truth": target.sample(N, generator=keyed_generator(0, "primer")), **pictures}
    frame = limits(target, 0.1)
    figure, (row,) = plane_figure(frame, rows=1, columns=len(clouds), extra=0.6)
    for axes, (name, cloud) in zip(row, clouds.items(), strict=True):
        draw_points(axes, cloud, frame, ink=5000.0)
        axes.set_title(f"{name}, {off(target.log_prob(cloud)):.1%} off the support", fontsize="medium")
    return figure


def off(log_prob: Tensor) -> float:
    return float(torch.isneginf(log_prob).double().mean())
