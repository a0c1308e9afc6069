"""What every sampler makes of its evaluations, on the truth and on networks; and every target by twenty of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import Lab
from page import table_of

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
    Schedule,
    SlicedWasserstein2,
    StochasticHeun,
    UnderdampedLangevin,
    load_run,
)
from ncsn_lightning.core.randomness import keyed_generator
from ncsn_lightning.plotting import CostQuality, plot_cost_quality
from ncsn_lightning.report.metrics import plus_minus
from ncsn_lightning.sweeps.folder import Job
from reproductions.common import Counted, divergence, samples_of

DRAWN = ("eight_gaussians", "moons", "forty_gaussians", "two_gaussians", "checkerboard", "fractal_tree")
BUDGETS, TOLERANCES = (10, 20, 50, 100, 1000), (0.3, 0.1, 0.01, 1e-3, 1e-4)
LEVELS = 9
"""Of chains that stay at a level; a last evaluation goes to the step without noise."""

CHAINS = ("annealed_langevin", "underdamped", "mala")
STEPPERS: dict[str, Sampler] = {
    "consistent_annealed": ConsistentAnnealed(step_ratio=0.75),
    "ancestral": Ancestral(),
    "predictor_corrector": PredictorCorrector(),
    "stochastic_heun": StochasticHeun(),
    "euler": Euler(),
    "heun": Heun(),
    "multistep": Multistep(),
}
NAMES = (*CHAINS, *STEPPERS, "adaptive_ode")
N = 4000
BLOCKS, DRAWS = 4, 40
"""Of N points, of a walk of the table and of the truth."""


def reproduce(lab: Lab) -> list[str]:
    found = lab.train("", "experiment=default", "distribution=glob(*,exclude=points)", "seed=0")
    jobs = {job.overrides["distribution"]: job for job in found}
    table = twenty(lab, jobs)  # first, for the curves take an hour
    curves = lab.measure(
        {
            f"{job.hash}_{name}_{score}": lambda f=job.folder, s=name, e=score: curve(f, s, exact=e == "exact")
            for job in (jobs[target] for target in DRAWN)
            for name in NAMES
            for score in ("exact", "network")
            if (name, score) != ("mala", "network")
        }
    )
    figure = plot_cost_quality(dict(panels(curves, jobs)), distance="sliced W₂ (data units)")
    shows = "Distance of samples from the target against evaluations of the score: every sampler, six targets"
    return [lab.picture(figure, shows), "", *table]


def panels(curves: dict[str, Any], jobs: dict[str, Job]) -> Iterator[tuple[str, CostQuality]]:
    """Three targets on the exact score, the same on networks, and so the others."""
    for targets in (DRAWN[:3], DRAWN[3:]):
        for score, title in (("exact", "exact score"), ("network", "network")):
            for target in targets:
                lines = {name: curves.get(f"{jobs[target].hash}_{name}_{score}") for name in NAMES}
                kept = {name: line["points"] for name, line in lines.items() if line}
                yield f"{target}, {title}", CostQuality(kept, *lines["heun"]["floor"])


def curve(folder: Path, name: str, *, exact: bool) -> dict[str, Any]:
    """Evaluations and sliced W₂ at every budget that the sampler can spend on this ladder, and the truth's."""
    run = load_run(folder)
    test = SampleTest(distribution=run.distribution, metrics={"distance": SlicedWasserstein2()})
    points = []
    for sampler, schedule in plans(name, run.schedule.ends):
        try:
            sampler.check(schedule.sigmas)
        except ValueError:
            continue  # consistent annealing on too few levels
        score = Counted(ExactScore(run.distribution) if exact else run.score)
        *_, x = sampler.walk(score, run.distribution, schedule.sigmas, n=N, seed=0)
        measured = test.measure(x)["distance"]
        points.append((score.calls, measured.value))
    return {"points": points, "floor": (measured.floor, measured.deviation)}


def plans(name: str, ends: dict[str, float]) -> Iterator[tuple[Sampler, Schedule]]:
    """A sampler for every budget, and the ladder it walks between two levels."""
    if name == "adaptive_ode":
        for tolerance in TOLERANCES:
            yield AdaptiveODE(method="bosh3", rtol=tolerance, atol=tolerance), Karras(**ends, num_levels=2)
    for budget in BUDGETS:
        if name in STEPPERS:
            sampler, ladder = STEPPERS[name], Geometric if name == "consistent_annealed" else Karras
            levels = max(count for count in range(2, budget + 1) if sampler.evaluations(count) <= budget)
            yield sampler, ladder(**ends, num_levels=levels)
        elif name in CHAINS and (chain := staying(name, budget)):
            yield chain, Geometric(**ends, num_levels=LEVELS)


def staying(name: str, budget: int) -> Sampler | None:
    """A chain of as many steps a level as the budget allows; None where it allows none."""
    steps = (budget - 1) // LEVELS - (name == "mala")
    if not steps:
        return None
    kept = {"steps_per_level": steps, "denoise": True, "prior": "moment_matched"}
    if name == "annealed_langevin":
        return AnnealedLangevin(step_ratio="auto", **kept)
    return (UnderdampedLangevin if name == "underdamped" else MALA)(step_ratio=0.5, **kept)


def twenty(lab: Lab, jobs: dict[str, Job]) -> list[str]:
    """Every target by annealed Langevin at 1001 evaluations and by the multistep solver at 20, and its likelihood."""
    langevin = AnnealedLangevin(step_ratio=0.1, steps_per_level=100, denoise=True, prior="moment_matched")
    columns = {
        "annealed Langevin, 1001, network": (langevin, Geometric, 10, False),
        "multistep, 20, network": (Multistep(), Karras, 19, False),
        "multistep, 20, exact score": (Multistep(), Karras, 19, True),
    }
    kl = lab.measure({f"kl_{job.hash}": lambda f=job.folder: divergence(f) for job in jobs.values()})
    distances = lab.measure(
        {
            f"{job.hash}_{index}": lambda f=job.folder, c=column: energy(f, *c)
            for job in jobs.values()
            for index, column in enumerate(columns.values())
        }
    )
    floors = lab.measure({f"floor_{target}": lambda f=job.folder: floor(f) for target, job in jobs.items()})
    head = [
        "10³ × energy distance, mean of four (above the truth, in deviations of one draw)",
        *columns,
        "draws of the truth",
    ]
    rows = []
    for target, job in jobs.items():
        least, deviation = floors[f"floor_{target}"]
        values = [distances[f"{job.hash}_{index}"][0] for index in range(len(columns))]
        walks = (f"{1000 * value:.2f} ({(value - least) / deviation:+.1f})" for value in values)
        errors = [f"{job.metrics['score_error']:.2g}", plus_minus(*kl[f"kl_{job.hash}"])]
        rows.append([target, *walks, f"{1000 * least:.2f} ± {1000 * deviation:.2f}", *errors])
    return table_of([*head, "score error", "KL (nats)"], rows)


def floor(folder: Path) -> list[float]:
    """The mean energy distance of draws of the truth, and the deviation of one: of many, for its tail is long."""
    target = load_run(folder).distribution
    test = SampleTest(distribution=target, metrics={"energy": EnergyDistance(num_points=N)}, repeats=DRAWS)
    measured = test.measure(target.sample(N, generator=keyed_generator(0, "floor")))["energy"]
    return [measured.floor, measured.deviation]


def energy(
    folder: Path, sampler: Sampler, ladder: type[Geometric] | type[Karras], levels: int, exact: bool
) -> list[float]:
    """Mean energy distance of blocks of a walk, and what draws of the truth have."""
    schedule = ladder(**load_run(folder).schedule.ends, num_levels=levels)
    metrics = {"energy": EnergyDistance(num_points=N)}
    return samples_of(folder, metrics, n=BLOCKS * N, sampler=sampler, schedule=schedule, exact=exact)["energy"]
