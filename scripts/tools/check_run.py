"""Say whether a short run of the main job left what it should: `python scripts/tools/check_run.py FOLDER`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

FIGURES = ("samples", "score_field", "score_error", "loss_levels", "filmstrip", "schedule")


def faults(folder: Path) -> Iterator[str]:
    """A line for each thing that is missing, too large or too bad."""
    summary = json.loads((folder / "summary.json").read_text())
    if summary["status"] != "finished":
        yield f"status {summary['status']}: {summary['error']}"
    if not summary["metrics"]["fisher_error"] < 0.01:
        yield f"fisher_error {summary['metrics']['fisher_error']}: .0035 has been usual after 2000 steps"
    limits = {f"{name}.png": 300_000 for name in FIGURES} | {"annealing.gif": 3_000_000}
    for name, limit in limits.items():
        picture = folder / "figures" / name
        if not picture.is_file() or picture.stat().st_size >= limit:
            yield f"{picture}: missing, or not below {limit} bytes"


def main() -> None:
    found = list(faults(Path(sys.argv[1])))
    sys.exit("\n".join(found) if found else None)


if __name__ == "__main__":
    main()
