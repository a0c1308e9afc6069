"""The numbers of an evaluation as tables."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from ..metrics.likelihood import CrossEntropy
from .walks import Share

LIKELIHOOD = {
    "nll": "negative log-likelihood",
    "kl": "KL divergence of truth from model",
    "mismatch": "of it, the prior's",
}

CURL = "curl: the share of the derivatives' square that no gradient has"

PARTS = "the error's parts are measured on a grid, where that is fine enough for the level; their sum is the error's"

WIDTH = 120
"""The least width of the tables in a file, in characters; a terminal has its own width."""


def show(numbers: dict[str, Any]) -> None:
    """Print the numbers of an evaluation as tables and lines.

    Args:
        numbers: as `commands.evaluate` returns them.
    """
    console = Console()
    if not console.is_terminal:
        console.width = max(WIDTH, console.width)
    for table in _level_tables(numbers):
        console.print(table)
    console.print(f"± is the standard error over {numbers['num_points']} points a level")
    if "samples" in numbers:
        console.print(_sample_table(numbers["samples"]))
    if "cross_entropy" in numbers:
        console.print(_cross_entropy(numbers["cross_entropy"]))
    for name, estimate in numbers.get("likelihood", {}).items():
        console.print(f"{LIKELIHOOD[name]}: {estimate.value:.4f} ± {estimate.error:.4f} nats")


def _cross_entropy(measured: CrossEntropy) -> str:
    mean, off = measured
    where = f"; points left out, off the support, where it is infinite: {off}" if off else ""
    return f"mean of −log p over the samples of one walk: {mean.value:.4f} ± {mean.error:.4f} nats{where}"


def _level_tables(numbers: dict[str, Any]) -> list[Table]:
    """Tables of the error at every level with its standard error, the curl, the ceiling's error, and the error's parts.

    The parts are measured at levels of their own. If these are the levels of the error, there is one table, else two.
    """
    errors, deviations = numbers["score_error_per_level"], numbers["score_error_standard_error_per_level"]
    columns = {
        "E‖s_θ−s‖² / E‖s‖²": {sigma: _plus_minus(errors[sigma], deviations[sigma]) for sigma in errors},
        "curl": _short(numbers["curl_per_level"]),
        "on exact targets": _short(numbers.get("ceiling_score_error_per_level", {})),
    }
    parts = {
        "gradient": _short(numbers.get("score_error_gradient_per_level", {})),
        "divergence-free": _short(numbers.get("score_error_divergence_free_per_level", {})),
    }
    columns, parts = ({name: found for name, found in some.items() if found} for some in (columns, parts))
    mean = _plus_minus(numbers["score_error"], numbers["score_error_standard_error"])
    if parts and set(parts["gradient"]) == set(errors):
        together = f"{CURL}; {PARTS}"
        return [
            _table("relative score error", {**columns, **parts}, together, [mean, *_means(numbers, columns, parts)])
        ]
    tables = [_table("relative score error", columns, CURL, [mean, *_means(numbers, columns, {})])]
    return tables + ([_table("its parts", parts, PARTS, _means(numbers, {}, parts))] if parts else [])


def _table(title: str, columns: dict[str, dict[str, str]], caption: str, means: list[str]) -> Table:
    """A table with a row for each level, the largest σ first, and a last row with the means over all levels."""
    table = Table("σ (data units)", *columns, title=title, caption=caption)
    for sigma in sorted(next(iter(columns.values())), key=float, reverse=True):
        table.add_row(sigma, *(column[sigma] for column in columns.values()))
    table.add_section()
    table.add_row("mean", *means)
    return table


KEYS = {
    "curl": "curl_per_level",
    "on exact targets": "ceiling_score_error_per_level",
    "gradient": "score_error_gradient_per_level",
    "divergence-free": "score_error_divergence_free_per_level",
}
"""The numbers in each column of a table but that of the error."""


def _means(numbers: dict[str, Any], *groups: dict[str, Any]) -> list[str]:
    """The mean of each column but that of the error, which has a mean with a standard error."""
    found = [numbers[KEYS[name]].values() for columns in groups for name in columns if name in KEYS]
    return [f"{sum(values) / len(values):.3g}" for values in found]


def _short(column: dict[str, float]) -> dict[str, str]:
    return {sigma: f"{value:.3g}" for sigma, value in column.items()}


def _plus_minus(value: float, error: float) -> str:
    return f"{value:.3g} ± {error:.1g}" if math.isfinite(error) else f"{value:.3g}"


def _sample_table(samples: dict[str, dict[str, Share]]) -> Table:
    """A table with a row for each metric: its value for each pair of a score and a sampler, and the floor."""
    title = "samples: mean ± standard error over the sampler's seeds"
    caption = "floor: as many draws of the target in the samples' place, ± the standard deviation of a draw"
    table = Table(Column("metric", no_wrap=True), "points", *samples, "floor", title=title, caption=caption)
    for name, share in next(iter(samples.values())).items():
        floor = f"{share.floor:.2g} ± {share.deviation:.1g}"
        table.add_row(name, str(share.num_points), *(str(column[name]) for column in samples.values()), floor)
    return table
