"""Whose fault it is what is wrong with the default job's samples, as `ncsn-evaluate` says it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from lab import Lab, floor_of
from page import ROOT, table_of

from ncsn_lightning.report.metrics import plus_minus

PICTURES = {
    "shares": "Metrics of the samples of truth, network and ceiling, by the run's sampler and one of nearly no error",
    "distances": "Sliced W₂ between the chains and the density of the level that they have reached",
    "split": "The gradient and the divergence-free part of the relative score error at each level",
    "density": "The exact density, the one that the network believes in, and their difference",
}


def reproduce(lab: Lab) -> list[str]:
    recipe = ("experiment=default", "distribution=checkerboard", "seed=0")
    own, ceiling = (lab.train(part, *recipe, *change)[0] for part, change in (("", []), ("exact", ["objective=exact"])))
    key = f"{own.hash}_{ceiling.hash}"
    out = lab.root / lab.name / f"{key}_evaluation.json"
    (numbers,) = lab.measure({key: lambda: evaluation(own.folder, ceiling.folder, out)}).values()
    pictures = {
        name: lab.copied(out.with_name(f"{out.stem}_{name}.png"), name, shows) for name, shows in PICTURES.items()
    }
    apart = [line for picture in pictures.values() for line in (picture, "")]
    return [*apart[:2], *samples(numbers["samples"]), "", *apart[2:], levels(numbers)]


def evaluation(own: Path, ceiling: Path, out: Path) -> dict[str, Any]:
    """The numbers of the command as users type it; its pictures are beside them."""
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), f"run={own}", f"ceiling={ceiling}", f"out={out}"]
    subprocess.run([*command, "sigma_max=2"], check=True)
    return json.loads(out.read_text())


def samples(pairs: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """A row a metric: its value for each pair of a score and a sampler, and what draws of the truth have."""
    rows = []
    for name, share in next(iter(pairs.values())).items():
        values = (plus_minus(column[name]["value"], column[name]["error"]) for column in pairs.values())
        floor = floor_of(share["floor"], share["deviation"])
        rows.append([name.replace("_", " "), str(share["num_points"]), *values, floor])
    return table_of(["metric", "points", *pairs, "draws of the truth, ± deviation of one"], rows)


def levels(numbers: dict[str, Any]) -> str:
    """The means over levels, and the likelihood."""
    own, ceiling = (numbers[f"{of}score_error_per_level"].values() for of in ("", "ceiling_"))
    gradient = numbers["score_error_gradient_per_level"].values()
    still = numbers["score_error_divergence_free_per_level"].values()
    kl = numbers["likelihood"]["kl"]
    return (
        f"Relative score error, mean of ten levels: {mean(own):.2g}, and {mean(ceiling):.2g} of the same network on "
        f"exact targets. Of the levels that a grid resolves: gradient part {mean(gradient):.2g}, divergence-free "
        f"{mean(still):.2g}. KL: {plus_minus(kl['value'], kl['error'])} nats."
    )
