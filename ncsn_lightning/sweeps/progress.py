"""How far the running jobs of a sweep are, read from the `metrics.csv` in their folders."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path

from .folder import Job

TAIL = 16_384
"""Bytes at the end of `metrics.csv` that are read for its last rows."""


@dataclass(frozen=True)
class Progress:
    """How far a running job is.

    Attributes:
        step: optimiser steps taken when the job logged last.
        total: optimiser steps that the job will take; None if that is not known.
        loss: the training loss logged last, as text; empty before the first one.
        left: seconds until the last step, at the speed seen so far; None before a speed has been seen.
    """

    step: int
    total: int | None
    loss: str
    left: float | None

    @property
    def is_trained(self) -> bool:
        """Whether all steps are taken, so that only samples and pictures are left to be made."""
        return self.total is not None and self.step >= self.total


class Watch:
    """Looks at running jobs again and again, and so measures how fast they are."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[int, float]] = {}

    def look(self, job: Job, total: int | None) -> Progress | None:
        """How far a job is now; None before it has logged anything.

        Args:
            job: that runs.
            total: the optimiser steps that it will take; None if that is not known.
        """
        found = read_last(job.folder / "metrics.csv")
        if found is None:
            return None
        step, loss = found
        now = time.monotonic()
        begun, started = self._first.setdefault(job.hash, (step, now))
        if step < begun:  # the job was begun anew
            begun, started = self._first[job.hash] = step, now
        speed = (step - begun) / (now - started) if step > begun else 0.0
        left = (total - step) / speed if total and speed else None
        return Progress(step, total, loss, left)


def read_last(path: Path) -> tuple[int, str] | None:
    """The last step and the last training loss in a `metrics.csv`, which may be half written; None without a step."""
    try:
        with open(path, "rb") as file:
            head = file.readline()
            start = max(len(head), file.seek(0, 2) - TAIL)
            file.seek(start)
            body = file.read()
    except OSError:
        return None
    lines = body[: body.rfind(b"\n") + 1].decode(errors="replace").splitlines()
    names = head.decode(errors="replace").strip().split(",")
    rows = csv.DictReader(lines if start == len(head) else lines[1:], fieldnames=names)
    step, loss = None, ""
    for row in rows:
        if (row.get("step") or "").isdigit():
            step = int(row["step"])
        loss = row.get("loss/train") or loss
    return None if step is None else (step, _short(loss))


def _short(loss: str) -> str:
    try:
        return f"{float(loss):.4g}"
    except ValueError:
        return ""
