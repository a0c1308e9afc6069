"""Figures that compare samplers: the paths of chains, the weights of modes, and quality against cost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..distributions.base import Distribution
from .space import draw_contours, frame_axes, limits
from .style import BLACK, GREY, LINES, WIDTH, new_figure, numpy, styled

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def _styles() -> Iterator[dict[str, Any]]:
    """Yield styles of lines, each with another combination of colour, dashes and marker."""
    lines = itertools.cycle(itertools.product(("-", "--"), LINES))
    for (dashes, color), marker in zip(lines, itertools.cycle(MARKERS), strict=False):
        yield {"linestyle": dashes, "color": color, "marker": marker, "linewidth": 1.3, "alpha": 0.9}


@styled
def plot_paths(target: Distribution, walks: Mapping[str, Sequence[Tensor]], *, columns: int = 4) -> Figure:
    """The paths of a few chains in the plane over the target's contours, a panel for each sampler.

    Arguments:
        walks: by the sampler's name, the states `[n, 2]` of its chains, data units, from the start on.
        columns: panels in a row.
    """
    frame = limits(target, 0.5 * target.sigma_data)
    rows = -(-len(walks) // columns)
    panel = (WIDTH - 0.8) / columns
    figure = new_figure(rows * (panel * frame.height / frame.width + 0.28) + 0.4, layout="compressed")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(walks) :]:
        axes.set_axis_off()
    for axes, (name, states) in zip(panels, walks.items(), strict=False):
        frame_axes(axes, frame)
        axes.label_outer()
        draw_contours(axes, target, frame)
        paths = np.stack([numpy(state) for state in states])
        for chain, color in zip(range(paths.shape[1]), itertools.cycle(LINES), strict=False):
            axes.plot(*paths[:, chain].T, "-", color=color, linewidth=0.8, alpha=0.85)
        axes.plot(*paths[-1].T, "o", color=BLACK, markersize=3, linestyle="none", zorder=4)
        axes.set_title(name, fontsize="medium")
    return figure


@styled
def plot_mode_weights(separations: Tensor, weights: Mapping[str, Tensor], *, truth: float, error: float) -> Figure:
    """The share of the samples in the heavier of two modes against the modes' distance, a curve for each sampler.

    Arguments:
        separations: `[m]`, distances of the modes in their standard deviations.
        weights: by the sampler's name, the share at each separation, `[m]`.
        truth: the exact weight.
        error: standard error of a share, drawn as a band of twice its width on either side.
    """
    figure = new_figure(4.6, layout="constrained")
    axes = figure.add_subplot()
    axes.axhspan(truth - 2 * error, truth + 2 * error, color="#e4e4e4", linewidth=0, label="exact ± 2 standard errors")
    axes.axhline(truth, color=GREY, linewidth=1.0)
    for (name, values), style in zip(weights.items(), _styles(), strict=False):
        axes.plot(numpy(separations), numpy(values), label=name, **style)
    axes.set_xlabel("distance of the modes (their standard deviations)")
    axes.set_ylabel("weight of the heavier mode (share of the samples)")
    axes.grid(axis="y")
    figure.legend(loc="outside right upper")
    return figure


class CostQuality(NamedTuple):
    """The cost and quality of samplers on one score.

    Attributes:
        curves: by the sampler's name, pairs of evaluations and distance from the target (data units).
        floor: mean distance of as many draws of the target, in data units.
        deviation: standard deviation of the distance of one such draw.
    """

    curves: Mapping[str, Sequence[tuple[float, float]]]
    floor: float
    deviation: float


@styled
def plot_cost_quality(panels: Mapping[str, CostQuality], *, distance: str, columns: int = 3) -> Figure:
    """Distance of the samples from the target against evaluations, a line for each sampler, a panel for each score.

    Arguments:
        panels: by their titles; a panel may lack some of the samplers, but has the others in the same order.
        distance: name of the distance, with its unit.
        columns: panels in a row.
    """
    rows = -(-len(panels) // columns)
    figure = new_figure(0.9 + 2.3 * rows, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes in grid.ravel()[len(panels) :]:
        axes.set_axis_off()
    names = max((list(panel.curves) for panel in panels.values()), key=len)
    styles = dict(zip(names, _styles(), strict=False))
    for axes, (title, panel) in zip(grid.ravel(), panels.items(), strict=False):
        _draw_cost_quality(axes, panel, styles)
        axes.set_title(title, fontsize="medium")
    for axes in grid[:, 0]:
        axes.set_ylabel(distance)
    for axes in grid[-1]:
        axes.set_xlabel("evaluations of the score")
    whole = max(grid.ravel(), key=lambda axes: len(axes.get_lines()))
    figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _draw_cost_quality(axes: Axes, panel: CostQuality, styles: Mapping[str, dict[str, Any]]) -> None:
    """Draw the curves of one panel on logarithmic axes, and the floor as a band behind them."""
    for name, points in panel.curves.items():
        axes.plot(*np.array(points).T, label=name, **{**styles[name], "markersize": 3.5})
    axes.set_xscale("log")
    axes.set_yscale("log")
    bottom, _ = axes.get_ylim()
    low, high = panel.floor - 2 * panel.deviation, panel.floor + 2 * panel.deviation
    low = low if low > 0 else min(bottom, high / 10)  # a logarithmic axis cannot show 0
    axes.axhspan(low, high, color="#e4e4e4", linewidth=0, label="draws of the truth ± 2 sd", zorder=0)
    axes.grid(axis="y")
