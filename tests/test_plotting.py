"""Figures show what they are given: drawn data are compared with closed forms of a Gaussian target."""

from __future__ import annotations

import gc
import io
import math
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.quiver import Quiver
from PIL import Image
from torch import Tensor

from ncsn_lightning import Checkerboard, TwoGaussians
from ncsn_lightning.distributions.base import Distribution
from ncsn_lightning.plotting import (
    Bar,
    CostQuality,
    Limits,
    LossLevels,
    animate_annealing,
    limits,
    plot_chain_distances,
    plot_cost_quality,
    plot_filmstrip,
    plot_learned_weighting,
    plot_loss_levels,
    plot_mode_weights,
    plot_model_density,
    plot_paths,
    plot_samples,
    plot_schedule,
    plot_score_error,
    plot_score_field,
    plot_score_split,
    plot_shares,
    png,
    rendered,
)
from ncsn_lightning.plotting.samples import SAMPLES_PER_CELL
from ncsn_lightning.plotting.space import density_grid, frame_axes, mass_levels, pixel_sigma

STD = 0.5
MEAN = (3.0, -1.0)


class Gaussian(Distribution):
    """N(MEAN, STD² I): every quantity of a figure in closed form."""

    def __init__(self) -> None:
        mean = torch.tensor(MEAN, dtype=torch.float64)
        super().__init__(mean=mean, covariance=STD**2 * torch.eye(2, dtype=torch.float64), scale=STD, blur=STD)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.tensor(MEAN) + STD * torch.randn(n, 2, generator=generator)

    def _log_prob(self, x: Tensor, sigma: Tensor) -> Tensor:
        variance = STD**2 + sigma**2
        return -(x - self.mean).square().sum(-1) / (2 * variance) - torch.log(2 * math.pi * variance)


@pytest.fixture(scope="module")
def target() -> Gaussian:
    return Gaussian()


@pytest.fixture
def samples(target: Gaussian) -> Tensor:
    return target.sample(500, generator=torch.Generator().manual_seed(1))


def walk(target: Gaussian, levels: int) -> tuple[list[Tensor], Tensor]:
    """L + 1 clouds that shrink with the level, and the level of each."""
    sigmas = torch.logspace(0.5, -2, levels)
    clouds = [target.sample(300, generator=torch.Generator().manual_seed(i)) for i in range(levels + 1)]
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(99))
    followed = torch.cat([sigmas[:1], sigmas])
    return [x + s * noise for x, s in zip(clouds, followed, strict=True)], followed


def spatial(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_aspect() == 1.0]


def scattered(axes: Axes) -> np.ndarray:
    (points,) = (artist for artist in axes.collections if type(artist) is PathCollection)
    return np.asarray(points.get_offsets())


def texts(axes: Axes) -> str:
    return " ".join([axes.get_title(), *(text.get_text() for text in axes.texts)])


def every_figure(target: Gaussian) -> dict[str, Figure]:
    states, levels = walk(target, 10)
    sigmas = levels[1:]
    grid = torch.logspace(0.5, -2, 100)
    error, ones = torch.logspace(-3, -1, 10), torch.ones(10)
    score = target.score
    return {
        "samples": plot_samples(target, states[-1], sigma=0.1),
        "field": plot_score_field(target, lambda x, sigma: 0.9 * score(x, sigma), sigmas[::3]),
        "error": plot_score_error(sigmas, error, stderr=0.1 * error, others={"other": 2 * error}),
        "filmstrip": plot_filmstrip(target, states, levels),
        "split": plot_score_split(sigmas, error, 2 * error),
        "model": plot_model_density(target, lambda x: target.log_prob(x, 0.2), 0.1, resolution=40),
        "loss": plot_loss_levels(sigmas, LossLevels(ones + error, ones, error, 0.1 * ones, 0.1 * error)),
        "ladder": plot_schedule(sigmas, sigma_grid=grid, weight=grid**2),
        "density": plot_schedule(sigmas, sigma_grid=grid, weight=grid**2, density=torch.exp(-(grid.log() ** 2))),
        "learned": plot_learned_weighting(sigmas, error, error),
    }


@pytest.fixture(scope="module")
def figures(target: Gaussian) -> dict[str, Figure]:
    return every_figure(target)


NAMES = ["samples", "field", "error", "filmstrip", "split", "model", "loss", "ladder", "density", "learned"]


@pytest.mark.parametrize("name", NAMES)
def test_axes_are_labelled_with_units_and_the_file_is_small(figures: dict[str, Figure], name: str) -> None:
    figure = figures[name]
    data = png(figure)
    assert len(data) < 300_000
    assert Image.open(io.BytesIO(data)).width == 1870
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if any(label.get_visible() and label.get_text() for label in axis.get_ticklabels()):
                label = axis.get_label_text()
                assert any(unit in label for unit in ("data units", "dimensionless", "nats", "level $i$")), label


@pytest.mark.parametrize("name", ["samples", "field", "filmstrip"])
def test_spatial_panels_share_limits_and_have_equal_aspect(figures: dict[str, Figure], name: str) -> None:
    panels = spatial(figures[name])
    assert len(panels) == {"samples": 2, "field": 12, "filmstrip": 6}[name]
    frames = [(*axes.get_xlim(), *axes.get_ylim()) for axes in panels]
    assert len(set(frames)) == (2 if name == "filmstrip" else 1)  # a frame for each row of the filmstrip
    assert {round((right - left) / (top - bottom), 6) for left, right, bottom, top in frames} == {
        round((frames[0][1] - frames[0][0]) / (frames[0][3] - frames[0][2]), 6)
    }
    png(figures[name])
    boxes = [axes.get_position() for axes in panels]
    assert np.ptp([box.width for box in boxes]) < 1e-3
    assert np.ptp([box.height for box in boxes]) < 1e-3


def test_limits_hold_the_target_at_any_place_and_extent(target: Gaussian) -> None:
    frame = limits(target)
    for low, high, centre in ((frame.left, frame.right, MEAN[0]), (frame.bottom, frame.top, MEAN[1])):
        assert (low + high) / 2 == pytest.approx(centre, abs=0.3 * STD)
        assert 3 * STD < (high - low) / 2 < 4.4 * STD
    assert limits(target, 2.0).width / frame.width == pytest.approx(math.hypot(STD, 2) / STD, rel=0.1)


@pytest.mark.parametrize(
    ("frame", "most"),
    [(Limits(-2.5, 2.5, -2, 2), 6), (Limits(8.53, 8.55, 47.36, 47.38), 4), (Limits(3e5, 3e5 + 7, 5.4e6, 5.4e6 + 9), 4)],
)
def test_coordinates_of_many_digits_have_few_ticks(frame: Limits, most: int) -> None:
    axes = Figure().add_subplot()
    frame_axes(axes, frame)
    for ticks, low, high in (
        (axes.get_xticks(), frame.left, frame.right),
        (axes.get_yticks(), frame.bottom, frame.top),
    ):
        assert 2 <= sum(low <= tick <= high for tick in ticks) <= most


def test_contour_levels_are_the_closed_form(target: Gaussian) -> None:
    """The region of a plane Gaussian that holds the share m ends at density (1 − m) / (2πv)."""
    for mass in (0.99, 0.9, 0.5):
        expected = math.log((1 - mass) / (2 * math.pi * (STD**2 + 0.3**2)))
        standard_error = math.sqrt(mass / (1 - mass) / 4096)
        assert mass_levels(target, 0.3, (mass,)) == [pytest.approx(expected, abs=4 * standard_error)]


def test_samples_figure_shows_the_density_and_the_points(target: Gaussian, samples: Tensor) -> None:
    figure = plot_samples(target, samples)
    left, right = spatial(figure)
    np.testing.assert_allclose(scattered(right), samples.numpy())
    frame = limits(target)
    variance = pixel_sigma(frame, 0.0, 200) ** 2 + STD**2
    squared = (density_grid(target, frame).x - torch.tensor(MEAN)).square().sum(-1).double()
    expected = torch.exp(-squared / (2 * variance)) / (2 * math.pi * variance)
    np.testing.assert_allclose(left.images[0].get_array(), expected.numpy(), rtol=1e-4, atol=1e-7)
    assert left.images[0].get_extent() == list(frame)
    assert len([artist for artist in right.collections if isinstance(artist, ContourSet)]) == 1
    low, high = torch.tensor([[frame.left, frame.bottom], [frame.right, frame.top]])
    outside = int(((samples < low) | (samples > high)).any(1).sum())
    assert right.get_title() == f"500 samples; lines: 50, 90, 99 % of the mass\n{outside} outside the frame"


@pytest.mark.parametrize(("n", "drawn"), [(300, True), (2000, True), (40_000, False)])
def test_the_histogram_of_samples_is_a_density_on_the_exact_ones_scale(target: Gaussian, n: int, drawn: bool) -> None:
    x = target.sample(n, generator=torch.Generator().manual_seed(2))
    left, right = spatial(plot_samples(target, x))
    (exact,), (histogram,) = left.images, right.images
    frame, density = limits(target), np.asarray(histogram.get_array())
    pixel = frame.width * frame.height / density.size
    inside = (x > torch.tensor([frame.left, frame.bottom])) & (x < torch.tensor([frame.right, frame.top]))
    assert density.sum() * pixel == pytest.approx(inside.all(1).double().mean())
    assert histogram.norm is exact.norm
    assert histogram.get_extent() == exact.get_extent()
    at_the_mean = density[
        density.shape[0] // 2, density.shape[1] // 2
    ]  # 1 / (2π STD²), of at least SAMPLES_PER_CELL samples
    assert at_the_mean == pytest.approx(1 / (2 * math.pi * STD**2), rel=4 / math.sqrt(SAMPLES_PER_CELL))
    assert any(type(artist) is PathCollection for artist in right.collections) == drawn


def test_points_never_hide_the_histogram() -> None:
    """Two far modes fill a small part of the frame, where 2000 points would be two spots; 500 are not."""
    target = TwoGaussians()
    for n, drawn in {500: True, 2000: False}.items():
        x = target.sample(n, generator=torch.Generator().manual_seed(2))
        right = spatial(plot_samples(target, x))[1]
        assert any(type(artist) is PathCollection for artist in right.collections) == drawn


def test_samples_that_pile_up_end_above_the_scale(target: Gaussian) -> None:
    figure = plot_samples(target, torch.tensor(MEAN).expand(3000, 2))
    density = spatial(figure)[1].images[0]
    assert density.get_array().max() > density.norm.vmax
    assert figure.axes[2]._colorbar.extend == "max"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "begin"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_are_rendered_in_every_format(kind: str, begin: bytes, figures: dict[str, Figure]) -> None:
    files = rendered(figures["error"], [kind])  # type: ignore[list-item]
    assert files.keys() == {"png", kind}
    assert files[kind].startswith(begin)  # type: ignore[index]


def test_image_rows_run_upwards() -> None:
    grid = density_grid(Gaussian(), limits(Gaussian()))
    assert (grid.x[1:, :, 1] > grid.x[:-1, :, 1]).all()
    assert (grid.x[:, 1:, 0] > grid.x[:, :-1, 0]).all()


def test_what_is_not_seen_is_said(target: Gaussian) -> None:
    frame = limits(target)
    inside = torch.tensor(MEAN).expand(500, 2).clone()
    inside[:3, 0] = torch.tensor([math.nan, math.inf, -math.inf])
    inside[3:10, 1] = frame.top + 1e3
    right = spatial(plot_samples(target, inside))[1]
    assert "7 outside the frame, 3 not finite" in right.get_title()
    assert len(scattered(right)) == 497
    states = [inside] * 3
    assert "7 outside the frame, 3 not finite" in texts(spatial(plot_filmstrip(target, states, torch.ones(3)))[2])


def test_no_finite_sample_is_no_crash(target: Gaussian) -> None:
    figure = plot_samples(target, torch.full((20, 2), math.nan))
    assert "20 not finite" in spatial(figure)[1].get_title()
    png(figure)


def test_score_field_shows_truth_model_and_error(target: Gaussian) -> None:
    """A model of 0.9 s: the same directions, σ‖s_θ − s‖ = 0.1 σ‖s‖, a relative error of 0.01 at every level."""
    figure = plot_score_field(target, lambda x, sigma: 0.9 * target.score(x, sigma), torch.tensor([1.0, 0.1]))
    grid = np.array(spatial(figure)).reshape(2, 3)
    frame = limits(target)
    for row, sigma in zip(grid, (1.0, 0.1), strict=True):
        truth, model = (next(c for c in axes.collections if isinstance(c, Quiver)) for axes in row[:2])
        inward = np.array(MEAN) - truth.XY
        arrows = np.stack([truth.U, truth.V], -1)
        cosine = (arrows * inward).sum(-1) / np.linalg.norm(arrows, axis=-1) / np.linalg.norm(inward, axis=-1)
        np.testing.assert_allclose(cosine, 1, atol=1e-4)
        assert np.all(np.hypot(model.U, model.V) <= np.hypot(truth.U, truth.V) + 1e-9)
        assert np.hypot(truth.U, truth.V).max() < 1.01 * frame.width / 13
        shown = row[2].images[0].get_array()
        distance = (density_grid(target, frame, resolution=max(shown.shape)).x - torch.tensor(MEAN)).norm(dim=-1)
        assert distance.shape == shown.shape
        expected = 0.1 * sigma * distance.numpy() / (STD**2 + sigma**2)
        np.testing.assert_allclose(shown.compressed(), expected[~shown.mask], rtol=1e-3, atol=1e-6)
        if sigma == 0.1:  # the region that holds 99.9 % of the mass is a disc
            radius = math.sqrt(2 * math.log(1000) * (STD**2 + sigma**2))
            assert np.all(shown.mask[distance > 1.12 * radius])
            assert not np.any(shown.mask[distance < 0.88 * radius])
        assert "relative error 0.01" in row[2].get_title()
        assert not row[2].texts
    assert "Faded and grey: outside 99.9 %" in figure.get_supxlabel()
    assert any(r"background: $p_\sigma" in axes.get_xlabel() for axes in figure.axes)


def test_arrows_stand_where_a_fine_density_is() -> None:
    """At σ = .01 the score of a board is 0 but at its edges, which no grid of arrows meets."""
    board = Checkerboard()
    figure = plot_score_field(board, board.score, torch.tensor([0.01]))
    (arrows,) = (c for c in spatial(figure)[0].collections if isinstance(c, Quiver))
    lengths = np.hypot(arrows.U, arrows.V)
    to_an_edge = np.abs(arrows.XY - arrows.XY.round()).min(axis=1)
    frame = limits(board)
    assert (to_an_edge < 0.05).mean() > 0.5
    assert lengths.max() == pytest.approx(0.95 * frame.width / 14, rel=0.01)
    assert np.median(lengths[to_an_edge < 0.03]) > 0.3 * frame.width / 14
    cells = np.floor((arrows.XY - [frame.left, frame.bottom]) / (frame.width / 14))
    assert len(np.unique(cells, axis=0)) == len(cells)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_score_field_of_a_dead_or_broken_model(target: Gaussian, value: float) -> None:
    figure = plot_score_field(target, lambda x, sigma: torch.full_like(x, value), torch.tensor([0.5]))
    assert ("nan" if math.isnan(value) else "relative error 1") in texts(spatial(figure)[2])
    png(figure)


def test_score_field_of_the_truth_itself(target: Gaussian) -> None:
    figure = plot_score_field(target, target.score, torch.tensor([0.5]))
    assert float(spatial(figure)[2].images[0].get_array().max()) == 0
    png(figure)


ZERO = "no better than the zero score"


def test_score_error_draws_its_numbers_and_their_mean() -> None:
    sigmas, error = torch.tensor([2.0, 0.5, 0.01]), torch.tensor([0.01, math.nan, 0.03])
    figure = plot_score_error(sigmas, error, others={"other": torch.tensor([2.0, 4.0, 6.0])})
    (axes,) = figure.axes
    first, second, one = axes.get_lines()
    np.testing.assert_allclose(first.get_xdata(), [0.01, 0.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(first.get_ydata(), [0.03, math.nan, 0.01], rtol=1e-6)
    np.testing.assert_allclose(second.get_ydata(), [6.0, 4.0, 2.0])
    assert set(np.asarray(one.get_ydata())) == {1.0}
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["model: mean 0.02 (1 of 3 levels not finite)", "other: mean 4", ZERO]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_ylim()[0] < 0.01
    assert axes.get_ylim()[1] > 6


def test_score_error_has_bars_of_two_standard_errors() -> None:
    sigmas, error = torch.tensor([2.0, 0.5]), torch.tensor([0.01, 0.03])
    (axes,) = plot_score_error(sigmas, error, stderr=torch.tensor([0.001, 0.002])).axes
    (bars,) = axes.containers
    assert bars.lines[2][0].get_segments()[0][:, 1] == pytest.approx([0.008, 0.012])
    assert bars.lines[2][0].get_segments()[1][:, 1] == pytest.approx([0.026, 0.034])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "model: mean 0.02",
        ZERO,
        "± 2 standard errors",
    ]


@pytest.mark.parametrize("value", [math.nan, 0.0])
def test_score_error_without_a_drawable_number(value: float) -> None:
    png(plot_score_error(torch.tensor([1.0, 0.1]), torch.full((2,), value)))


def test_filmstrip_shows_first_and_last_and_captions_levels(target: Gaussian) -> None:
    states, levels = walk(target, 10)
    panels = spatial(plot_filmstrip(target, states, levels))
    np.testing.assert_allclose(scattered(panels[0]), states[0].numpy())
    np.testing.assert_allclose(scattered(panels[-1]), states[-1].numpy())
    assert panels[0].get_title().startswith("prior\n")
    assert panels[-1].get_title() == "$\\sigma$ = 0.01"


@pytest.mark.parametrize(("levels", "panels"), [(1, 2), (4, 5), (5, 6), (6, 6), (7, 8), (11, 6), (50, 8)])
def test_filmstrip_fills_its_grid(target: Gaussian, levels: int, panels: int) -> None:
    assert len(plot_filmstrip(target, *walk(target, levels)).axes) == panels


def test_filmstrip_shows_levels_at_even_distances(target: Gaussian) -> None:
    states, levels = walk(target, 11)
    panels = spatial(plot_filmstrip(target, states, levels))
    shown = [next(i for i, x in enumerate(states) if np.allclose(scattered(axes), x)) for axes in panels]
    assert shown == [0, 3, 5, 7, 9, 11]
    assert any(isinstance(patch, Rectangle) and patch.get_linestyle() == "--" for patch in panels[0].patches)
    upper, lower = (limits_of(panels[index]) for index in (0, 3))
    assert upper.width > lower.width
    for x, frame in ((states[3], upper), (states[11], lower)):  # what a row begins and ends with is in its frame
        inside = (x > torch.tensor([frame.left, frame.bottom])) & (x < torch.tensor([frame.right, frame.top]))
        assert inside.all(1).double().mean() > 0.9


def limits_of(axes: Axes) -> Limits:
    return Limits(*axes.get_xlim(), *axes.get_ylim())


@pytest.mark.parametrize("show", [plot_filmstrip, animate_annealing])
def test_states_without_the_prior_are_refused(target: Gaussian, show: object) -> None:
    states, levels = walk(target, 4)
    with pytest.raises(ValueError, match="states: 4 clouds for 5 levels"):
        show(target, states[1:], levels)  # type: ignore[operator]


def test_animation_is_a_small_gif_that_holds_its_end(target: Gaussian) -> None:
    states, levels = walk(target, 80)
    data = animate_annealing(target, states, levels, max_frames=20)
    assert data.startswith(b"GIF89a")
    assert len(data) < 3_000_000
    image = Image.open(io.BytesIO(data))
    assert image.n_frames == 20
    assert image.width == 960
    durations = []
    for index in range(image.n_frames):
        image.seek(index)
        durations.append(image.info["duration"])
    assert durations[-1] == 1500
    assert set(durations[:-1]) == {250}
    assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


def test_loss_levels_draw_the_gap() -> None:
    """A bar a level with the error of its estimate, and no line through them."""
    sigmas, minimum = torch.tensor([1.0, 0.1, 0.01]), torch.tensor([0.5, 1.5, 2.0])
    excess, noise = torch.tensor([0.1, 0.0, 0.001]), torch.tensor([0.01, 0.02, 0.03])
    figure = plot_loss_levels(sigmas, LossLevels(minimum + excess, minimum, excess, noise, 0.1 * excess))
    left, right = figure.axes
    np.testing.assert_allclose([bar.get_height() for bar in left.patches], [2.001, 1.5, 0.6], rtol=1e-6)
    np.testing.assert_allclose([bar.get_height() for bar in right.patches], [0.001, math.nan, 0.1], rtol=1e-6)
    for bar, sigma in zip(left.patches, [0.01, 0.1, 1.0], strict=True):
        assert bar.get_x() * (bar.get_x() + bar.get_width()) == pytest.approx(sigma**2, rel=1e-5)
    errors, floor = (c.get_segments() for c in left.collections)
    np.testing.assert_allclose([np.ptp(segment[:, 1]) for segment in errors], [0.12, 0.08, 0.04], rtol=1e-5)
    np.testing.assert_allclose([segment[0, 1] for segment in floor], [2.0, 1.5, 0.5])
    assert all(line.get_linestyle() == "None" for axes in (left, right) for line in axes.get_lines())
    png(figure)


def test_schedule_draws_the_effective_weight() -> None:
    sigmas, grid = torch.logspace(0, -2, 5), torch.logspace(0, -2, 101)
    density = torch.exp(-((grid.log() + 1) ** 2))
    figure = plot_schedule(sigmas, sigma_grid=grid, weight=grid, density=density)
    left, right = figure.axes
    np.testing.assert_allclose(left.get_lines()[0].get_ydata(), sigmas.numpy(), rtol=1e-6)
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in right.get_lines()}
    product = (grid * density).numpy()
    np.testing.assert_allclose(drawn[r"$\lambda(\sigma)\,\times$ density"], product / product.max(), rtol=1e-5)
    np.testing.assert_allclose(drawn[r"$\lambda(\sigma)$"], grid.numpy(), rtol=1e-6)


def test_a_density_that_ends_is_no_line_down_to_nothing() -> None:
    """Rounding may leave the ladder's first level outside the range of the density."""
    grid = torch.logspace(0, -2, 11)
    density = torch.ones(11).index_fill(0, torch.tensor([0]), 0.0)
    _, right = plot_schedule(grid, sigma_grid=grid, weight=grid, density=density).axes
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in right.get_lines()}
    for label in (r"$\lambda(\sigma)\,\times$ density", r"density of $\ln\sigma$"):
        assert math.isnan(drawn[label][0])
        assert drawn[label][1] == pytest.approx(1)


def test_schedule_of_a_ladder_draws_stems() -> None:
    sigmas, grid = torch.tensor([1.0, 0.2, 0.03]), torch.logspace(0, -2, 11)
    _, right = plot_schedule(sigmas, sigma_grid=grid, weight=3 * grid**2).axes
    stems = next(line for line in right.get_lines() if "L" in str(line.get_label()))
    np.testing.assert_allclose(stems.get_ydata(), (sigmas**2).numpy(), rtol=1e-4)


def test_schedule_of_one_level() -> None:
    one = torch.tensor([0.7])
    png(plot_schedule(one, sigma_grid=one, weight=torch.ones(1)))


def test_learned_weighting_draws_both_curves() -> None:
    sigmas, u = torch.tensor([1.0, 0.1]), torch.tensor([0.2, -0.3])
    (axes,) = plot_learned_weighting(sigmas, u.requires_grad_(), torch.tensor([0.25, -math.inf])).axes
    points, line = axes.get_lines()
    np.testing.assert_allclose(line.get_ydata(), [-0.3, 0.2], rtol=1e-6)
    np.testing.assert_allclose(points.get_ydata(), [math.nan, 0.25])


def test_score_split_stacks_the_shares_to_one() -> None:
    gradient, still = torch.tensor([0.1, 0.3, math.nan]), torch.tensor([0.3, 0.1, math.nan])
    figure = plot_score_split(torch.tensor([1.0, 0.1, 0.01]), gradient, still)
    left, right = figure.axes
    heights = [patch.get_height() for patch in left.patches]
    np.testing.assert_allclose(heights, [math.nan, 0.75, 0.25, math.nan, 0.25, 0.75], rtol=1e-6)
    assert not left.texts
    assert figure.get_suptitle() == "no value at 1 of 3 levels, finer than the grid"
    np.testing.assert_allclose(right.lines[0].get_ydata(), [math.nan, 0.3, 0.1], rtol=1e-6)


def test_model_density_draws_the_difference_from_the_closed_form(target: Gaussian) -> None:
    figure = plot_model_density(target, lambda x: target.log_prob(x, 0.1) + math.log(1.1), 0.1, resolution=40)
    exact, model, difference = (axes.images[0].get_array() for axes in figure.axes[:3])
    np.testing.assert_allclose(model, 1.1 * exact, rtol=1e-9)
    np.testing.assert_allclose(difference, 0.1 * exact, rtol=1e-9)
    assert float(exact.max()) == pytest.approx(1 / (2 * math.pi * (STD**2 + 0.01)), rel=0.02)


def test_the_users_settings_are_neither_used_nor_changed(target: Gaussian, samples: Tensor) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 40, "xtick.labelsize": 40, "axes.facecolor": "red"}):
        loud = png(plot_samples(target, samples))
        assert matplotlib.rcParams["font.size"] == 40
    assert png(plot_samples(target, samples)) == loud


def test_figures_are_freed(target: Gaussian, samples: Tensor) -> None:
    figure = plot_samples(target, samples)
    png(figure)
    gone = weakref.ref(figure)
    del figure
    gc.collect()
    assert gone() is None


def test_pyplot_is_never_imported() -> None:
    program = (
        "import sys, torch; from ncsn_lightning.plotting import plot_score_error, png;"
        "png(plot_score_error(torch.tensor([1., .1]), torch.tensor([.1, .1])));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_paths_go_through_every_state_in_a_panel_for_each_sampler(target: Gaussian) -> None:
    states, _ = walk(target, 3)
    few = [state[:5] for state in states]
    figure = plot_paths(target, {"one": few, "two": few[::-1], "three": few[:2]}, columns=2)
    one, two, three = spatial(figure)
    *chains, ends = one.get_lines()
    assert [line.get_title() for line in (one, two, three)] == ["one", "two", "three"]
    for index, chain in enumerate(chains):
        np.testing.assert_allclose(chain.get_xydata(), torch.stack(few)[:, index].numpy())
    np.testing.assert_allclose(ends.get_xydata(), few[-1].numpy())
    assert len(png(figure)) < 300_000


def test_mode_weights_are_drawn_beside_the_exact_one_and_its_error() -> None:
    separations, plain = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([0.8, 0.6, 0.5])
    figure = plot_mode_weights(separations, {"plain": plain, "annealed": plain + 0.1}, truth=0.8, error=0.01)
    (axes,) = figure.axes
    exact, first, second = axes.get_lines()
    assert exact.get_ydata()[0] == 0.8
    np.testing.assert_allclose(first.get_xydata(), torch.stack([separations, plain], -1).numpy())
    np.testing.assert_allclose(second.get_ydata(), (plain + 0.1).numpy())
    band = axes.patches[0].get_bbox()
    assert (band.y0, band.y1) == (pytest.approx(0.78), pytest.approx(0.82))
    assert len(png(figure)) < 300_000


def test_shares_are_drawn_over_what_the_truth_scores() -> None:
    metrics = {
        "energy_distance": {"truth": Bar(0.3, 0.1, 0.2, 0.05), "network": Bar(0.6, math.nan, 0.2, 0.05)},
        "off_support": {"truth": Bar(0.0, 0.0, 0.0, 0.0), "network": Bar(0.1, 0.01, 0.0, 0.0)},
    }
    figure = plot_shares(metrics)
    first, second = figure.axes[:2]
    assert [axes.get_title() for axes in (first, second)] == ["energy distance", "off support"]
    assert [text.get_text() for text in first.get_yticklabels()] == ["truth", "network"]
    band = first.patches[0].get_bbox()
    assert (band.x0, band.x1) == (pytest.approx(0.1), pytest.approx(0.3))
    floor, *points = first.get_lines()
    assert floor.get_xdata()[0] == 0.2
    assert {tuple(line.get_xydata()[0]) for line in points if len(line.get_xdata()) == 1} >= {(0.3, 0), (0.6, 1)}
    assert len(first.collections) == 1  # the network's one walk has no standard error
    assert len(png(figure)) < 300_000


def test_distances_of_chains_are_drawn_by_the_level_that_they_reach() -> None:
    levels, mean = torch.tensor([2.0, 2.0, 0.5, 0.0]), torch.tensor([0.04, 0.04, 0.02, 0.01])
    floors = torch.stack([0.9 * mean, mean, 1.1 * mean])
    figure = plot_chain_distances(levels, floors, {"truth": 2 * floors, "network": 5 * mean[None]})
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines() if len(line.get_xdata()) == len(levels)}
    truth, network = (container.lines[0] for container in axes.containers)
    (floor,) = (line for name, line in lines.items() if name.startswith("draws"))
    for line, values in ((truth, 2 * mean), (network, 5 * mean), (floor, mean)):
        np.testing.assert_allclose(line.get_ydata(), values)
    (band,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.max(), heights.min()) == (pytest.approx(0.04 * 1.2), pytest.approx(0.01 * 0.8))
    assert axes.containers[0].has_yerr
    assert not axes.containers[1].has_yerr  # of one walk there is no standard error
    assert [text.get_text() for text in axes.get_xticklabels()] == ["prior", "2", "0.5", "0"]
    assert "data units" in axes.get_ylabel()
    assert len(png(figure)) < 300_000


def test_the_cost_of_quality_has_a_line_for_each_sampler_over_the_truth() -> None:
    heun = [(10.0, 0.2), (20.0, 0.05)]
    panels = {
        "moons, network": CostQuality({"heun": heun}, floor=0.02, deviation=0.02),
        "moons, exact score": CostQuality({"langevin": [(20.0, 0.3)], "heun": heun}, floor=0.05, deviation=0.01),
    }
    figure = plot_cost_quality(panels, distance="W₂ (data units)", columns=2)
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == list(panels)
    np.testing.assert_allclose(first.get_lines()[0].get_xydata(), heun)
    colors = [line.get_color() for line in second.get_lines()]
    assert first.get_lines()[0].get_color() == colors[1] != colors[0]
    band = second.patches[0].get_bbox()
    assert (band.y0, band.y1) == (pytest.approx(0.03), pytest.approx(0.07))
    assert first.patches[0].get_bbox().y0 > 0  # on an axis of logarithms, though two deviations reach below
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("langevin", "heun", "draws of the truth ± 2 sd"),
    ]
    assert (first.get_ylabel(), first.get_xlabel()) == ("W₂ (data units)", "evaluations of the score")
    assert len(png(figure)) < 300_000
