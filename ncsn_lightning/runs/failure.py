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
    """Where a run ends by an exception, log the traceback, and write `summary.json` unless the run has written it.

    Args:
        folder: the run's folder.
        overrides: the command line.
        lease: the run's lease; None for another rank than the first, whose process does not hold it.

    Raises:
        LeaseLost: another process has the run now; it writes the summary.
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
    """Write the summary of a run that ended before it could write one.

    Args:
        folder: the run's folder.
        status: how the run ended.
        error: the text of what ended it.
        wall_time: seconds that the run took.
        overrides: the command line.
        known: further facts of the summary; others get a value that stands for unknown.
    """
    facts = {"seed": None, "steps": 0, "metrics": {}, "config_hash": folder.name, **known}
    try:
        write_summary(folder, status=status, error=error, wall_time=wall_time, overrides=[*overrides], **facts)
    except OSError as full:  # for example on a full disk; without a summary the run counts as interrupted
        log.error("%s", one_line(full))
