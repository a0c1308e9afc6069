"""Run the sweeps that docs/results.md tells of, or what is left of them, and write its tables and pictures anew.

    make results
    make results ARGS="--only targets"

Arguments that are no options are overrides for every sweep. Of the page only what stands between a sweep's two marks is
written, `<!-- sweep: NAME -->` and `<!-- end -->`; the sentences around them stay.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from ncsn_lightning.files import replacing
from ncsn_lightning.plotting import png
from ncsn_lightning.report import Answer, answer
from ncsn_lightning.report.comparison import Comparison
from ncsn_lightning.report.figures import heat_map
from ncsn_lightning.report.gallery import sample_gallery
from ncsn_lightning.report.metrics import plus_minus
from ncsn_lightning.report.write import duration
from ncsn_lightning.sweeps.folder import Sweep, read_sweep

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
MAX_BYTES = 300_000


class Result(NamedTuple):
    """What the page shows of a sweep.

    Attributes:
        draw: its picture.
        shows: the picture in words.
        competes: whether its configurations are rivals, rather than different tasks.
    """

    draw: Callable[[Sweep], Figure]
    shows: str
    competes: bool


RESULTS = {
    "schedule_weighting": Result(
        heat_map, "Score error by schedule and weighting, ± the standard deviation of a seed", competes=True
    ),
    "targets": Result(sample_gallery, "What the networks drew, over their targets", competes=False),
}


def run(name: str, *, root: str, launcher: str, overrides: list[str]) -> Sweep:
    """Run what is left of a sweep, and read it.

    Raises:
        SystemExit: not all of it finished.
    """
    folder = Path(root) / "sweeps" / name
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", f"sweep={name}", f"hydra/launcher={launcher}"]
    place = [] if root == "outputs" else [f"paths.root={root}"]
    done = subprocess.run([*command, "logger=csv", *place, *overrides], check=False)
    if done.returncode:
        sys.exit(f"{folder}: not finished, so {PAGE.name} stays as it is; the same command goes on")
    return read_sweep(folder)


def section(sweep: Sweep, result: Result, picture: str) -> str:
    """What the page says of a sweep without a human's help."""
    found = answer(sweep)
    assert found is not None, "a sweep whose jobs have all finished has an answer"
    lines = [f"![{result.shows}]({picture})", "", *table(found, list(sweep.factors), competes=result.competes)]
    if result.competes:
        lines += ["", verdict(found), "", "```bash", found.command, "```"]
    return "\n".join([*lines, "", totals(sweep)])


def table(found: Answer, factors: list[str], *, competes: bool) -> list[str]:
    """The configurations by their means, as a table of Markdown."""
    keys = [key for key in factors if key in found.best.overrides]
    head = [*keys, f"{found.metric.replace('_', ' ')}, mean ± standard error"]
    head += ["beside the best (95 % interval)"] if competes else []
    rows = [
        [*(comparison.configuration.overrides[key] for key in keys), *numbers(found, comparison)]
        for comparison in found.comparisons
    ]
    return [f"| {' | '.join(row[: len(head)])} |" for row in (head, ["---"] * len(head), *rows)]


def numbers(found: Answer, comparison: Comparison) -> list[str]:
    """A configuration's mean, and how far it is from the best one."""
    mean = plus_minus(comparison.configuration.mean, comparison.configuration.standard_error)
    if comparison.configuration is found.best:
        return [mean, "the best"]
    difference = f"{comparison.difference:+.2g} ({comparison.low:+.2g} to {comparison.high:+.2g})"
    return [mean, difference.replace("-", "−") + ("" if comparison.told else ", a tie")]


def verdict(found: Answer) -> str:
    """The best configuration, and those that cannot be told from it."""
    seeds = len(found.best.values)
    ties = ", ".join(f"`{configuration.label}`" for configuration in found.ties) or "no other"
    return f"Best: `{found.best.label}`. Of {seeds} seeds each, ties with it: {ties}. To train it again:"


def totals(sweep: Sweep) -> str:
    """How the numbers came about."""
    seconds = duration(sum(float(job.summary["wall_time"]) for job in sweep.jobs))
    versions = ", ".join(f"{name} {sweep.versions[name]}" for name in ("torch", "lightning"))
    revision = f", revision {sweep.revision}" if sweep.revision else ""
    return f"*{len(sweep.jobs)} jobs, {seconds} of one core's time; {versions}{revision}.*"


def written(page: str, name: str, content: str) -> str:
    """The page with new content between a sweep's marks.

    Raises:
        SystemExit: it has no such marks.
    """
    marks = re.compile(rf"(<!-- sweep: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marks.search(page):
        sys.exit(f"{PAGE.name}: lacks <!-- sweep: {name} --> with <!-- end --> after it")
    return marks.sub(lambda found: f"{found[1]}{content}\n\n{found[2]}", page)


def save(figure: Figure, path: Path) -> None:
    """Write a picture.

    Raises:
        SystemExit: it is too large for the repository.
    """
    content = png(figure)
    if len(content) >= MAX_BYTES:
        sys.exit(f"{path.name}: {len(content)} bytes; simplify it")
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=RESULTS, help="one sweep alone")
    parser.add_argument("--root", default="outputs", help="where the sweeps lie (default: outputs)")
    parser.add_argument("--launcher", default="joblib", help="what runs their jobs (default: joblib)")
    parser.add_argument("--page", type=Path, default=PAGE, help="default: docs/results.md")
    arguments, overrides = parser.parse_known_args()
    for name in [arguments.only] if arguments.only else RESULTS:
        sweep = run(name, root=arguments.root, launcher=arguments.launcher, overrides=overrides)
        picture = arguments.page.parent / "images" / f"result_{name}.png"
        save(RESULTS[name].draw(sweep), picture)
        content = section(sweep, RESULTS[name], f"images/{picture.name}")
        with replacing(arguments.page) as path:
            path.write_text(written(arguments.page.read_text(), name, content))
        print(f"{arguments.page}: {name}")


if __name__ == "__main__":
    main()
