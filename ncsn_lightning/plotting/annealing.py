"""Pictures of the annealed walk from the prior to the data: a filmstrip and an animation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..distributions.base import Distribution
from .space import (
    CONTOURS,
    Limits,
    draw_contours,
    draw_frame,
    draw_points,
    frame_axes,
    limits,
    plane_figure,
)
from .style import VERMILION, indexed, new_figure, styled

MAX_BYTES = 3_000_000
"""Largest size of an animation."""


@styled
def plot_filmstrip(target: Distribution, states: Sequence[Tensor], levels: Tensor) -> Figure:
    """The samples from the prior and after evenly spaced levels, over the exact contours of p_σ.

    More than five states take two rows, each with a frame that fits its first cloud. A rectangle in the upper row shows
    the frame of the lower one.

    Arguments:
        states: L + 1 clouds `[n, 2]`, data units: the prior first, then one after each level.
        levels: `[L + 1]`, data units: the level that each state follows; 0 once denoised.
    """
    sigmas = _paired(states, levels)
    chosen = _evenly(len(states))
    columns = len(chosen) if len(chosen) <= 5 else len(chosen) // 2
    rows = [chosen[i : i + columns] for i in range(0, len(chosen), columns)]
    frames = _row_limits(target, [max(sigmas[index] for index in row) for row in rows])
    figure, grid = plane_figure(frames[0], columns=columns, extra=0.3 + 0.8 * len(rows), frames=frames)
    figure.suptitle(CONTOURS + ("; dashed: the lower row's frame" if len(rows) > 1 else ""), fontsize="medium")
    engine: Any = figure.get_layout_engine()
    engine.set(h_pad=0.1)
    for row, panels, frame in zip(rows, grid, frames, strict=True):
        for index, axes in zip(row, panels, strict=True):
            draw_contours(axes, target, frame, sigma=sigmas[index], color=VERMILION)
            note = draw_points(axes, states[index], frame)
            axes.set_title(_caption(index, sigmas[index]) + (f"\n{note}" if note else ""), fontsize="medium")
            if frame is not frames[-1]:
                draw_frame(axes, frames[-1])
    return figure


def _evenly(n: int) -> list[int]:
    """Indices of the states to show: the first one, and 5 or 7 that are evenly spaced up to the last one."""
    if n <= 5:
        return list(range(n))
    panels = max((8, 6), key=lambda panels: (panels - 2) * ((n - 2) // (panels - 2)))
    distance = (n - 2) // (panels - 2)
    return [0, *range(n - 1 - distance * (panels - 2), n, distance)]


def _row_limits(target: Distribution, sigmas: Sequence[float]) -> list[Limits]:
    """A frame for each row, around the bulk of its widest cloud, but never so wide that the data become tiny."""
    *upper, last = sigmas
    lower = limits(target, min(last, 0.3 * target.sigma_data))
    return [*(_scaled(lower, limits(target, min(0.5 * sigma, 3 * target.sigma_data))) for sigma in upper), lower]


def _scaled(frame: Limits, around: Limits) -> Limits:
    """The frame, enlarged about its centre in its own proportions until it is as wide and as high as another."""
    factor = max(around.width / frame.width, around.height / frame.height, 1.0)
    x1, x2 = (frame.left + frame.right) / 2, (frame.bottom + frame.top) / 2
    half = factor * frame.width / 2, factor * frame.height / 2
    return Limits(x1 - half[0], x1 + half[0], x2 - half[1], x2 + half[1])


@styled
def animate_annealing(
    target: Distribution, states: Sequence[Tensor], levels: Tensor, *, max_frames: int = 60, max_points: int = 1500
) -> bytes:
    """The walk as a GIF that loops, 960 pixels wide, with a pause of 1.5 s at its end.

    Arguments:
        states: L + 1 clouds `[n, 2]`, data units: the prior first, then one after each level.
        levels: `[L + 1]`, data units: the level that each state follows; 0 once denoised.
        max_frames: at most this many of the states, evenly spaced, are frames.
        max_points: at most this many of the samples, the first ones, are drawn.

    Returns:
        the bytes of a file of less than 3 MB.

    Raises:
        ValueError: the file would be larger even with few colours.
    """
    sigmas = _paired(states, levels)
    frame = _walk_limits(target, sigmas)
    chosen = _spread(len(states), max_frames)
    images = [_frame(target, states[i][:max_points], sigmas[i], frame, _caption(i, sigmas[i])) for i in chosen]
    pause = int(np.clip(5000 / len(images), 70, 400))
    durations = [pause] * (len(images) - 1) + [1500]
    for colors in (48, 24, 12, 6):
        encoded = _encode(images, durations, colors)
        if len(encoded) < MAX_BYTES:
            return encoded
    raise ValueError(
        f"{len(images)} frames of {max_points} points exceed {MAX_BYTES} bytes: lower max_frames or max_points"
    )


def _paired(states: Sequence[Tensor], levels: Tensor) -> list[float]:
    """The level of each state as a float; raises a ValueError where their numbers differ."""
    if len(states) != len(levels):
        raise ValueError(f"states: {len(states)} clouds for {len(levels)} levels; give the prior and one a level")
    return [float(level) for level in levels]


def _spread(states: int, chosen: int) -> list[int]:
    """Indices of at most `chosen` states, evenly spaced, the first and the last among them."""
    return [round(index) for index in np.linspace(0, states - 1, min(states, chosen)).tolist()]


def _walk_limits(target: Distribution, sigmas: Sequence[float]) -> Limits:
    """The frame of a walk: it holds the data, and as much of the prior as leaves the data large."""
    return limits(target, min(max(sigmas), 0.3 * target.sigma_data))


def _caption(index: int, sigma: float) -> str:
    """The title of a state: its level, or that it is the prior."""
    return "prior" if index == 0 else f"$\\sigma$ = {sigma:.3g}"


def _frame(target: Distribution, state: Tensor, sigma: float, frame: Limits, caption: str) -> Image.Image:
    """One frame, 960 pixels wide. It has no layout engine, which would move the panel from frame to frame."""
    width, left, right, bottom, top = 4.8, 0.68, 0.12, 0.58, 0.36
    panel = width - left - right
    height = panel * frame.height / frame.width + bottom + top
    figure = new_figure(height, width=width, layout=None)
    axes = figure.add_axes((left / width, bottom / height, panel / width, 1 - (bottom + top) / height))
    frame_axes(axes, frame)
    draw_contours(axes, target, frame, sigma=sigma, resolution=100, color=VERMILION)
    note = draw_points(axes, state, frame, ink=9000.0)
    axes.set_title(f"{caption}; {note}" if note else caption)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="raw", dpi=200)
    pixels = np.frombuffer(buffer.getvalue(), np.uint8).reshape(-1, round(200 * width), 4)
    return Image.fromarray(pixels[..., :3].copy())


def _encode(images: Sequence[Image.Image], durations: list[int], colors: int) -> bytes:
    """Encode a GIF with one palette, which is taken from the first, middle and last frame."""
    width, height = images[0].size
    sheet = Image.new("RGB", (width, 3 * height))
    for place, index in enumerate((0, len(images) // 2, len(images) - 1)):
        sheet.paste(images[index], (0, place * height))
    palette = indexed(sheet, colors)
    first, *rest = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images)
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0)
    return buffer.getvalue()
