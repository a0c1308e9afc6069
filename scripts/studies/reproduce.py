"""Run published experiments anew, or what is left of them, and write their numbers into docs/results.md.

    make reproduce ARGS="ncsn_toy"
    make reproduce

Arguments that are no options are overrides for every training. Without a name all of them run, the cheap ones first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab import Lab
from page import PAGE, publish
from reproductions import (
    edm2_toy,
    forty_gaussians,
    ncsn_toy,
    pareto,
    primer,
    split_fields,
    table2,
    techniques,
    whose_fault,
)

REPRODUCTIONS = {
    "whose_fault": whose_fault.reproduce,
    "split_fields": split_fields.reproduce,
    "ncsn_toy": ncsn_toy.reproduce,
    "primer": primer.reproduce,
    "forty_gaussians": forty_gaussians.reproduce,
    "techniques": techniques.reproduce,
    "pareto": pareto.reproduce,
    "table2": table2.reproduce,
    "table2_usual": table2.reproduce_usual,
    "edm2_toy": edm2_toy.reproduce,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=REPRODUCTIONS, help="one of them alone")
    parser.add_argument("--root", type=Path, default="outputs/reproduce", help="default: outputs/reproduce")
    parser.add_argument("--launcher", default="joblib", help="what runs the trainings (default: joblib)")
    parser.add_argument("--page", type=Path, default=PAGE, help="default: docs/results.md")
    arguments, overrides = parser.parse_known_args()
    for name in [arguments.name] if arguments.name else REPRODUCTIONS:
        lab = Lab(name, arguments.root, arguments.page.parent, arguments.launcher, overrides)
        lines = REPRODUCTIONS[name](lab)
        publish(arguments.page, name, "\n".join([*lines, "", lab.totals()]))


if __name__ == "__main__":
    main()
