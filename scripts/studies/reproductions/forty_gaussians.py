"""The sampling literature's shared target: weights of its forty modes, likelihood, and the W₂ that papers print."""

from __future__ import annotations

from pathlib import Path

from lab import Lab, floor_of, spread
from page import table_of

from ncsn_lightning import Heun, Karras, ModeWeights, Wasserstein2, load_run
from reproductions.common import divergence, samples_of

METRICS = {"mode weights, total variation": ModeWeights(), "W₂ of 1000": Wasserstein2(num_points=1000)}
N, LEVELS, DRAWS = 100_000, 36, 40


def reproduce(lab: Lab) -> list[str]:
    longer = ("levels=log_uniform", "trainer.max_steps=14000")
    jobs = lab.train("", "experiment=default", "distribution=forty_gaussians", *longer, "seed=0,1,2")
    network = lab.measure({f"network_{job.hash}": lambda f=job.folder: measure(f, exact=False) for job in jobs})
    exact = lab.measure({f"exact_{job.hash}": lambda f=job.folder: measure(f, exact=True) for job in jobs})
    kl = lab.measure({f"kl_{job.hash}": lambda f=job.folder: divergence(f) for job in jobs})
    head = ["score", *METRICS, "NLL − H (nats)"]
    rows = [
        [name, *(spread(values[metric][0] for values in found.values()) for metric in METRICS), likelihood]
        for name, found, likelihood in (
            ("network", network, spread(value for value, _ in kl.values())),
            ("exact", exact, "–"),
        )
    ]
    floors = next(iter(network.values()))
    rows.append(["draws of the truth", *(floor_of(*floors[m][1:]) for m in METRICS), "0"])
    errors = ", ".join(f"{error:.2g}" for _, error in kl.values())
    note = f"Standard errors of the three NLL − H over their 10 000 points: {errors}."
    return [*table_of(head, rows), "", note]


def measure(folder: Path, *, exact: bool) -> dict[str, list[float]]:
    """Every metric of samples by Heun, 36 levels from the matched Gaussian."""
    ladder = Karras(**load_run(folder).schedule.ends, num_levels=LEVELS)
    heun = Heun(denoise=True, prior="moment_matched")
    return samples_of(folder, METRICS, n=N, sampler=heun, schedule=ladder, exact=exact, repeats=DRAWS)
