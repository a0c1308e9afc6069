"""Run the sweeps that docs/results.md tells of, or what is left of them, and write its tables and pictures anew.

    make results
    make results ARGS="--only targets"

Arguments that are no options are overrides for every sweep. Of the page only what stands between a sweep's two marks is
written, `<!-- sweep: NAME -->` and `<!-- end -->`; the sentences around them stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from page import PAGE, publish, save, table_of, totals, train

from ncsn_lightning.plotting import png
from ncsn_lightning.report import Answer, answer
from ncsn_lightning.report.comparison import Comparison
from ncsn_lightning.report.figures import heat_map
from ncsn_lightning.report.gallery import sample_gallery
from ncsn_lightning.report.metrics import plus_minus
from ncsn_lightning.sweeps.folder import Sweep


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


def section(sweep: Sweep, result: Result, picture: str) -> str:
    """What the page says of a sweep without a human's help."""
    found = answer(sweep)
    assert found is not None, "a sweep whose jobs have all finished has an answer"
    lines = [f"![{result.shows}]({picture})", "", *table(found, list(sweep.factors), competes=result.competes)]
    if result.competes:
        lines += ["", verdict(found), "", "```bash", found.command, "```"]
    return "\n".join([*lines, "", totals([sweep])])


def table(found: Answer, factors: list[str], *, competes: bool) -> list[str]:
    """The configurations by their means, as a table of Markdown."""
    keys = [key for key in factors if key in found.best.overrides]
    head = [*keys, f"{found.metric.replace('_', ' ')}, mean ± standard error"]
    head += ["beside the best (95 % interval)"] if competes else []
    rows = [
        [*(comparison.configuration.overrides[key] for key in keys), *numbers(found, comparison)]
        for comparison in found.comparisons
    ]
    return table_of(head, [row[: len(head)] for row in rows])


def numbers(found: Answer, comparison: Comparison) -> list[str]:
    """A configuration's mean, and how far it is from the best one."""
    mean = plus_minus(comparison.configuration.mean, comparison.configuration.standard_error)
    if comparison.configuration is found.best:
        return [mean, "the best"]
    sign, form = ("× ", ".3g") if found.ratios else ("", "+.2g")
    effect, low, high = (f"{value:{form}}" for value in (comparison.effect, comparison.low, comparison.high))
    return [mean, f"{sign}{effect} ({low} to {high})".replace("-", "−") + ("" if comparison.differs else ", a tie")]


def verdict(found: Answer) -> str:
    """The best configuration, and those that cannot be told from it."""
    seeds = len(found.best.values)
    ties = ", ".join(f"`{configuration.label}`" for configuration in found.ties) or "no other"
    return f"Best: `{found.best.label}`. Of {seeds} seeds each, ties with it: {ties}. To train it again:"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=RESULTS, help="one sweep alone")
    parser.add_argument("--root", default="outputs", help="where the sweeps lie (default: outputs)")
    parser.add_argument("--launcher", default="joblib", help="what runs their jobs (default: joblib)")
    parser.add_argument("--page", type=Path, default=PAGE, help="default: docs/results.md")
    arguments, overrides = parser.parse_known_args()
    for name in [arguments.only] if arguments.only else RESULTS:
        place = [] if arguments.root == "outputs" else [f"paths.root={arguments.root}"]
        folder = Path(arguments.root) / "sweeps" / name
        sweep = train(folder, [f"sweep={name}", *place, *overrides], launcher=arguments.launcher)
        picture = arguments.page.parent / "images" / f"result_{name}.png"
        save(png(RESULTS[name].draw(sweep)), picture)
        content = section(sweep, RESULTS[name], f"images/{picture.name}")
        publish(arguments.page, name, content)


if __name__ == "__main__":
    main()
