"""The command `ncsn-report`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ..runs.summary import said_version
from ..sweeps.folder import NoSweepError, find_sweep, read_sweep
from .comparison import answer
from .metrics import METRIC, names
from .write import write_report

SWEEPS = Path("outputs/sweeps")
"""The folder of all sweeps for which no other place was given."""


def report() -> None:
    """Write a sweep's table and page: `ncsn-report SWEEP`, at any time, also while it runs."""
    parser = argparse.ArgumentParser(prog="ncsn-report", description=report.__doc__)
    parser.add_argument("sweep", metavar="SWEEP", help="a sweep's folder, or its name in outputs/sweeps")
    parser.add_argument(
        "--metric", default=METRIC, help=f"the metric to compare by; less is better (default: {METRIC})"
    )
    parser.add_argument("--version", action="version", version=said_version())
    arguments = parser.parse_args()
    started = time.perf_counter()
    try:
        page = _report(find_sweep(str(Path(arguments.sweep).expanduser()), SWEEPS), arguments.metric)
    except NoSweepError as error:
        sys.exit(str(error))
    except OSError as error:
        place = error.filename2 or error.filename or arguments.sweep
        sys.exit(f"{place}: cannot be written ({error.strerror}); make room or give access")
    size, seconds = page.stat().st_size / 1e6, time.perf_counter() - started
    print(f"{page} ({size:.1f} MB, {seconds:.1f} s); the table is sweep.csv beside it")


def _report(folder: Path, metric: str) -> Path:
    """Print the state and the answer of a sweep, write its report, and return the page.

    Raises:
        NoSweepError: there is no sweep, or no job has measured the metric.
    """
    sweep = read_sweep(folder)
    if not sweep.jobs:
        raise NoSweepError(f"{folder}: a sweep without a job; run its command again: {sweep.command}")
    known = names(sweep.jobs)
    if known and metric not in known:
        raise NoSweepError(f"--metric={metric}: no job measured it; choose one of {', '.join(known)}")
    print(", ".join(f"{count} {state}" for state, count in sweep.count().most_common()))
    print(answer(sweep, metric) or "no job has finished yet")
    return write_report(sweep, metric=metric)
