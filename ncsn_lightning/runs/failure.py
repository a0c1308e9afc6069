"""The summary of a run that ended before it could write one itself. Imports nothing slow."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config.messages import log_error, one_line
from ..config.plain import Refusal
from ..core.lease import Lease, LeaseLost
from ..core.signals import Preempted, Stopped, has_stopped
from .summary import Status, read_summary, write_summary

log = logging.getLogger(__name__)


@contextmanager
def write_summary_on_failure(folder: Path, overrides: Sequence[str], lease: Lease | None) -> Iterator[None]:
    """Where a run ends badly: its traceback in its log, and a `summary.json`, unless it has written one.

    Args:
        folder: the run's.
        overrides: the command line.
        lease: of the run; None for a process that follows the one that has it.

    Raises:
        LeaseLost: another process has the run now, and the last word about it.
    """
    started, before = time.perf_counter(), read_summary(folder)
    try:
        yield
    except (Refusal, LeaseLost):
        raise
    except BaseException as error:
        if lease:
            lease.demand()
        log_error()
        now = read_summary(folder)
        if lease and not isinstance(error, SystemExit) and (not now or now == before):
            status: Status = "preempted" if isinstance(error, Preempted | Stopped) or has_stopped() else "failed"
            facts = {key: before[key] for key in ("seed", "steps", "metrics") if key in before}
            seconds = time.perf_counter() - started + before.get("wall_time", 0.0)
            text = traceback.format_exc()
            write_summary_for(folder, status, error=text, wall_time=seconds, overrides=overrides, **facts)
        raise


def write_summary_for(
    folder: Path, status: Status, *, error: str, wall_time: float, overrides: Sequence[str], **known: Any
) -> None:
    """Write the summary of a run that ended before it could; of its other facts those that are known."""
    facts = {"seed": None, "steps": 0, "metrics": {}, "config_hash": folder.name, **known}
    try:
        write_summary(folder, status=status, error=error, wall_time=wall_time, overrides=[*overrides], **facts)
    except OSError as full:  # a full disk, say: the run then counts as interrupted
        log.error("%s", one_line(full))
