"""Whose fault it is: metrics of scores under samplers, and where on the ladder an error enters."""

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
    """A metric's value and its standard error, which may be NaN; the floor, and the deviation of one draw of it."""

    value: float
    error: float
    floor: float
    deviation: float


@styled
def plot_shares(metrics: Mapping[str, Mapping[str, Bar]]) -> Figure:
    """A panel for each metric: its value under every name, with its standard error, over what the truth itself scores.

    Arguments:
        metrics: by metric, then by what was measured; the same names for each metric.
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
    r"""The distance of a walk's states from p_σ, where on the ladder it is made; and what draws of p_σ have.

    Arguments:
        levels: `[states]`, σ that each has reached, data units; the first is the prior's, 0 is the target itself.
        floors: `[draws, states]`, sliced W₂ of as many draws of p_σ, data units; drawn as their mean, ± 2 deviations.
        distances: `[walks, states]` each, sliced W₂, data units, by the score that was walked on; drawn as their mean,
            of several walks with its standard error.
    """
    figure = new_figure(3.6, layout="constrained")
    axes, steps = figure.add_subplot(), np.arange(len(levels))
    drawn, beside = [], 0.16 * (np.arange(len(distances)) - (len(distances) - 1) / 2)  # equal curves hide none
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
