"""The numbers of an evaluation as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Column, Table

from ..likelihood import CrossEntropy
from .chains import Share

LIKELIHOOD = {
    "nll": "negative log-likelihood",
    "kl": "KL divergence of truth from model",
    "mismatch": "of it, the prior's",
}

CURL = "curl: the share of the derivatives' square that no gradient has"

WIDTH = 120
"""Characters in a line of a file, which has no width of its own."""


def show(numbers: dict[str, Any]) -> None:
    """Print all that there is."""
    console = Console()
    if not console.is_terminal:
        console.width = max(WIDTH, console.width)
    console.print(_level_table(numbers))
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


def _level_table(numbers: dict[str, Any]) -> Table:
    """The error of every level; its parts, on their own levels where these differ; the curl; the ceiling's error."""
    columns = {
        "E‖s_θ−s‖² / E‖s‖²": numbers["score_error_per_level"],
        "gradient": numbers.get("score_error_gradient_per_level", {}),
        "divergence-free": numbers.get("score_error_divergence_free_per_level", {}),
        "curl": numbers["curl_per_level"],
        "on exact targets": numbers.get("ceiling_score_error_per_level", {}),
    }
    columns = {name: column for name, column in columns.items() if column}
    parts = "its parts on a grid, so that their sum is the error's within its noise; " * ("gradient" in columns)
    table = Table("σ (data units)", *columns, title="relative score error", caption=f"{parts}{CURL}")
    for sigma in sorted({sigma for column in columns.values() for sigma in column}, key=float, reverse=True):
        table.add_row(sigma, *(f"{column[sigma]:.3g}" if sigma in column else "" for column in columns.values()))
    table.add_section()
    table.add_row("mean", *(f"{sum(column.values()) / len(column):.3g}" for column in columns.values()))
    return table


def _sample_table(samples: dict[str, dict[str, Share]]) -> Table:
    """A row a metric: its value for each pair of a score and a sampler, and the floor."""
    title = "samples: mean ± standard error over the sampler's seeds"
    table = Table(Column("metric", no_wrap=True), "points", *samples, "floor", title=title)
    for name, share in next(iter(samples.values())).items():
        floor = f"{share.floor:.2g} ± {share.deviation:.1g}"
        table.add_row(name, str(share.num_points), *(str(column[name]) for column in samples.values()), floor)
    return table
