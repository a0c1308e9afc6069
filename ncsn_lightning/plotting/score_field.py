"""The score field: the exact one, the model's, and their difference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from ..distributions.base import Distribution
from .space import Limits, density_grid, limits, mass_levels, pixel_sigma, plane_figure
from .style import DENSITY_MAP, ERROR_MAP, PALE, Array, number, numpy, styled

ScoreFunction = Callable[[Tensor, Tensor], Tensor]
"""A score: a function of points `[*, 2]` and a level, with values `[*, 2]` in 1 / data units."""

ARROW_MAP = ListedColormap(colormaps["plasma"](np.linspace(0, 0.82, 24)), "ncsn_arrows")
BACKGROUND_MAP = ListedColormap(DENSITY_MAP(np.linspace(0, 0.3, 12)), "ncsn_background")
ERROR_STEPS = ListedColormap(ERROR_MAP(np.linspace(0, 1, 20)), "ncsn_error_steps")
ARROWS = 14
"""Cells with an arrow along the longer side."""

PIXELS = 128
"""Pixels of the error along the longer side."""

MASS = 0.999
"""Share of p_σ in the region where the score counts as trained."""

BARS: Any = {"location": "bottom", "pad": 0.012, "aspect": 22}


class Field(NamedTuple):
    """What one row shows, at one level.

    Attributes:
        sigma: the level, in data units.
        background: p_σ relative to its maximum, `[rows, columns]`.
        where: places of the arrows, `[n, 2]`, in data units.
        arrows: σ s at these places, exact and of the model, `[n, 2]`, dimensionless.
        trained: whether each place lies in the region that holds `MASS` of p_σ, `[n]`.
        error: σ‖s_θ − s‖, `[rows, columns]`, dimensionless; NaN outside that region.
        relative: E‖s_θ − s‖² / E‖s‖² over samples of p_σ.
    """

    sigma: float
    background: Array
    where: Array
    arrows: tuple[Array, Array]
    trained: NDArray[np.bool_]
    error: Array
    relative: float


@styled
def plot_score_field(target: Distribution, score: ScoreFunction, sigmas: Tensor) -> Figure:
    r"""One row for each level: the exact score, the model's, and σ‖s_θ − s‖, all in the same frame.

    Arrows show σ·s over p_σ. Their colour is σ‖s‖ on one scale for all rows; their length grows with its square root,
    up to one cell for the longest of a row. Arrows stand on a grid. Where p_σ has structure finer than the grid, a grid
    would miss the score altogether; there each arrow stands at a sample of p_σ, the one of largest ‖s‖ in its cell.
    Outside the region that holds 99.9 % of p_σ no score is trained, so arrows are faded and the error is left out.

    Arguments:
        score: the model, `(x [*, 2], sigma [])` to `[*, 2]`; called without gradients.
        sigmas: levels of the rows, data units, `[L]`, in the order in which they are shown; four fit well.
    """
    frame = limits(target)
    fields = [_field(target, score, sigma, frame) for sigma in sigmas.flatten()]
    figure, grid = plane_figure(frame, rows=len(fields), columns=3, extra=1.35 + 0.2 * len(fields))
    speed = PowerNorm(0.5, 0, max(_longest(field) for field in fields))
    top = _ceiling([field.error[np.isfinite(field.error)] for field in fields], 0.998)
    error = PowerNorm(0.5, 0, top)
    for row, field in zip(grid, fields, strict=True):
        for axes, arrows in zip(row[:2], field.arrows, strict=True):
            _draw_arrows(axes, field, arrows, frame, speed)
        row[2].set_facecolor(PALE)
        shown = np.ma.masked_invalid(field.error)
        row[2].imshow(shown, extent=frame, cmap=ERROR_STEPS, norm=error, interpolation="nearest")
        row[2].set_title(f"relative error {number(field.relative)}", fontsize="medium")
        row[0].set_ylabel(f"$\\sigma$ = {field.sigma:.3g}\n$x_2$ (data units)")
    for axes, title in zip(grid[0], ("exact score", "model", f"difference: {grid[0][2].get_title()}"), strict=True):
        axes.set_title(title)
    _draw_bars(figure, grid, speed, error)
    return figure


def _draw_bars(figure: Figure, grid: list[list[Axes]], speed: Normalize, error: Normalize) -> None:
    """Draw a colour scale below each column: for the arrows, the density behind them, and the error."""
    arrows, model, errors = ([row[column] for row in grid] for column in range(3))
    scales: list[tuple[list[Axes], Normalize, ListedColormap, str]] = [
        (arrows, speed, ARROW_MAP, r"arrows: $\sigma\,\|s\|$ (dimensionless)"),
        (model, Normalize(0, 1), BACKGROUND_MAP, r"background: $p_\sigma\,/\,\max p_\sigma$ (dimensionless)"),
        (errors, error, ERROR_STEPS, r"$\sigma\,\|s_\theta - s\|$ (dimensionless)"),
    ]
    for column, norm, colors, label in scales:
        extend = "neither" if colors is BACKGROUND_MAP else "max"
        mappable, ticks = ScalarMappable(norm, colors), MaxNLocator(4 if column is model else 3)
        figure.colorbar(mappable, ax=column, label=label, extend=extend, ticks=ticks, **BARS)
    note = "Arrows and error: square-root scales. Faded and grey: outside 99.9 % of the mass. "
    note += "The longest arrow of each row fills a cell."
    figure.supxlabel(note, fontsize="small")


def _longest(field: Field) -> float:
    """The σ‖s‖ below which 98 % of the exact arrows in the trained region lie."""
    return _ceiling([np.hypot(*field.arrows[0].T)[field.trained]], 0.98)


def _field(target: Distribution, score: ScoreFunction, sigma: Tensor, frame: Limits) -> Field:
    """Evaluate what a row shows at one level."""
    level = float(sigma)
    grid = density_grid(target, frame, sigma=level, resolution=PIXELS)
    drawn = pixel_sigma(frame, level, PIXELS)
    floor = mass_levels(target, drawn, (MASS,))[0]
    sigma = sigma.to(grid.x)
    where = _places(target, sigma, frame)
    with torch.no_grad():
        truth, model = (
            [s(x, sigma) for x in (grid.x, where, target.noisy_points(level))] for s in (target.score, score)
        )
        seen = [values.double().cpu() >= floor for values in (grid.log_prob, target.log_prob(where, drawn))]
    error = level * torch.linalg.vector_norm((model[0] - truth[0]).double(), dim=-1).cpu()
    return Field(
        sigma=level,
        background=np.exp(numpy(grid.log_prob - grid.log_prob.max())),
        where=numpy(where),
        arrows=(level * numpy(truth[1]), level * numpy(model[1])),
        trained=seen[1].numpy(),
        error=numpy(error.where(seen[0], torch.nan)),
        relative=float((model[2] - truth[2]).double().square().sum() / truth[2].double().square().sum()),
    )


def _places(target: Distribution, sigma: Tensor, frame: Limits) -> Tensor:
    """Places of the arrows, `[n, 2]`: a grid or, where p_σ is finer than the grid, one sample of p_σ in each cell."""
    cell = max(frame.width, frame.height) / ARROWS
    if math.hypot(float(sigma), target.blur) > cell / 2:
        return density_grid(target, frame, resolution=ARROWS).x.reshape(-1, 2)
    x = target.noisy_points(float(sigma))
    column, row = ((x - x.new_tensor([frame.left, frame.bottom])) / cell).floor().long().unbind(-1)
    inside = (x > x.new_tensor([frame.left, frame.bottom])).all(-1) & (x < x.new_tensor([frame.right, frame.top])).all(
        -1
    )
    order = torch.linalg.vector_norm(target.score(x, sigma), dim=-1).argsort(descending=True)
    order = order[inside[order]]
    _, first = np.unique((row * 2 * ARROWS + column)[order].cpu().numpy(), return_index=True)
    return x[order[torch.from_numpy(first).to(x.device)]]


def _ceiling(values: list[Array], share: float) -> float:
    """The end of a colour scale, above this share of the finite values; 1 where there is nothing to show."""
    pooled = np.concatenate([row[np.isfinite(row)].ravel() for row in values])
    top = float(np.quantile(pooled, share)) if pooled.size else 0.0
    return top if top > 0 else 1.0


def _draw_arrows(axes: Axes, field: Field, arrows: Array, frame: Limits, speed: Normalize) -> None:
    """Draw one panel of arrows over p_σ."""
    axes.imshow(field.background, extent=frame, cmap=BACKGROUND_MAP, vmin=0, vmax=1, interpolation="bilinear")
    size = np.hypot(*arrows.T)
    cell = max(frame.width, frame.height) / ARROWS
    length = np.sqrt(np.minimum(size / _longest(field), 1.0))
    steps = 0.95 * cell * (length / np.maximum(size, 1e-30))[:, None] * arrows
    colors = np.array(ARROW_MAP(speed(size)))
    colors[:, 3] = np.where(field.trained, 1.0, 0.25)
    axes.quiver(
        *field.where.T, *steps.T, color=colors, angles="xy", scale_units="xy", scale=1, pivot="mid",
        units="width", width=0.006, headwidth=3.6, headlength=4.2, headaxislength=3.8, minshaft=1.6, minlength=0.5,
        zorder=2,
    )  # fmt: skip
