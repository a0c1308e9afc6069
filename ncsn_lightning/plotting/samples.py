"""Samples beside the density they should come from."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from ..distributions.base import Distribution
from .space import CONTOURS, Limits, count, density_grid, draw_contours, limits, plane_figure, visible
from .style import DENSITY_MAP, ORANGE, Array, numpy, styled

SAMPLES_PER_CELL = 10
"""Samples that a cell of the histogram should hold, on average over samples of the target."""

MAX_DOTS = 2000
"""Most samples for which each may also be drawn as a dot over the histogram, if that still shows between the dots."""

MAX_DOT_AREA = 1.0
"""Most area that the dots in an average cell may have, as a share of the cell; dots overlap in part."""

PANEL_POINTS = 280
"""Length of a panel's longer side in points of type, roughly."""

RESOLUTION = 200
"""Pixels of the density, and most cells of the histogram, along the longer side."""

COARSEST = 12
"""Fewest cells of the histogram along the longer side."""


@styled
def plot_samples(target: Distribution, samples: Tensor, *, sigma: float = 0.0) -> Figure:
    r"""The exact density p_σ and a histogram of the samples, in one frame and on one colour scale.

    The colour scale is a square root, which shows faint structure, and ends at the exact density's maximum. The cells
    of the histogram are as small as the number of samples allows. Up to 2000 samples are also drawn as dots, unless
    these would hide the histogram. The contours enclose 50, 90 and 99 % of p_σ.

    Arguments:
        samples: `[n, 2]`, data units; rows that are not finite are left out and counted in the title.
        sigma: level of the density, data units; 0 for the data themselves.
    """
    frame = limits(target, sigma)
    points, note = visible(samples, frame)
    figure, ((left, right),) = plane_figure(frame, rows=1, columns=2, extra=0.75 if note else 0.55)
    exact = np.exp(numpy(density_grid(target, frame, sigma=sigma, resolution=RESOLUTION).log_prob))
    cells = _cells(exact, len(samples), frame)
    drawn = _histogram(points, len(samples), frame, cells)
    norm = PowerNorm(0.5, vmin=0, vmax=exact.max())
    left.imshow(exact, extent=frame, cmap=DENSITY_MAP, norm=norm, interpolation="bilinear")
    right.imshow(drawn, extent=frame, cmap=DENSITY_MAP, norm=norm, interpolation="nearest")
    extend = "max" if drawn.max() > exact.max() else "neither"
    bar = ScalarMappable(norm, DENSITY_MAP)
    figure.colorbar(bar, ax=[left, right], label="density (1 / data units²)", aspect=30, pad=0.015, extend=extend)
    left.set_title("exact density" + (f" at $\\sigma$ = {sigma:.3g}" if sigma else "") + ", square-root scale")
    draw_contours(right, target, frame, sigma=sigma)
    area = float(np.clip(2500 / max(len(points), 1), 5, 14))
    if len(samples) <= MAX_DOTS and SAMPLES_PER_CELL * area <= MAX_DOT_AREA * (PANEL_POINTS / cells) ** 2:
        right.scatter(points[:, 0], points[:, 1], s=area, color=ORANGE, edgecolors="white", linewidths=0.4, zorder=3)
    right.set_title(f"{count(len(samples))} samples; {CONTOURS}" + (f"\n{note}" if note else ""), fontsize="medium")
    return figure


def _cells(density: Array, n: int, frame: Limits) -> int:
    """Cells along the frame's longer side, such that n h² E[p] = SAMPLES_PER_CELL for a cell of side h."""
    typical = float(np.square(density).sum() / max(density.sum(), 1e-300))
    side = max(frame.width, frame.height)
    return int(np.clip(side * np.sqrt(n * typical / SAMPLES_PER_CELL), COARSEST, RESOLUTION))


def _histogram(points: Array, n: int, frame: Limits, cells: int) -> Array:
    """The histogram of points as a density, `[rows, columns]` in 1 / data units²; each point has the mass 1 / n."""
    columns, rows = (
        max(2, round(cells * side / max(frame.width, frame.height))) for side in (frame.width, frame.height)
    )
    ends = ((frame.bottom, frame.top), (frame.left, frame.right))
    counts, *_ = np.histogram2d(points[:, 1], points[:, 0], bins=(rows, columns), range=ends)
    return np.asarray(counts * rows * columns / (max(n, 1) * frame.width * frame.height))
