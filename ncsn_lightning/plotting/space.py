"""Panels that show the plane of the data: one frame for all panels of a figure, densities, contours and points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..distributions.base import Distribution
from .style import BLUE, GREY, WIDTH, Array, new_figure, numpy

CONTOURS = "lines: 50, 90, 99 % of the mass"
"""Text for captions: what the lines of `draw_contours` are."""

X_LABEL = "$x_1$ (data units)"


class Limits(NamedTuple):
    """A rectangle of the data plane, in data units, in the order of matplotlib's `extent`."""

    left: float
    right: float
    bottom: float
    top: float

    @property
    def width(self) -> float:
        """Length along x₁, in data units."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Length along x₂, in data units."""
        return self.top - self.bottom


class DensityGrid(NamedTuple):
    """log p_σ averaged over the pixels of a grid.

    Attributes:
        x: centres of the pixels, `[rows, columns, 2]`, in data units.
        log_prob: `[rows, columns]`, in nats.
    """

    x: Tensor
    log_prob: Tensor


def limits(target: Distribution, sigma: float = 0.0) -> Limits:
    """The frame that holds 99.8 % of p_σ along either axis, padded by 10 %, with sides of at most 5 : 3."""
    points = target.noisy_points(sigma).cpu()
    ends = numpy(torch.quantile(points, points.new_tensor([0.001, 0.999]), dim=0))
    centre, side = ends.mean(axis=0), 1.2 * (ends[1] - ends[0])
    half = np.maximum(side, max(0.6 * float(side.max()), 1e-6)) / 2
    (left, bottom), (right, top) = centre - half, centre + half
    return Limits(float(left), float(right), float(bottom), float(top))


def pixel_sigma(frame: Limits, sigma: float, resolution: int) -> float:
    """√(σ² + h²/12): the level σ with the averaging over a pixel of side h included.

    Drawn at this level instead of σ, structure finer than a pixel stays visible, and hard edges are smooth.
    """
    return math.hypot(sigma, max(frame.width, frame.height) / resolution / math.sqrt(12))


def density_grid(target: Distribution, frame: Limits, *, sigma: float = 0.0, resolution: int = 200) -> DensityGrid:
    """log p_σ on square pixels that fill the frame, `resolution` of them along its longer side."""
    pixel = max(frame.width, frame.height) / resolution
    columns, rows = (max(2, round(side / pixel)) for side in (frame.width, frame.height))
    like = target.noisy_points(sigma)  # in float64 where float32 would merge points
    x1 = frame.left + (torch.arange(columns).to(like) + 0.5) * frame.width / columns
    x2 = frame.bottom + (torch.arange(rows).to(like) + 0.5) * frame.height / rows
    grid = torch.stack(torch.meshgrid(x1, x2, indexing="xy"), dim=-1)
    with torch.no_grad():
        log_prob = target.log_prob(grid.reshape(-1, 2), pixel_sigma(frame, sigma, resolution))
    return DensityGrid(grid, log_prob.reshape(rows, columns).double().cpu())


def mass_levels(target: Distribution, sigma: float, masses: tuple[float, ...]) -> list[float]:
    """The values of log p_σ above which the given shares of p_σ lie (its highest-density regions), in nats."""
    with torch.no_grad():
        log_prob = target.log_prob(target.noisy_points(sigma), sigma).double().cpu()
    quantiles = torch.quantile(log_prob, 1 - torch.tensor(masses, dtype=torch.float64))
    return [float(value) for value in quantiles]


def draw_contours(
    axes: Axes, target: Distribution, frame: Limits, *, sigma: float = 0.0, resolution: int = 160, color: str = GREY
) -> Any:
    """Draw lines around 50, 90 and 99 % of p_σ's mass, but none within 0.3 nats of the peak of a flat density."""
    *levels, peak = mass_levels(target, pixel_sigma(frame, sigma, resolution), (0.99, 0.9, 0.5, 0.0))
    levels = [value for value in levels if value < peak - 0.3] or levels[:1]
    x, log_prob = density_grid(target, frame, sigma=sigma, resolution=resolution)
    x1, x2 = numpy(x[0, :, 0]), numpy(x[:, 0, 1])
    values = numpy(log_prob.clamp(min=levels[0] - 20))
    levels = [value for value in levels if values.min() < value < values.max()]
    if not levels:
        return None
    return axes.contour(x1, x2, values, levels=levels, colors=color, linewidths=0.7, linestyles="solid")


def draw_points(axes: Axes, samples: Tensor, frame: Limits, *, ink: float = 6000.0) -> str:
    """Scatter the finite samples, smaller the more there are; return a note on those not shown, or an empty text.

    Arguments:
        samples: `[n, 2]`, data units; rows with NaN or inf are left out and counted.
        ink: area of all dots together, in square typographic points.
    """
    points, note = visible(samples, frame)
    area = float(np.clip(ink / max(len(points), 1), 0.6, 6))
    axes.scatter(points[:, 0], points[:, 1], s=area, color=BLUE, alpha=0.55, linewidths=0, zorder=2)
    return note


def draw_frame(axes: Axes, frame: Limits) -> None:
    """Draw the frame of another panel as a dashed rectangle."""
    corner = (frame.left, frame.bottom)
    axes.add_patch(Rectangle(corner, frame.width, frame.height, fill=False, edgecolor=GREY, linestyle="--", zorder=3))


def visible(samples: Tensor, frame: Limits) -> tuple[Array, str]:
    """The finite rows of `samples`, and a note on how many are outside the frame or not finite, or an empty text."""
    values = numpy(samples)
    finite = values[np.isfinite(values).all(axis=1)]
    inside = (finite >= (frame.left, frame.bottom)) & (finite <= (frame.right, frame.top))
    outside, dropped = len(finite) - int(inside.all(axis=1).sum()), len(values) - len(finite)
    parts = [f"{count(outside)} outside the frame"] * (outside > 0) + [f"{count(dropped)} not finite"] * (dropped > 0)
    return finite, ", ".join(parts)


def count(n: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{n:,}".replace(",", "\u2009")


def frame_axes(axes: Axes, frame: Limits) -> None:
    """Give a panel the frame, equal aspect, a full box, a few round ticks and its labels.

    Coordinates with many digits, such as latitudes, get fewer ticks.
    """
    axes.set_xlim(frame.left, frame.right)
    axes.set_ylim(frame.bottom, frame.top)
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(True)
    for axis, name in ((axes.xaxis, X_LABEL), (axes.yaxis, "$x_2$ (data units)")):
        far = max(map(abs, frame)) > 20 * max(frame.width, frame.height)
        axis.set_major_locator(MaxNLocator(nbins=3 if far else 5, steps=[1, 2, 5, 10]))
        axis.set_label_text(name)


def plane_figure(
    frame: Limits, *, columns: int, extra: float, rows: int = 1, frames: Sequence[Limits] = ()
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of panels that show one frame, labelled at the outer edge.

    Arguments:
        frame: what the panels show.
        columns: panels in a row.
        extra: height in inches of all that is not a panel: titles, labels, colour bars.
        rows: rows of panels.
        frames: the frame of each row, where they differ; all have the proportions of `frame`. Every row then has ticks
            of its own.
    """
    panel = (WIDTH - 0.8) / columns
    figure = new_figure((len(frames) or rows) * panel * frame.height / frame.width + extra, layout="compressed")
    grid: list[list[Axes]] = figure.subplots(len(frames) or rows, columns, squeeze=False).tolist()
    for row, place in zip(grid, frames or [frame] * rows, strict=True):
        for axes in row:
            frame_axes(axes, place)
            axes.label_outer()
            if frames:
                axes.tick_params(labelbottom=True)
                axes.set_xlabel(X_LABEL)
    return figure, grid
