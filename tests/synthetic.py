"""Sweeps that nobody trained: folders as the engine leaves them, with known effects, for the tests of the report.

python tests/synthetic.py FOLDER 200   # to look at a page of 200 jobs
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

EFFECTS = {"karras": 1.0, "geometric": 1.3, "linear": 4.0, "ddpm": 1.6}
EFFECTS |= {"learned": 1.0, "inverse_variance": 1.02, "edm": 1.4, "min_snr": 1.8, "sigma_power": 2.5, "uniform": 9.0}
SIGMAS = np.geomspace(0.01, 5.61, 10)
GRIDS = {
    72: {
        "schedule": ["geometric", "linear", "karras", "ddpm"],
        "weighting": ["inverse_variance", "uniform", "learned", "edm", "min_snr", "sigma_power"],
        "seed": ["0", "1", "2"],
    },
    200: {
        "schedule": ["geometric", "linear", "karras", "ddpm"],
        "optimizer.lr": ["0.0005", "0.001", "0.002", "0.005", "0.01"],
        "levels": ["ladder", "log_uniform"],
        "seed": ["0", "1", "2", "3", "4"],
    },
    1000: {
        "schedule": ["geometric", "linear", "karras", "ddpm"],
        "optimizer.lr": ["0.0005", "0.001", "0.002", "0.005", "0.01"],
        "data.batch_size": ["64", "128", "256", "512", "1024"],
        "levels": ["ladder", "log_uniform"],
        "seed": ["0", "1", "2", "3", "4"],
    },
}


def make_sweep(
    folder: Path,
    factors: dict[str, list[str]],
    *,
    states: dict[int, str] | None = None,
    samples: int = 2000,
    revisions: dict[int, str] | None = None,
    noise: float = 0.1,
    question: str | None = "Which σ schedule and which weighting learn the score best?",
) -> Path:
    """Write the folder of a sweep over a full grid.

    Args:
        folder: of the sweep; its name names it.
        factors: swept keys and their values.
        states: of the jobs that did not finish, by their number.
        samples: points that a job left; 0 for none.
        revisions: of the jobs that another revision than the first made, by their number.
        noise: of a seed, the standard deviation of the logarithm of the score error.
        question: what the sweep asks.
    """
    combinations = [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
    jobs = {
        _name(overrides): {"overrides": overrides, "fixed": ["trainer.max_steps=2000"]} for overrides in combinations
    }
    folder.mkdir(parents=True, exist_ok=True)
    plan = {
        "name": folder.name,
        "question": question,
        "command": f"python scripts/train.py -m sweep={folder.name} trainer.max_steps=2000",
        "factors": factors,
        "jobs": jobs,
        "revision": "0123456789ab",
        "versions": _versions(),
    }
    (folder / "sweep.json").write_text(json.dumps(plan))
    for number, (name, job) in enumerate(jobs.items()):
        state = (states or {}).get(number, "finished")
        if state != "waiting":
            revision = (revisions or {}).get(number, "0123456789ab")
            _make_job(folder / name, number, job["overrides"], state, samples, noise, revision)
    return folder


def _name(overrides: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:10]


def _versions() -> dict[str, str]:
    return {"python": "3.11.7", "ncsn-lightning": "0.1.0", "torch": "2.13.0", "lightning": "2.6.6"}


def effect(overrides: dict[str, str]) -> float:
    """The score error of a configuration without noise."""
    value = 0.01 * math.prod(EFFECTS.get(choice, 1.0) for choice in overrides.values())
    rate = float(overrides.get("optimizer.lr", 0.002))
    return (
        value * math.exp(math.log(rate / 0.002) ** 2 / 2) * (256 / float(overrides.get("data.batch_size", 256))) ** 0.3
    )


def _make_job(
    folder: Path, number: int, overrides: dict[str, str], state: str, samples: int, noise: float, revision: str
) -> None:
    _lease(folder / "lease", alive=state == "running")
    draw = np.random.default_rng(number)
    error = effect(overrides) * math.exp(noise * draw.standard_normal())
    _write_log(folder, error, draw, until=2000 if state == "finished" else 700)
    if state in ("interrupted", "running"):
        return
    summary: dict[str, Any] = {
        "status": state,
        "steps": 2000 if state == "finished" else 700,
        "wall_time": 12.5,
        "metrics": {"loss/train": 0.3 + error},
        "seed": int(overrides.get("seed", 0)),
        "overrides": [f"{key}={value}" for key, value in overrides.items()],
        "config_hash": folder.name,
        "versions": _versions(),
        "revision": revision,
        "error": None,
    }
    if state == "finished":
        summary["metrics"] |= _metrics(error, overrides, draw)
        if samples:
            truth = _board(np.random.default_rng(0), samples)
            x = _board(draw, samples) + 2 * error * draw.standard_normal((samples, 2))
            np.savez(folder / "samples.npz", x=x.astype(np.float32), truth=truth.astype(np.float32))
    else:
        summary["error"] = f"Traceback (most recent call last):\n  …\nRuntimeError: the loss is {state} <b>here</b>\n"
    (folder / "summary.json").write_text(json.dumps(summary))


def _lease(places: Path, *, alive: bool) -> None:
    """The job was taken once; by a process of another machine that still lives, or was let go."""
    places.mkdir(parents=True)
    (places / "1.json").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    if not alive:
        os.utime(places / "1.json", (0, 0))


def _metrics(error: float, overrides: dict[str, str], draw: np.random.Generator) -> dict[str, Any]:
    levels = error * (0.01 / SIGMAS) ** 0.5 * np.exp(0.2 * draw.standard_normal(len(SIGMAS)))
    metrics = {
        "loss/validation": 0.3 + error,
        "score_error": error,
        "fisher_error": error / 10 * math.exp(0.1 * draw.standard_normal()),
        "off_support": min(1.0, 2 * error),
        "not_finite": 0.0,
        "score_error_per_level": _by_level(levels),
    }
    if overrides.get("weighting") == "learned":
        metrics["learned_weighting_per_level"] = _by_level(np.log(levels + 0.1))
        metrics["optimal_weighting_per_level"] = _by_level(np.log(levels + 0.09))
    return metrics


def _by_level(values: Any) -> dict[str, float]:
    return {f"{sigma:.4g}": float(value) for sigma, value in zip(SIGMAS, values, strict=True)}


def _write_log(folder: Path, error: float, draw: np.random.Generator, *, until: int) -> None:
    rows = ["loss/train,loss/validation,score_error,step"]
    for step in range(50, until + 1, 50):
        loss = 0.3 + error + math.exp(-step / 300) * (1 + 0.1 * draw.standard_normal())
        rows.append(f"{loss},,,{step}")
        if step % 500 == 0:
            rows.append(f",{0.3 + error},{error * (1 + 500 / step)},{step}")
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")


def _board(draw: np.random.Generator, n: int) -> Any:
    """Points of a checkerboard on [−2, 2]²."""
    column = draw.integers(0, 4, n)
    row = 2 * draw.integers(0, 2, n) + column % 2
    return np.stack([column, row], axis=1) - 2 + draw.random((n, 2))


def main() -> None:
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    states = {5: "failed", 11: "diverged", 17: "interrupted", 23: "waiting", 24: "preempted", 30: "running"}
    print(make_sweep(folder, GRIDS[size], states=states, samples=10_000))


if __name__ == "__main__":
    main()
