"""What the scripts that write docs/results.md share: sweeps that are run or read, tables, pictures, marks.

Of the page only what stands between two marks is written, `<!-- sweep: NAME -->` and `<!-- end -->`; the sentences
around them stay.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ncsn_lightning.core.atomic_files import replacing
from ncsn_lightning.report.write import duration
from ncsn_lightning.runs.summary import revision, versions
from ncsn_lightning.sweeps.folder import Sweep, read_sweep

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results.md"
MAX_BYTES = 300_000


def train(folder: Path, overrides: Sequence[str], *, launcher: str) -> Sweep:
    """Run what is left of the sweep in a folder, and read it.

    Raises:
        SystemExit: not all of it finished.
    """
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", f"hydra/launcher={launcher}", "logger=csv"]
    if subprocess.run([*command, *overrides], check=False).returncode:
        sys.exit(f"{folder}: not finished, so {PAGE.name} stays as it is; the same command goes on")
    return read_sweep(folder)


def table_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table of Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def totals(sweeps: Sequence[Sweep], *, measuring: float = 0.0) -> str:
    """How the numbers came about.

    Args:
        sweeps: what was trained, if anything.
        measuring: seconds that went by after the trainings.
    """
    jobs = [job for sweep in sweeps for job in sweep.jobs]
    trained = duration(sum(float(job.summary["wall_time"]) for job in jobs))
    costs = [f"{len(jobs)} jobs, {trained} of one core's time"] if sweeps else []
    costs += [f"{duration(measuring)} of measuring"] if measuring else []
    newest, code = (sweeps[-1].versions, sweeps[-1].revision) if sweeps else (versions(), revision())
    used = [f"{name} {newest[name]}" for name in ("torch", "lightning")] + ([f"revision {code}"] if code else [])
    return f"*{' and '.join(costs)}; {', '.join(used)}.*"


def written(page: str, name: str, content: str) -> str:
    """The page with new content between a sweep's marks.

    Raises:
        SystemExit: it has no such marks.
    """
    marks = re.compile(rf"(<!-- sweep: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marks.search(page):
        sys.exit(f"{PAGE.name}: lacks <!-- sweep: {name} --> with <!-- end --> after it")
    return marks.sub(lambda found: f"{found[1]}{content}\n\n{found[2]}", page)


def publish(page: Path, name: str, content: str) -> None:
    """Write new content between a sweep's marks on the page."""
    text = written(page.read_text(), name, content)
    with replacing(page) as path:
        path.write_text(text)
    print(f"{page}: {name}")


def save(content: bytes, path: Path) -> None:
    """Write a picture's PNG.

    Raises:
        SystemExit: it is too large for the repository.
    """
    if len(content) >= MAX_BYTES:
        sys.exit(f"{path.name}: {len(content)} bytes; simplify it")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
