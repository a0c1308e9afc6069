"""Draw the pictures that README and docs show, into docs/images.

    make figures
    make figures ARGS="--run outputs/runs/…"

Without a run every picture comes from the exact scores; with one, those of a trained network are drawn as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from ncsn_lightning import (
    MALA,
    AdaptiveODE,
    Ancestral,
    AnnealedLangevin,
    ConsistentAnnealed,
    Distribution,
    Euler,
    ExactScore,
    Geometric,
    Heun,
    Karras,
    Langevin,
    Multistep,
    Points,
    PredictorCorrector,
    Sampler,
    ScoreTest,
    StochasticHeun,
    TwoGaussians,
    UnderdampedLangevin,
    distributions,
    load_run,
)
from ncsn_lightning.core.randomness import keyed_generator
from ncsn_lightning.plotting import (
    limits,
    plot_filmstrip,
    plot_mode_weights,
    plot_paths,
    plot_samples,
    plot_score_error,
    plot_score_field,
    png,
)
from ncsn_lightning.plotting.score_field import BACKGROUND_MAP
from ncsn_lightning.plotting.space import (
    CONTOURS,
    Limits,
    density_grid,
    draw_contours,
    draw_points,
    frame_axes,
    plane_figure,
)
from ncsn_lightning.plotting.style import BLACK, DENSITY_MAP, VERMILION, WIDTH, new_figure, numpy, styled
from ncsn_lightning.samplers import Prior

FOLDER = Path(__file__).parents[2] / "docs" / "images"
MAX_BYTES = 300_000
NAMES = (
    *("Checkerboard", "TwoGaussians", "EightGaussians", "GridGaussians", "FortyGaussians", "Moons", "SCurve"),
    *("SwissRoll", "TwoSpirals", "Circles", "Rings", "Pinwheel", "FractalTree"),
)


def flower(n: int) -> Tensor:
    """The points of docs/your_points.md, `[n, 2]`."""
    t = 2 * torch.pi * torch.rand(n, 1, dtype=torch.float64, generator=keyed_generator(0, "flower"))
    return (2 + (5 * t).cos()) * torch.cat([t.cos(), t.sin()], dim=-1)


def targets() -> dict[str, Distribution]:
    """All fourteen, by their names on the command line."""
    named = {_snake(name): getattr(distributions, name)() for name in NAMES}
    return {**named, "points": Points(path=flower(2000), bandwidth=0.1)}


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _draw_density(axes: Axes, target: Distribution, frame: Limits, *, sigma: float = 0.0, cmap: Colormap) -> None:
    density = np.exp(numpy(density_grid(target, frame, sigma=sigma).log_prob))
    norm = PowerNorm(0.5, vmin=0, vmax=density.max())
    axes.imshow(density, extent=frame, cmap=cmap, norm=norm, interpolation="bilinear")


@styled
def gallery() -> Figure:
    """Every target's exact density, with samples over the right half of each panel."""
    figure = new_figure(WIDTH * 3.1 / 5, layout="compressed")
    panels = figure.subplots(3, 5).ravel()
    for axes, (name, target) in zip(panels, targets().items(), strict=False):
        frame = _square(limits(target))
        frame_axes(axes, frame)
        _draw_density(axes, target, frame, cmap=DENSITY_MAP)
        samples = target.sample(1500, generator=keyed_generator(0, "gallery"))
        half = samples[samples[:, 0] > (frame.left + frame.right) / 2]
        axes.scatter(*numpy(half).T, s=0.9, color=VERMILION, linewidths=0, alpha=0.8)
        axes.set(xlabel="", ylabel="")
        axes.tick_params(labelsize=7)
        axes.set_title(name, fontsize="small")
    note = panels[-1]
    note.set_axis_off()
    text = "blue: exact density\n(square-root scale)\n\norange: samples,\nright half only\n\naxes in data units"
    note.text(0.05, 0.5, text, transform=note.transAxes, va="center", fontsize=9)
    return figure


def _square(frame: Limits) -> Limits:
    """The smallest square around a frame."""
    x1, x2, half = (frame.left + frame.right) / 2, (frame.bottom + frame.top) / 2, max(frame.width, frame.height) / 2
    return Limits(x1 - half, x1 + half, x2 - half, x2 + half)


@styled
def smoothing() -> Figure:
    """The density p_σ and its score at four levels: how noise builds a road to the data."""
    target = distributions.Checkerboard()
    frame = _square(limits(target, 0.5))
    figure, (row,) = plane_figure(frame, rows=1, columns=4, extra=0.75)
    ticks = torch.linspace(0, 1, 15)[:-1] + 1 / 28
    x1, x2 = torch.meshgrid(frame.left + frame.width * ticks, frame.bottom + frame.height * ticks, indexing="xy")
    where = torch.stack([x1, x2], dim=-1).reshape(-1, 2)
    for axes, sigma in zip(row, (2.0, 0.6, 0.2, 0.05), strict=True):
        _draw_density(axes, target, frame, sigma=sigma, cmap=BACKGROUND_MAP)
        arrows = sigma * target.score(where, sigma)
        length = torch.linalg.vector_norm(arrows, dim=-1, keepdim=True)
        arrows = arrows / length.clamp(min=1e-9) * length.clamp(max=2).sqrt()
        axes.quiver(*numpy(where).T, *numpy(arrows).T, color=BLACK, scale=28, width=0.007, pivot="mid")
        axes.set_title(f"$\\sigma$ = {sigma:g}")
    figure.suptitle(r"density $p_\sigma$ and direction of its score $\nabla\log p_\sigma$", fontsize="medium")
    return figure


@styled
def why_anneal() -> Figure:
    """Two modes of weights .8 and .2: independent samples, plain and annealed Langevin on the exact score."""
    target = distributions.TwoGaussians()
    ladder = Geometric(sigma_min=1.0, sigma_max=20.0, num_levels=10).sigmas
    masses = distributions.TwoGaussians(std=0.0)  # at the last level, 1, its p_σ is the target
    annealed = AnnealedLangevin(base_step=0.05, steps_per_level=100, prior="uniform")
    plain = Langevin(step=0.05, steps_per_level=1000)
    start = 16 * torch.rand(4000, 2, generator=keyed_generator(0, "uniform")) - 8
    generator = keyed_generator(0, "why anneal")
    clouds = {
        "independent samples": target.sample(4000, generator=generator),
        "plain Langevin": plain(masses.score, start, torch.tensor([1.0]), generator=generator),
        "annealed Langevin": annealed(masses.score, start, ladder, generator=generator),
    }
    frame = Limits(-10, 10, -10, 10)
    figure, (row,) = plane_figure(frame, rows=1, columns=3, extra=0.95)
    figure.suptitle(CONTOURS, fontsize="medium")
    for axes, (name, cloud) in zip(row, clouds.items(), strict=True):
        draw_contours(axes, target, frame)
        draw_points(axes, cloud, frame)
        axes.set_title(f"{name}\n{float((cloud.sum(-1) > 0).double().mean()):.0%} in the upper mode", fontsize="medium")
    return figure


def filmstrip() -> Figure:
    """Annealed Langevin on the exact score of the checkerboard."""
    target = distributions.Checkerboard()
    sigmas = Geometric(sigma_min=0.01, sigma_max=target.diameter, num_levels=10).sigmas
    sampler = AnnealedLangevin(step_ratio=0.1, steps_per_level=100, denoise=True)
    start = sampler.start(3000, target, float(sigmas[0]), generator=keyed_generator(0, "start"))
    walk = sampler.trajectory(target.score, start, sigmas, generator=keyed_generator(0, "filmstrip"))
    return plot_filmstrip(target, [start, *walk], sampler.reached(sigmas))


def samplers(prior: Prior, *, steps: int, denoise: bool = True) -> dict[str, Sampler]:
    """Every sampler by its option on the command line; of those that stay at a level, so many steps at each."""
    kept = {"prior": prior, "denoise": denoise}
    return {
        "langevin": Langevin(step=0.05, steps_per_level=10 * steps, prior=prior),
        "annealed_langevin": AnnealedLangevin(step_ratio=0.1, steps_per_level=steps, **kept),
        "underdamped": UnderdampedLangevin(step_ratio=0.5, steps_per_level=steps, **kept),
        "mala": MALA(step_ratio=0.5, steps_per_level=steps, **kept),
        "consistent_annealed": ConsistentAnnealed(step_ratio=0.9, **kept),
        "ancestral": Ancestral(**kept),
        "predictor_corrector": PredictorCorrector(**kept),
        "euler": Euler(**kept),
        "heun": Heun(**kept),
        "multistep": Multistep(**kept),
        "stochastic_heun": StochasticHeun(**kept),
        "adaptive_ode": AdaptiveODE(**kept),
    }


def paths() -> Figure:
    """Six chains of every sampler on the exact score of eight Gaussians, from the same starts."""
    target = distributions.EightGaussians()
    sigmas = Geometric(sigma_min=0.01, sigma_max=target.diameter, num_levels=20).sigmas
    walks = {
        name: list(sampler.walk(ExactScore(target), target, sigmas, n=6, seed=1))
        for name, sampler in samplers("moment_matched", steps=10).items()
    }
    return plot_paths(target, walks)


def mode_weights() -> Figure:
    """The weight of the heavier of two modes against their distance: every sampler on the exact score."""
    separations, n = torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 14.0, 18.0]), 4000
    weights: dict[str, list[float]] = {}
    for separation in separations.tolist():
        target = TwoGaussians(offset=separation / 8**0.5)
        sigmas = Karras(sigma_min=0.1, sigma_max=target.diameter, num_levels=20).sigmas
        for name, sampler in samplers("moment_matched", steps=20).items():
            *_, x = sampler.walk(ExactScore(target), target, sigmas, n=n, seed=0)
            weights.setdefault(name, []).append(_heavier(target, x))
    curves = {name: torch.tensor(values) for name, values in weights.items()}
    return plot_mode_weights(separations, curves, truth=0.8, error=(0.8 * 0.2 / n) ** 0.5)


def _heavier(target: TwoGaussians, x: Tensor) -> float:
    """Mean responsibility of the heavier mode: .8 for samples of the target, however close the modes are."""
    log_odds = (target.weights[0] / target.weights[1]).log() + x.double() @ (target.means[0] - target.means[1])
    return float(log_odds.sigmoid().mean())  # unit variances, and means opposite each other


def trained(folder: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """What a run has learnt."""
    run = load_run(folder)
    ends = {end: run.config["score_test"][end] for end in ("sigma_min", "sigma_max")}
    errors = ScoreTest(distribution=run.distribution, **ends)(run.score)
    start = run.sampler.start(
        10_000, run.distribution, float(run.schedule.sigmas[0]), generator=keyed_generator(0, "start")
    )
    samples = run.sampler(run.score, start, run.schedule.sigmas, generator=keyed_generator(0, "samples"))
    yield "trained_samples", lambda: plot_samples(run.distribution, samples)
    yield "trained_score_field", lambda: plot_score_field(run.distribution, run.score, torch.tensor([0.5, 0.1]))
    yield "trained_score_error", lambda: plot_score_error(errors.sigmas, errors.relative, label="default job")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a run's folder or a checkpoint, for the pictures of a trained network")
    parser.add_argument("--only", nargs="+", help="names of the pictures to draw, instead of all")
    arguments = parser.parse_args()
    drawn = (gallery, smoothing, why_anneal, filmstrip, paths, mode_weights)
    pictures = {function.__name__: function for function in drawn}
    if arguments.run:
        pictures |= dict(trained(arguments.run))
    if arguments.only:
        pictures = {name: pictures[name] for name in arguments.only}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, draw in pictures.items():
        content = png(draw())
        if len(content) >= MAX_BYTES:
            raise SystemExit(f"{name}: {len(content)} bytes; simplify it")
        (FOLDER / f"{name}.png").write_bytes(content)
        print(f"docs/images/{name}.png: {len(content) // 1000} kB")


if __name__ == "__main__":
    main()
