"""Samples beside the density they should come from."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from ..distributions.base import Distribution
from .space import CONTOURS, count, density_grid, draw_contours, draw_points, limits, plane_figure, visible
from .style import DENSITY_MAP, numpy, styled


@styled
def plot_samples(target: Distribution, samples: Tensor, *, sigma: float = 0.0) -> Figure:
    r"""The exact density p_σ as an image, and the samples over its contours, in one frame.

    The colour scale is a square root, so that faint structure shows. The contours enclose 50, 90 and 99 % of p_σ.

    Arguments:
        samples: `[n, 2]`, data units; rows that are not finite are left out and counted in the title.
        sigma: level of the density, data units; 0 for the data themselves.
    """
    frame = limits(target, sigma)
    _, note = visible(samples, frame)
    figure, ((left, right),) = plane_figure(frame, rows=1, columns=2, extra=0.75 if note else 0.55)
    density = np.exp(numpy(density_grid(target, frame, sigma=sigma).log_prob))
    image = left.imshow(
        density,
        extent=frame,
        cmap=DENSITY_MAP,
        norm=PowerNorm(0.5, vmin=0, vmax=density.max()),
        interpolation="bilinear",
    )
    figure.colorbar(image, ax=[left, right], label="density (1 / data units²)", aspect=30, pad=0.015)
    left.set_title("exact density" + (f" at $\\sigma$ = {sigma:.3g}" if sigma else "") + ", square-root scale")
    draw_contours(right, target, frame, sigma=sigma)
    draw_points(right, samples, frame, ink=14000.0)
    right.set_title(f"{count(len(samples))} samples; {CONTOURS}" + (f"\n{note}" if note else ""), fontsize="medium")
    return figure
