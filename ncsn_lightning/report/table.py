"""`sweep.csv`, the table of a sweep with one row for each job."""

from __future__ import annotations

import csv
from pathlib import Path

from ..core.atomic_files import replacing
from ..sweeps.folder import Sweep
from .metrics import names, scalars


def write_table(sweep: Sweep) -> Path:
    """Write `sweep.csv` into the sweep's folder: state, hash, swept overrides, metrics, steps, seconds, reason."""
    metrics = names(sweep.jobs)
    header = ["state", "hash", *sweep.factors, *metrics, "steps", "wall_time", "revision", "reason"]
    path = sweep.folder / "sweep.csv"
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for job in sweep.jobs:
            found = scalars(job)
            writer.writerow(
                [
                    *(job.state, job.hash),
                    *(job.overrides.get(key, "") for key in sweep.factors),
                    *(found.get(name, "") for name in metrics),
                    *(job.summary.get(key, "") for key in ("steps", "wall_time", "revision")),
                    job.reason,
                ]
            )
    return path
