"""The density of a model beside the exact one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from ..distributions.base import Distribution
from .space import density_grid, limits, plane_figure
from .style import DENSITY_MAP, Array, numpy, styled

DIFFERENCE_MAP = "PuOr_r"
PERCENT = 99.5
"""Share of the values that a colour scale covers."""


@styled
def plot_model_density(
    target: Distribution, log_prob: Callable[[Tensor], Tensor], sigma: float, *, resolution: int = 80
) -> Figure:
    """p_σ, the model's density and their difference, in 1 / data units², over the same frame.

    Arguments:
        log_prob: the model's log-density in nats, `[n, 2]` to `[n]`.
        sigma: the level at which the model's density is compared, in data units.
        resolution: points along the longer side.
    """
    frame = limits(target, sigma)
    points = density_grid(target, frame, sigma=sigma, resolution=resolution).x
    rows, shape = points.reshape(-1, 2).double(), points.shape[:2]
    exact, model = (numpy(values.exp()).reshape(shape) for values in (target.log_prob(rows, sigma), log_prob(rows)))
    figure, grid = plane_figure(frame, rows=1, columns=3, extra=1.3)
    density = Normalize(0, _ceiling(np.stack([exact, model])))
    furthest = _ceiling(np.abs(model - exact))
    difference = Normalize(-furthest, furthest)
    panels: list[tuple[str, Array, Normalize, str | Colormap]] = [
        ("exact", exact, density, DENSITY_MAP),
        ("model", model, density, DENSITY_MAP),
        ("model − exact", model - exact, difference, DIFFERENCE_MAP),
    ]
    for axes, (title, values, norm, colors) in zip(grid[0], panels, strict=True):
        axes.imshow(values, extent=frame, cmap=colors, norm=norm, interpolation="nearest")
        axes.set_title(title)
    bar: Any = {"location": "bottom", "pad": 0.02}
    label = f"density at $\\sigma$ = {sigma:.3g} (1 / data units²)"
    figure.colorbar(ScalarMappable(density, DENSITY_MAP), ax=grid[0][:2], label=label, extend="max", aspect=32, **bar)
    label, mappable = "difference (1 / data units²)", ScalarMappable(difference, DIFFERENCE_MAP)
    figure.colorbar(mappable, ax=grid[0][2], label=label, extend="both", aspect=16, **bar)
    return figure


def _ceiling(values: Array) -> float:
    """The end of a colour scale, above `PERCENT` of the values."""
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, PERCENT)) or float(finite.max()) or 1.0
