"""Curves against the noise level: score error, loss, schedule and weight, learned weighting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .style import (
    BLACK,
    BLUE,
    GREEN,
    LINES,
    ORANGE,
    PALE,
    SKY,
    VERMILION,
    Array,
    new_figure,
    number,
    numpy,
    sigma_axis,
    styled,
)


@styled
def plot_score_error(
    sigmas: Tensor,
    relative_error: Tensor,
    *,
    stderr: Tensor | None = None,
    others: Mapping[str, Tensor] | None = None,
    label: str = "model",
) -> Figure:
    r"""E‖s_θ − s‖² / E‖s‖² against σ, both axes logarithmic; at 1 the model is no better than the zero score.

    Arguments:
        sigmas: `[L]`, data units, in any order.
        relative_error: `[L]`, dimensionless; NaN leaves a gap, which the legend mentions.
        stderr: standard errors of `relative_error`, `[L]`, drawn as bars of ± 2 standard errors.
        others: further curves `[L]` at the same levels, by their names.
        label: name of the first curve.
    """
    curves = [(label, relative_error), *(others or {}).items()]
    figure = new_figure(3.9, layout="constrained")
    axes = figure.add_subplot()
    order, shown = np.argsort(numpy(sigmas)), []
    for color, (name, errors) in zip(_cycle(len(curves)), curves, strict=True):
        values = np.where(numpy(errors) > 0, numpy(errors), np.nan)
        axes.plot(numpy(sigmas)[order], values[order], "o-", color=color, label=f"{name}: {_mean(errors)}", zorder=3)
        shown.append(values[np.isfinite(values)])
    if stderr is not None:
        values = np.where(numpy(relative_error) > 0, numpy(relative_error), np.nan)
        error_bars(axes, numpy(sigmas), values, 2 * numpy(stderr), color=LINES[0], label="± 2 standard errors")
    sigma_axis(axes, numpy(sigmas))
    _log_errors(axes, np.concatenate(shown))
    axes.set_ylabel("relative score error\n" r"$\mathrm{E}\|s_\theta - s\|^2\,/\;\mathrm{E}\|s\|^2$ (dimensionless)")
    _legend_above(axes)
    return figure


def _legend_above(axes: Axes) -> None:
    """Put the legend where the title would be, so that it covers no curve."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, borderaxespad=0.2, handlelength=1.8, columnspacing=1.5
    )


def _cycle(n: int) -> list[str]:
    """Colours for `n` curves."""
    return [LINES[i % len(LINES)] for i in range(n)]


def _mean(errors: Tensor) -> str:
    """The mean of the finite errors as a text that mentions the others."""
    values = numpy(errors)
    finite = values[np.isfinite(values)]
    missing = len(values) - len(finite)
    mean = f"mean {number(finite.mean())}" if len(finite) else "no finite value"
    return mean + (f" ({missing} of {len(values)} levels not finite)" if missing and len(finite) else "")


def _log_errors(axes: Axes, values: Array) -> None:
    """Make the error axis logarithmic, include 1 in it, and shade what is above; the legend says what that means."""
    axes.set_yscale("log")
    low, high = (values.min(), values.max()) if values.size else (0.1, 1.0)
    axes.set_ylim(min(low, 0.3) / 1.8, max(high * 1.8, 3.0))
    axes.axhline(1, color=BLACK, linewidth=1.0, zorder=2)
    worse = "no better than the zero score"
    axes.axhspan(1, axes.get_ylim()[1], facecolor=PALE, edgecolor=BLACK, linewidth=0, zorder=0, label=worse)
    axes.grid(axis="y")


@styled
def plot_score_split(sigmas: Tensor, gradient: Tensor, divergence_free: Tensor) -> Figure:
    r"""The two parts of the relative score error at each level: left as shares of the error, right by their size.

    Arguments:
        sigmas: `[L]`, data units, in any order.
        gradient: `[L]`, E‖∇φ‖² / E‖s‖², dimensionless; NaN where the grid cannot resolve the level, which the title
            mentions.
        divergence_free: `[L]`, E‖r‖² / E‖s‖², dimensionless; NaN at the same levels.
    """
    order = np.argsort(numpy(sigmas))
    levels, moving, still = (numpy(values)[order] for values in (sigmas, gradient, divergence_free))
    figure = new_figure(3.6, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_shares(left, levels, moving, still)
    missing = int(np.isnan(moving).sum())
    if missing:
        figure.suptitle(f"no value at {missing} of {len(levels)} levels, finer than the grid", fontsize="medium")
    right.plot(
        levels,
        np.where(moving > 0, moving, np.nan),
        "o-",
        color=VERMILION,
        label=r"gradient, $\nabla\varphi$: moves the marginals",
    )
    right.plot(levels, np.where(still > 0, still, np.nan), "o-", color=SKY, label="divergence-free, $r$: does not")
    if (np.concatenate([moving, still]) > 0).any():
        right.set_yscale("log")
    right.set_ylabel(r"$\mathrm{E}\|\cdot\|^2\,/\;\mathrm{E}\|s\|^2$ (dimensionless)")
    right.set_title("its parts")
    right.grid(axis="y")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    for axes in (left, right):
        sigma_axis(axes, _ends(levels))
    return figure


def _draw_shares(axes: Axes, levels: Array, moving: Array, still: Array) -> None:
    """Draw both parts as shares of their sum, stacked in one bar a level."""
    total = np.where(moving + still > 0, moving + still, np.nan)
    place = _bars(levels)
    axes.bar(height=moving / total, color=VERMILION, **place)
    axes.bar(height=still / total, bottom=moving / total, color=SKY, **place)
    axes.set_title("share of the score error")
    axes.set_ylim(0, 1)
    axes.set_ylabel("share (dimensionless)")


def _bars(levels: Array) -> dict[str, Any]:
    """Place and width of bars around increasing levels on a logarithmic axis, nearly as wide as the gaps."""
    step = (levels[-1] / levels[0]) ** (0.45 / max(len(levels) - 1, 1)) if len(levels) > 1 else 1.2
    return {"x": levels / step, "width": levels * (step - 1 / step), "align": "edge", "linewidth": 0}


def _ends(levels: Array) -> Array:
    """The outer ends of the first and of the last bar around levels."""
    bars = _bars(levels)
    return np.array([bars["x"][0], bars["x"][-1] + bars["width"][-1]])


class LossLevels(NamedTuple):
    r"""The σ²-weighted denoising loss of each level and its two parts, all `[L]` and dimensionless.

    Attributes:
        loss: σ² E‖s_θ + z/σ‖².
        minimum: σ² C(σ) = σ² E‖s + z/σ‖², the loss of the exact score s, which is the least possible.
        excess: σ² E‖s_θ − s‖².
        loss_stderr, excess_stderr: standard errors of `loss` and `excess`.
    """

    loss: Tensor
    minimum: Tensor
    excess: Tensor
    loss_stderr: Tensor
    excess_stderr: Tensor


@styled
def plot_loss_levels(sigmas: Tensor, losses: LossLevels) -> Figure:
    r"""One bar a level: left the σ²-weighted denoising loss and the least possible one, right their difference.

    $$\sigma^2\,\mathrm E\|s_\theta + z/\sigma\|^2 = \sigma^2\,\mathrm E\|s_\theta - s\|^2 + \sigma^2 C(\sigma)$$

    Arguments:
        sigmas: `[L]`, data units, in any order.
        losses: the losses at these levels.
    """
    order = np.argsort(numpy(sigmas))
    levels, loss, minimum, excess, loss_stderr, excess_stderr = (numpy(values)[order] for values in (sigmas, *losses))
    figure = new_figure(3.5, layout="constrained")
    left, right = figure.subplots(1, 2)
    place = _bars(levels)
    left.bar(height=loss, color=SKY, label="loss", **place)
    error_bars(left, levels, loss, 2 * loss_stderr, color=BLUE, label="± 2 standard errors")
    left.hlines(
        minimum,
        place["x"],
        place["x"] + place["width"],
        color=BLACK,
        linewidth=1.6,
        label=r"irreducible, $\sigma^2 C(\sigma)$",
        zorder=4,
    )
    left.set_ylabel(r"$\sigma^2$-weighted loss (dimensionless)")
    left.set_title("denoising loss")
    size = np.where(excess > 0, excess, np.nan)
    right.bar(height=size, color=SKY, **place)
    error_bars(right, levels, size, 2 * excess_stderr, color=BLUE, label="± 2 standard errors")
    if np.isfinite(size).any():
        right.set_yscale("log")
        right.set_ylim(np.nanmin(size) / 3, np.nanmax(size + 2 * np.nan_to_num(excess_stderr)) * 1.5)
    right.set_ylabel(r"$\sigma^2\,\mathrm{E}\|s_\theta - s\|^2$ (dimensionless)")
    right.set_title("excess: what is left to learn")
    for axes in (left, right):
        sigma_axis(axes, _ends(levels))
        axes.grid(axis="y")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def error_bars(axes: Axes, x: Array, y: Array, size: Array, *, color: str, label: str) -> None:
    """Draw error bars of the given size on both sides of values, above the curves or bars of the values."""
    axes.errorbar(x, y, np.nan_to_num(size), fmt="none", ecolor=color, elinewidth=1.4, capsize=3, label=label, zorder=3)


@styled
def plot_schedule(sigmas: Tensor, *, sigma_grid: Tensor, weight: Tensor, density: Tensor | None = None) -> Figure:
    r"""Left the ladder of levels; right the effective weight of a level in training, λ(σ) × density of ln σ.

    Each curve on the right is relative to its own maximum. A discrete ladder, whose levels are equally likely in
    training, has no density: its levels are drawn as stems of height λ(σ_i)/L.

    Arguments:
        sigmas: the ladder, `[L]`, data units.
        sigma_grid: levels at which the curves are given, `[m]`, data units, increasing or decreasing.
        weight: λ at `sigma_grid`, `[m]`.
        density: of ln σ in training, at `sigma_grid`, `[m]`; None where the ladder itself is trained on.
    """
    figure = new_figure(3.6, layout="constrained")
    left, right = figure.subplots(1, 2)
    ladder, grid, lam = numpy(sigmas), numpy(sigma_grid), numpy(weight)
    left.plot(np.arange(1, len(ladder) + 1), ladder, "o" if len(ladder) <= 60 else "-", color=BLUE)
    sigma_axis(left, ladder, which="y")
    left.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    left.set_xlim(min(0.5, 1 - 0.03 * len(ladder)), max(len(ladder) + 0.5, 1.03 * len(ladder)))
    left.set_xlabel("level $i$")
    left.grid(axis="y")
    left.set_title(f"ladder, L = {len(ladder)}")
    heights = _draw_density(right, grid, lam, ladder, density)
    right.plot(grid, lam / lam.max(), "--", color=VERMILION, label=r"$\lambda(\sigma)$", zorder=3)
    sigma_axis(right, np.concatenate([grid, ladder]))
    _relative_axis(right, np.concatenate([lam / lam.max(), heights]))
    return figure


def _draw_density(axes: Axes, grid: Array, lam: Array, ladder: Array, density: Tensor | None) -> Array:
    """Draw effective weight and training density relative to their maxima; return all heights drawn."""
    if density is not None:
        values = np.where(numpy(density) > 0, numpy(density), np.nan)  # 0 would be a line down to nothing
        effective = lam * values / np.nanmax(lam * values)
        axes.plot(grid, values / np.nanmax(values), ":", color=GREEN, label=r"density of $\ln\sigma$", zorder=3)
        axes.plot(grid, effective, "-", color=BLUE, linewidth=2.4, label=r"$\lambda(\sigma)\,\times$ density", zorder=2)
        return np.concatenate([effective, values / np.nanmax(values)])
    order = np.argsort(grid)
    log_weight = np.interp(np.log(ladder), np.log(grid[order]), np.log(np.maximum(lam[order], 1e-300)))
    heights = np.exp(log_weight - log_weight.max())
    axes.vlines(ladder, 1e-12, heights, color=BLUE, linewidth=1.0, alpha=0.5)
    axes.plot(ladder, heights, "o", color=BLUE, label=r"$\lambda(\sigma_i)\,/\,L$")
    return np.asarray(heights)


def _relative_axis(axes: Axes, heights: Array) -> None:
    """Make the axis logarithmic, from the maximum to the smallest height, but over six decades at most."""
    positive = heights[heights > 0]
    axes.set_yscale("log")
    axes.set_ylim(min(max(float(positive.min()), 1e-6) / 2, 0.02) if positive.size else 0.02, 2.0)
    axes.set_ylabel("relative to the maximum (dimensionless)")
    axes.grid(axis="y")
    _legend_above(axes)


@styled
def plot_learned_weighting(sigmas: Tensor, u: Tensor, optimum: Tensor) -> Figure:
    r"""The learned u(σ) beside its optimum ln E[σ² e / D], which training on infinite data would reach.

    Arguments:
        sigmas: `[L]`, data units, in any order.
        u: `[L]`, nats.
        optimum: `[L]`, nats, as estimated from the losses; −inf or NaN leaves a gap.
    """
    order = np.argsort(numpy(sigmas))
    figure = new_figure(3.6, layout="constrained")
    axes = figure.add_subplot()
    optima = np.where(np.isfinite(numpy(optimum)), numpy(optimum), np.nan)
    axes.plot(
        numpy(sigmas)[order],
        optima[order],
        "o",
        color=ORANGE,
        markersize=4.5 if len(order) < 60 else 3,
        label=r"optimum, $\ln \mathrm{E}[\sigma^2 e / D]$",
    )
    axes.plot(numpy(sigmas)[order], numpy(u)[order], "-", color=BLUE, label=r"learned, $u(\sigma)$")
    sigma_axis(axes, numpy(sigmas))
    axes.set_ylabel(r"$u$ (nats)")
    axes.set_title("learned weighting")
    axes.grid(axis="y")
    axes.legend(loc="best")
    return figure
