"""Time what a sweep costs beside its trainings: resuming, a further job, and joblib against serial.

    make benchmark-sweeps ARGS="--jobs 12 --repeats 3"

Every command is a process of its own, as a user starts it; serial and joblib take turns, for the machine's
speed drifts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ncsn_lightning.sweeps.folder import read_sweep

TRAIN = Path(__file__).parents[1] / "train.py"
SHORT = (
    *("network.hidden_dims=[16,16]", "trainer.max_steps=50", "data.steps_per_epoch=50", "data.validation_size=64"),
    *("score_test.num_points=64", "sampler.steps_per_level=2", "callbacks.figures.num_samples=50"),
)


def seconds(*arguments: str, folder: Path) -> float:
    """How long a command takes that has to succeed."""
    started = time.perf_counter()
    command = [sys.executable, str(TRAIN), *arguments, "logger=csv", f"paths.root={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


def resuming(folder: Path) -> str:
    """A finished sweep of 72 jobs, run again."""
    command = ("-m", "sweep=schedule_weighting", *SHORT, "~callbacks.figures")
    seconds(*command, folder=folder)
    times = [seconds(*command, folder=folder) for _ in range(3)]
    jobs = len(read_sweep(folder / "sweeps/schedule_weighting").jobs)
    return f"{statistics.median(times):.1f} s for {jobs} jobs, the report included"


def further_job(folder: Path, *, count: int) -> str:
    """What a serial sweep of `count` jobs takes beyond its trainings, by their own clocks, more than one of one job."""
    recipe = ("trainer.max_steps=500", "callbacks.figures.num_samples=200")
    beyond = []
    for jobs in (1, count):
        name = f"of_{jobs}"
        whole = seconds("-m", f"seed=range({jobs})", f"sweep_name={name}", *recipe, folder=folder)
        beyond.append(whole - sum(job.summary["wall_time"] for job in read_sweep(folder / "sweeps" / name).jobs))
    return f"{(beyond[1] - beyond[0]) / (count - 1):.2f} s a job after the first"


def parallel(folder: Path, *options: str, count: int, steps: int, repeats: int) -> str:
    """Joblib against serial, in turns."""
    short = (f"trainer.max_steps={steps}", "callbacks.figures.num_samples=2000")
    recipe = ("-m", f"seed=range({count})", *short, *options)
    ratios = []
    for turn in range(repeats):
        serial = seconds(*recipe, "sweep_name=serial", folder=folder / f"{turn}")
        joblib = seconds(*recipe, "sweep_name=joblib", "hydra/launcher=joblib", folder=folder / f"{turn}")
        ratios.append(serial / joblib)
    spread = f"{min(ratios):.2f} … {max(ratios):.2f}"
    return f"× {statistics.median(ratios):.2f} ({spread}) for {count} jobs of {steps} steps"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    table = Table("what", "how fast")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        table.add_row("a finished sweep run again", resuming(folder))
        table.add_row("a job, besides its training", further_job(folder, count=arguments.jobs))
        turns = {"count": arguments.jobs, "steps": arguments.steps, "repeats": arguments.repeats}
        table.add_row("joblib against serial", parallel(folder / "one", "objective=denoising", **turns))
        table.add_row("with a thread for references beside each", parallel(folder / "two", **turns))
    Console().print(table)


if __name__ == "__main__":
    main()
