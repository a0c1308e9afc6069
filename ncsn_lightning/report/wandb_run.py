"""What a sweep says as one more W&B run beside those of its jobs; and the one line that uploads all of them later."""

from __future__ import annotations

import io
import math
import shlex
from pathlib import Path
from typing import Any

import wandb
from omegaconf import OmegaConf
from PIL import Image

from ..loggers import WandbRun, start_wandb
from ..plotting.style import png
from ..sweeps.folder import Job, Sweep
from .comparison import Answer, answer
from .figures import heat_map
from .metrics import names, scalars

OF_A_JOB = ("_target_", "folder", "run_id", "name", "job_type", "tags")
"""Arguments of a job's W&B run that the sweep's does not share."""


def log_sweep(sweep: Sweep) -> list[str]:
    """Write a sweep's W&B run, if its jobs have one and any has ended since it was last written.

    Its job type is `report`, its group that of the jobs. It holds the table of all jobs, the configurations by their
    means, the heat map of the first two factors, and the best configuration. Later commands of the same sweep go on in
    it.

    Args:
        sweep: as read a moment ago.

    Returns:
        Lines for the user: where the run is, or what uploads all runs of the sweep later.
    """
    settings = _settings(sweep)
    if settings is None:
        return []
    lines = []
    if not _is_recent(sweep):
        run = start_wandb(sweep.folder, f"{sweep.name}-report", name=sweep.name, job_type="report", **settings)
        lines += [] if run.offline else [f"W&B: {run.url}"]
        try:
            _fill(run, sweep, answer(sweep))
        finally:
            wandb.finish()
    if _pending(sweep):
        lines.append(f"W&B is offline; upload all runs of this sweep later with: {_sync_command(sweep.folder)}")
    return lines


def _settings(sweep: Sweep) -> dict[str, Any] | None:
    """Project, group and whatever else the runs of the jobs have in common; None where no job has a W&B run."""
    for job in sweep.jobs:
        path = job.folder / "config.yaml"
        loggers: Any = OmegaConf.select(OmegaConf.load(path), "logger") if path.is_file() else None
        for name in loggers or ():
            settings: Any = OmegaConf.to_container(loggers[name], resolve=True)
            if settings.get("_target_") == f"{WandbRun.__module__}.{WandbRun.__name__}":
                return {key: value for key, value in settings.items() if key not in OF_A_JOB}
    return None


def _is_recent(sweep: Sweep) -> bool:
    """Whether no job has ended since the sweep's run was last written."""
    ends = [path.stat().st_mtime for job in sweep.jobs if (path := job.folder / "summary.json").is_file()]
    written = [path.stat().st_mtime for path in sweep.folder.glob("wandb/*run-*/*.wandb")]
    return max(ends, default=0.0) < max(written, default=0.0)


def _fill(run: Any, sweep: Sweep, found: Answer | None) -> None:
    run.config.update({"sweep": sweep.name, "question": sweep.question, "command": sweep.command})
    content: dict[str, Any] = {"sweep": _jobs(sweep)}
    run.summary.update({f"jobs/{state}": count for state, count in sweep.count().items()})
    if found:
        run.config.update({"best": found.best.overrides}, allow_val_change=True)  # by jobs that ended since
        content["configurations"] = _configurations(found)
        run.summary.update(
            {
                "best/configuration": found.best.label,
                f"best/{found.metric}": found.best.mean,
                "best/standard_error": _finite(found.best.standard_error),
                "best/command": found.command,
                "best/cannot_be_told_from_it": [configuration.label for configuration in found.ties],
            }
        )
    if found and len(sweep.factors) > 1:
        picture = Image.open(io.BytesIO(png(heat_map(sweep, metric=found.metric))))
        content["heat_map"] = wandb.Image(picture)
    run.log(content)


def _jobs(sweep: Sweep) -> wandb.Table:
    """One row a job, as in `sweep.csv`."""
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
    """The configurations by their means, each beside the best one."""
    columns: list[Any] = ["configuration", found.metric, "standard error", "seeds"]
    columns += ["difference", "low", "high", "told from best"]
    rows = [
        [
            *(c.configuration.label, c.configuration.mean, _finite(c.configuration.standard_error)),
            *(len(c.configuration.values), _finite(c.difference), _finite(c.low), _finite(c.high), c.told),
        ]
        for c in found.comparisons
    ]
    return wandb.Table(columns=columns, data=rows)


def _finite(value: float | None) -> float | None:
    """The value, or nothing where it is no number: a table of W&B has no other word for it."""
    return value if value is not None and math.isfinite(value) else None


def _pending(sweep: Sweep) -> bool:
    """Whether a run of the sweep or of a job of it is on this disk alone."""
    places = (sweep.folder, *(job.folder for job in sweep.jobs))
    runs = (path for place in places for path in place.glob("wandb/offline-run-*/*.wandb"))
    return any(not path.with_suffix(".wandb.synced").exists() for path in runs)


def _sync_command(folder: Path) -> str:
    """Of a shell, which spells out the `*`."""
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    place = shlex.quote(str(shown))
    return f"wandb sync {place}/wandb {place}/*/wandb"
