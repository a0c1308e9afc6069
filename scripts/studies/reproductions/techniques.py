"""The five techniques of Song & Ermon, 2020, on two targets, each on and off."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

from lab import Lab, floor_of, spread
from page import table_of

from ncsn_lightning import AnnealedLangevin, EnergyDistance, Geometric, load_run
from ncsn_lightning.sweeps.folder import Job
from reproductions.common import samples_of

TARGETS = ("checkerboard", "eight_gaussians")
TRAININGS = {
    "all on": ("on", []),
    "1 off: σ_max = 1": ("1", ["schedule.sigma_max=1"]),
    "3 off: no division by σ": ("3_off", ["score=raw"]),
    "3 as published: σ unseen by the network": ("3", ["score=unconditional"]),
    "5 off: no average of the weights": ("5", ["module.ema_decay=0.0"]),
}
LADDERS = (4, 10, 50)
RATIOS = {"auto": "4 on", 0.02: "4 off: a = .02", 0.5: "4 off: a = .5"}
EVALUATIONS, N = 1000, 2000
METRICS = {"energy distance": EnergyDistance(num_points=2000)}


def reproduce(lab: Lab) -> list[str]:
    both = (f"distribution={','.join(TARGETS)}", "seed=0,1,2")
    trained = {
        name: lab.train(part, "experiment=techniques", *changes, *both) for name, (part, changes) in TRAININGS.items()
    }
    jobs = [job for found in trained.values() for job in found]
    samples = lab.measure({job.hash: lambda f=job.folder: samples_of(f, METRICS, n=N) for job in jobs})
    head = ["", *(f"{target}: {number}" for target in TARGETS for number in ("score error", "energy distance"))]
    rows = []
    for name, found in trained.items():
        row = [name]
        for target in TARGETS:
            here = [job for job in found if job.overrides["distribution"] == target]
            errors = spread(job.metrics["score_error"] for job in here)
            row += [errors, spread(samples[job.hash]["energy distance"][0] for job in here)]
        rows.append(row)
    rows.append(
        ["draws of the truth", *(cell for target in TARGETS for cell in ("0", floor(trained, samples, target)))]
    )
    return [*table_of(head, rows), "", *steps(lab, trained["all on"]), "", overlap()]


def floor(trained: dict[str, list[Job]], samples: dict[str, dict[str, list[float]]], target: str) -> str:
    hashes = [job.hash for job in trained["all on"] if job.overrides["distribution"] == target]
    _, value, deviation = samples[hashes[0]]["energy distance"]
    return floor_of(value, deviation)


def steps(lab: Lab, jobs: list[Job]) -> list[str]:
    """Techniques 2 and 4, which change the sampling alone: the same networks by as many evaluations."""
    tasks = {
        f"{job.hash}_{levels}_{ratio}_{exact}": lambda f=job.folder, k=levels, a=ratio, e=exact: annealed(
            f, k, a, exact=e
        )
        for job in jobs
        for levels in LADDERS
        for ratio in RATIOS
        for exact in (False, True)
    }
    found = lab.measure(tasks)
    head = ["levels", "step", *(f"{target}: {score}" for target in TARGETS for score in ("network", "exact score"))]
    rows = []
    for levels in LADDERS:
        for ratio, name in RATIOS.items():
            row = [str(levels), name]
            for target in TARGETS:
                here = [job.hash for job in jobs if job.overrides["distribution"] == target]
                row += [spread(found[f"{name}_{levels}_{ratio}_{exact}"] for name in here) for exact in (False, True)]
            rows.append(row)
    return table_of(head, rows)


def annealed(folder: Path, levels: int, ratio: float | str, *, exact: bool) -> float:
    """Energy distance after a thousand evaluations on so many levels."""
    ladder = Geometric(**load_run(folder).schedule.ends, num_levels=levels)
    sampler = AnnealedLangevin(step_ratio=ratio, steps_per_level=EVALUATIONS // levels, denoise=True)
    measured = samples_of(folder, METRICS, n=N, sampler=sampler, schedule=ladder, exact=exact)
    return measured["energy distance"][0]


def overlap() -> str:
    """What Technique 2 asks of the ratio of two levels, with D = 2 dimensions."""
    phi = NormalDist().cdf

    def shared(ratio: float) -> float:
        shift = (2 * 2) ** 0.5 * (ratio - 1)
        return phi(shift + 3 * ratio) - phi(shift - 3 * ratio)

    ratios = (1.1, 2.0, 10.0, 1000.0)
    values = ", ".join(f"{shared(ratio):.4f} for {ratio:g}" for ratio in ratios)
    return f"Technique 2 wants a ratio γ of neighbouring levels whose overlap is .5; in two dimensions it is {values}."
