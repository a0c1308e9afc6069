"""What samplers do on the way from the prior to the data, and to the weights of its modes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ..distributions.base import Distribution
from .space import draw_contours, frame_axes, limits
from .style import BLACK, GREY, LINES, WIDTH, new_figure, numpy, styled

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@styled
def plot_paths(target: Distribution, walks: Mapping[str, Sequence[Tensor]], *, columns: int = 4) -> Figure:
    """The way of a few chains through the plane, a panel for each sampler, over contours of the target.

    Arguments:
        walks: by the sampler's name, the states `[n, 2]` of its chains, data units, the start first.
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
    styles = itertools.cycle(itertools.product(("-", "--"), LINES))
    for (name, values), (line, color), marker in zip(weights.items(), styles, itertools.cycle(MARKERS), strict=False):
        axes.plot(
            numpy(separations), numpy(values), line, marker=marker, color=color, label=name, linewidth=1.3, alpha=0.9
        )
    axes.set_xlabel("distance of the modes (their standard deviations)")
    axes.set_ylabel("weight of the heavier mode (share of the samples)")
    axes.grid(axis="y")
    figure.legend(loc="outside right upper")
    return figure
