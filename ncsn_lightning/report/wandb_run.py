"""The W&B run of a sweep, beside those of its jobs, and the command that uploads all of them later."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ..config.plain import read_config, value_at
from ..core.atomic_files import shown
from ..sweeps.folder import Sweep

WANDB_RUN = "ncsn_lightning.training.loggers.WandbRun"
"""The name of the W&B logger in a job's configuration. It is written out because its module imports torch."""

OF_A_JOB = ("_target_", "folder", "run_id", "name", "job_type", "tags")
"""Arguments of a job's W&B run that the sweep's own run does not share."""


def log_sweep(sweep: Sweep) -> list[str]:
    """Write a sweep's W&B run, if its jobs have W&B runs and any of them has ended since the last writing.

    The run has the job type `report` and the group of the jobs. It holds the table of all jobs, the configurations by
    their means, the heat map of the first two factors, and the best configuration. Later commands of the same sweep
    update it.

    Args:
        sweep: as read a moment ago.

    Returns:
        Lines for the user: where the run is, or the command that uploads all runs of the sweep later.
    """
    settings = _settings(sweep)
    if settings is None:
        return []
    lines = []
    if not _is_recent(sweep):
        from .wandb_content import write_run

        lines += write_run(sweep, settings)
    if _pending(sweep):
        lines += ["W&B is offline; upload all runs of this sweep later with:", f"  {_sync_command(sweep.folder)}"]
    return lines


def _settings(sweep: Sweep) -> dict[str, Any] | None:
    """The arguments that the W&B runs of the jobs have in common, such as the project; None if no job has a run."""
    for job in sweep.jobs:
        path = job.folder / "config.yaml"
        has_run = (job.folder / "wandb").is_dir() and path.is_file()
        loggers = value_at(read_config(job.folder, named=str(path)), "logger") if has_run else None
        for settings in (loggers or {}).values():
            if settings.get("_target_") == WANDB_RUN:
                return {key: value for key, value in settings.items() if key not in OF_A_JOB}
    return None


def _is_recent(sweep: Sweep) -> bool:
    """Whether the sweep's W&B run was written after the last job ended."""
    ends = [path.stat().st_mtime for job in sweep.jobs if (path := job.folder / "summary.json").is_file()]
    written = [path.stat().st_mtime for path in sweep.folder.glob("wandb/*run-*/*.wandb")]
    return max(ends, default=0.0) < max(written, default=0.0)


def _pending(sweep: Sweep) -> bool:
    """Whether the W&B run of the sweep or of one of its jobs has not been uploaded."""
    places = (sweep.folder, *(job.folder for job in sweep.jobs))
    runs = (path for place in places for path in place.glob("wandb/offline-run-*/*.wandb"))
    return any(not path.with_suffix(".wandb.synced").exists() for path in runs)


def _sync_command(folder: Path) -> str:
    """The command of a shell, which expands the `*`."""
    place = shlex.quote(shown(folder))
    return f"wandb sync {place}/wandb {place}/*/wandb"
