"""The score field: exact, as the model has it, and their difference."""

from __future__ import annotations

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
from .space import Limits, density_grid, limits, mass_levels, pixel_sigma, plane_figure, write_note
from .style import DENSITY_MAP, ERROR_MAP, PALE, Array, number, numpy, styled

ScoreFunction = Callable[[Tensor, Tensor], Tensor]
"""A score as the package has it: points `[*, 2]` and a level to `[*, 2]`, in 1 / data units."""

ARROW_MAP = ListedColormap(colormaps["plasma"](np.linspace(0, 0.82, 24)), "ncsn_arrows")
BACKGROUND_MAP = ListedColormap(DENSITY_MAP(np.linspace(0, 0.3, 12)), "ncsn_background")
ERROR_STEPS = ListedColormap(ERROR_MAP(np.linspace(0, 1, 20)), "ncsn_error_steps")
ARROWS = 14
PIXELS = 128
MASS = 0.999


class Field(NamedTuple):
    """What one row shows at one level; vectors times σ, so dimensionless."""

    sigma: float
    background: Array
    where: Array
    arrows: tuple[Array, Array]
    trained: NDArray[np.bool_]
    error: Array
    relative: float


@styled
def plot_score_field(target: Distribution, score: ScoreFunction, sigmas: Tensor) -> Figure:
    r"""One row a level: the exact score, the model's, and σ‖s_θ − s‖, all over the same frame.

    Arrows are σ·s, coloured by σ‖s‖ on one scale for all, over p_σ; their length grows with its square root, up to one
    cell. Outside
    the region that holds 99.9 % of p_σ, where no score is trained, arrows are faded and the error is left out.

    Arguments:
        score: the model, `(x [*, 2], sigma [])` to `[*, 2]`; called without gradients.
        sigmas: levels of the rows, data units, `[L]`, in the order to show (four read well).
    """
    frame = limits(target)
    fields = [_field(target, score, sigma, frame) for sigma in sigmas.flatten()]
    figure, grid = plane_figure(frame, rows=len(fields), columns=3, extra=1.35)
    speed = Normalize(0, _ceiling([np.hypot(*field.arrows[0].T)[field.trained] for field in fields], 0.98))
    top = _ceiling([field.error[np.isfinite(field.error)] for field in fields], 0.998)
    error = PowerNorm(0.5, 0, top)
    for row, field in zip(grid, fields, strict=True):
        for axes, arrows in zip(row[:2], field.arrows, strict=True):
            _draw_arrows(axes, field, arrows, frame, speed)
        _draw_error(row[2], field, frame, error)
        row[0].set_ylabel(f"$\\sigma$ = {field.sigma:.3g}\n$x_2$ (data units)")
    for axes, title in zip(grid[0], ("exact score", "model", "difference"), strict=True):
        axes.set_title(title)
    _draw_bars(figure, grid, speed, error)
    return figure


def _draw_bars(figure: Figure, grid: list[list[Axes]], speed: Normalize, error: Normalize) -> None:
    """One colour scale below the arrows of truth and model, one below the errors."""
    bar: Any = {"location": "bottom", "pad": 0.012, "extend": "max"}
    label = r"$\sigma\,\|s\|$ (dimensionless); faded, grey: outside 99.9 % of $p_\sigma$"
    arrows = [axes for row in grid for axes in row[:2]]
    figure.colorbar(ScalarMappable(speed, ARROW_MAP), ax=arrows, label=label, aspect=32, shrink=0.7, **bar)
    label = r"$\sigma\,\|s_\theta - s\|$ (dimensionless), square root"
    errors, ticks = [row[2] for row in grid], MaxNLocator(3)
    figure.colorbar(ScalarMappable(error, ERROR_STEPS), ax=errors, label=label, aspect=22, ticks=ticks, **bar)


def _field(target: Distribution, score: ScoreFunction, sigma: Tensor, frame: Limits) -> Field:
    level = float(sigma)
    grid = density_grid(target, frame, sigma=level, resolution=PIXELS)
    drawn = pixel_sigma(frame, level, PIXELS)
    floor = mass_levels(target, drawn, (MASS,))[0]
    sigma = sigma.to(grid.x)
    where = density_grid(target, frame, resolution=ARROWS).x.reshape(-1, 2)
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


def _ceiling(values: list[Array], share: float) -> float:
    """The end of a colour scale: all but the largest few values lie below it; 1 where there is nothing to show."""
    pooled = np.concatenate([row[np.isfinite(row)].ravel() for row in values])
    top = float(np.quantile(pooled, share)) if pooled.size else 0.0
    return top if top > 0 else 1.0


def _draw_arrows(axes: Axes, field: Field, arrows: Array, frame: Limits, speed: Normalize) -> None:
    axes.imshow(field.background, extent=frame, cmap=BACKGROUND_MAP, vmin=0, vmax=1, interpolation="bilinear")
    size = np.hypot(*arrows.T)
    cell = max(frame.width, frame.height) / ARROWS
    length = np.sqrt(np.minimum(size / (speed.vmax or 1.0), 1.0))
    steps = 0.95 * cell * (length / np.maximum(size, 1e-30))[:, None] * arrows
    colors = np.array(ARROW_MAP(speed(size)))
    colors[:, 3] = np.where(field.trained, 1.0, 0.25)
    axes.quiver(
        *field.where.T, *steps.T, color=colors, angles="xy", scale_units="xy", scale=1, pivot="mid",
        units="width", width=0.006, headwidth=3.6, headlength=4.2, headaxislength=3.8, minshaft=1.6, minlength=0.5,
        zorder=2,
    )  # fmt: skip


def _draw_error(axes: Axes, field: Field, frame: Limits, norm: Normalize) -> None:
    axes.set_facecolor(PALE)
    axes.imshow(np.ma.masked_invalid(field.error), extent=frame, cmap=ERROR_STEPS, norm=norm, interpolation="nearest")
    write_note(axes, f"relative error on this grid {number(field.relative)}")
