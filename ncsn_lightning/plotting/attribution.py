"""Figures that tell where errors come from: the score or the sampler, and which level of the ladder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, log_axis, new_figure, number, numpy, styled

COLORS = (BLUE, ORANGE, GREEN, VERMILION)
STYLES = ("o-", "s--", "^-.", "D:")
COLUMNS = 3


class Bar(NamedTuple):
    """A metric's value, with what it is compared with.

    Attributes:
        value: of the metric, in its own unit.
        error: standard error of `value`; NaN where it is unknown.
        floor: the metric's mean over draws of the truth.
        deviation: standard deviation of one such draw.
    """

    value: float
    error: float
    floor: float
    deviation: float


@styled
def plot_shares(metrics: Mapping[str, Mapping[str, Bar]]) -> Figure:
    """A panel for each metric: the values of all that was measured, with standard errors, beside the truth's own value.

    Arguments:
        metrics: bars by metric, then by the name of what was measured; each metric has the same names.
    """
    rows = math.ceil(len(metrics) / COLUMNS)
    names = list(next(iter(metrics.values())))
    figure = new_figure(0.7 + rows * (0.75 + 0.22 * len(names)), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in panels.ravel()[len(metrics) :]:
        axes.set_axis_off()
    for index, (metric, bars) in enumerate(metrics.items()):
        axes = panels[index // COLUMNS, index % COLUMNS]
        _bars(axes, bars)
        axes.set_title(metric.replace("_", " "))
        axes.set_yticks(range(len(names)), names if index % COLUMNS == 0 else [""] * len(names))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    units = "points: mean ± standard error, distances in data units"
    figure.legend(handles, labels, title=units, loc="outside lower center", ncols=2)
    return figure


def _bars(axes: Axes, bars: Mapping[str, Bar]) -> None:
    """Draw one metric's values as points in rows, and the floor as a band behind them."""
    floor, deviation = next(iter(bars.values()))[2:]
    axes.axvspan(floor - 2 * deviation, floor + 2 * deviation, color=GREY, alpha=0.25, linewidth=0)
    axes.axvline(floor, color=GREY, linewidth=1, label="draws of the truth, ± 2 standard deviations")
    for row, (bar, color) in enumerate(zip(bars.values(), COLORS, strict=False)):
        error: dict[str, Any] = {"xerr": bar.error} if math.isfinite(bar.error) else {}
        axes.errorbar(bar.value, row, fmt="o", color=color, capsize=3, **error)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(axis="x")


@styled
def plot_chain_distances(levels: Tensor, floors: Tensor, distances: Mapping[str, Tensor]) -> Figure:
    r"""The distance of a walk's states from p_σ at every level, beside the distance of draws of p_σ from each other.

    Arguments:
        levels: `[states]`, the σ that each state has reached, in data units; the first is the prior's, 0 is the target.
        floors: `[draws, states]`, sliced W₂ of draws of p_σ, in data units; drawn as their mean ± 2 deviations.
        distances: by the name of a score, `[walks, states]`, sliced W₂ of walks on it, in data units; drawn as their
            mean, with its standard error where there are several walks.
    """
    figure = new_figure(3.6, layout="constrained")
    axes, steps = figure.add_subplot(), np.arange(len(levels))
    drawn, beside = [], 0.16 * (np.arange(len(distances)) - (len(distances) - 1) / 2)  # equal curves stay apart
    for (name, walks), color, style, shift in zip(distances.items(), COLORS, STYLES, beside, strict=False):
        values, n = numpy(walks), len(walks)
        error = values.std(0, ddof=1) / n**0.5 if n > 1 else None
        axes.errorbar(steps + shift, values.mean(0), error, fmt=style, capsize=3, color=color, label=name, zorder=3)
        drawn += [values.mean(0) + sign * (0 if error is None else error) for sign in (-1, 1)]
    mean, spread = numpy(floors).mean(0), 2 * numpy(floors).std(0, ddof=1)
    label = r"draws of $p_\sigma$, ± 2 standard deviations"
    axes.plot(steps, mean, ":", color=BLACK, linewidth=1.4, zorder=4, label=label)
    axes.fill_between(steps, mean - spread, mean + spread, color=GREY, alpha=0.25, linewidth=0)
    heights = np.concatenate([mean - spread, mean + spread, *drawn])
    log_axis(axes, heights[heights > 0], r"sliced $W_2$ to $p_\sigma$ (data units)", which="y")
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 13)).round().astype(int))
    labels = ["prior" if step == 0 else f"{number(float(levels[step]))}" for step in shown]
    axes.set_xticks(shown, labels)
    axes.set_xlabel(r"level $\sigma$ that the chains have reached (data units)")
    axes.grid(axis="y")
    axes.legend(loc="best")
    return figure
