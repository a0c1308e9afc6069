"""The content of a sweep's W&B run: its configuration, its summary, tables and a heat map."""

from __future__ import annotations

import io
import math
from typing import Any, get_args

import wandb
from PIL import Image

from ..plotting.style import png
from ..sweeps.folder import Job, State, Sweep
from ..training.loggers import start_wandb
from .comparison import Answer, answer
from .figures import heat_map
from .metrics import names, scalars


def write_run(sweep: Sweep, settings: dict[str, Any]) -> list[str]:
    """Write a sweep's W&B run, or update it.

    Args:
        sweep: as read a moment ago.
        settings: arguments of the run, such as its project and group.

    Returns:
        A line that says where the run is, if it is online.
    """
    run = start_wandb(sweep.folder, f"{sweep.name}-report", name=sweep.name, job_type="report", **settings)
    try:
        _fill(run, sweep, answer(sweep))
    finally:
        wandb.finish()
    return [] if run.offline else [f"W&B: {run.url}"]


def _fill(run: Any, sweep: Sweep, found: Answer | None) -> None:
    config: dict[str, Any] = {"sweep": sweep.name, "question": sweep.question, "command": sweep.command}
    content: dict[str, Any] = {"sweep": _jobs(sweep)}
    run.summary.update({f"jobs/{state}": sweep.count()[state] for state in get_args(State)})
    if found:
        config["best"] = found.best.overrides
        content["configurations"] = _configurations(found)
        run.summary.update(
            {
                "best/configuration": found.best.label,
                "best/provisional": not found.best.is_complete,
                f"best/{found.metric}": found.best.mean,
                "best/standard_error": _finite(found.best.standard_error),
                "best/command": found.command,
                "best/cannot_be_told_from_it": [configuration.label for configuration in found.ties],
                "no_effect": list(map(str, found.idle)),
            }
        )
    if found and len(sweep.factors) > 1:
        picture = Image.open(io.BytesIO(png(heat_map(sweep, metric=found.metric))))
        content["heat_map"] = wandb.Image(picture)
    run.config.update(config, allow_val_change=True)  # the best configuration may have changed since the last update
    run.log(content)


def _jobs(sweep: Sweep) -> wandb.Table:
    """The table of all jobs, with the columns of `sweep.csv`."""
    metrics = names(sweep.jobs)
    columns: list[Any] = ["state", "hash", *sweep.factors, *metrics, "steps", "wall_time", "reason"]

    def row(job: Job) -> list[Any]:
        found = scalars(job)
        return [
            *(job.state, job.hash),
            *(job.overrides.get(key) for key in sweep.factors),
            *(_finite(found.get(name)) for name in metrics),
            *(job.summary.get(key) for key in ("steps", "wall_time")),
            job.reason,
        ]

    return wandb.Table(columns=columns, data=[row(job) for job in sweep.jobs])


def _configurations(found: Answer) -> wandb.Table:
    """The table of configurations, sorted by their means, each compared with the best one."""
    columns: list[Any] = ["configuration", found.metric, "standard error", "seeds"]
    columns += ["ratio to best" if found.ratios else "difference", "low", "high", "told from best"]
    rows = [
        [
            *(c.configuration.label, c.configuration.mean, _finite(c.configuration.standard_error)),
            *(len(c.configuration.values), _finite(c.effect), _finite(c.low), _finite(c.high), c.differs),
        ]
        for c in found.comparisons
    ]
    return wandb.Table(columns=columns, data=rows)


def _finite(value: float | None) -> float | None:
    """The value, or None if it is not finite, because a table of W&B holds no other mark for a missing number."""
    return value if value is not None and math.isfinite(value) else None
