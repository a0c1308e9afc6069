"""Sums of many kernels against the plain sum, and the rules for their bandwidth."""

import math

import numpy as np
import pytest
import torch

from ncsn_lightning.distributions import Points, bandwidth, kernels, lattice
from ncsn_lightning.distributions.kernels import FEW_POINTS, KernelDensity
from ncsn_lightning.models.scores import jacobian
from ncsn_lightning.runs import lifecycle

N = FEW_POINTS + 904


def cloud(n, generator):
    return torch.randn(n, 2, generator=generator).double()


def flower(n, generator):
    t = 2 * math.pi * torch.rand(n, 1, generator=generator).double()
    return (2 + (5 * t).cos()) * torch.cat([t.cos(), t.sin()], dim=1)


def clump(n, generator):
    """Half of the points in a hundredth of the space, and the first far from all."""
    points = cloud(n, generator)
    points[: n // 2] *= 0.01
    points[0] = torch.tensor([300.0, 0.0])
    return points


def away_from_the_origin(n, generator):
    return cloud(n, generator) + torch.tensor([5.4e6, -3e5])


SHAPES = [cloud, flower, clump, away_from_the_origin]


def plain(points, x, width):
    """log p and the score by the definition, one kernel after the other."""
    away = points - x[:, None]
    exponents = -away.square().sum(-1) / (2 * width**2)
    log_p = exponents.logsumexp(-1) - math.log(2 * math.pi * width**2 * len(points))
    return log_p, torch.einsum("nk,nkd->nd", exponents.softmax(-1), away) / width**2


def noisy(points, width, n, generator):
    chosen = points[torch.randint(len(points), (n,), generator=generator)]
    return chosen + width * torch.randn(n, 2, generator=generator).double()


def levels(n, sigma):
    return torch.full((n,), sigma, dtype=torch.float64)


@pytest.fixture(params=["lattice", "thin"])
def way(request, monkeypatch):
    """Both ways of summing: on lattices, and, where none may have a tile, point by point."""
    if request.param == "thin":
        monkeypatch.setattr(lattice, "MAX_TILES", 0)
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_the_plain_sum_at_every_level(shape, way, generator):
    points, h = shape(N, generator), 0.02
    density = KernelDensity(points, bandwidth=h)
    for sigma in torch.logspace(math.log10(8.0), math.log10(0.002), 10).tolist():
        width = math.hypot(h, sigma)
        x = noisy(points, width, 100, generator)
        log_p, score = plain(points, x, width)
        found = density(x, levels(100, sigma))
        assert float((found[:, 0] - log_p).abs().max()) < 1e-4
        assert float((found[:, 1:] - score).square().sum().sqrt()) < 1e-4 * float(score.square().sum().sqrt())


def test_a_level_for_every_row_is_the_same(way, generator):
    points = flower(N, generator)
    density = KernelDensity(points, bandwidth=0.05)
    x, sigma = cloud(60, generator), 0.01 * 2.0 ** torch.arange(60).div(6).double()
    alone = torch.cat([density(*pair) for pair in zip(x.split(1), sigma.split(1), strict=True)])
    torch.testing.assert_close(density(x, sigma), alone, rtol=1e-9, atol=1e-9)
    assert density(x[:0], sigma[:0]).shape == (0, 3)


@pytest.mark.parametrize("sigma", [0.02, 0.5])
def test_the_score_is_the_gradient_and_has_derivatives(sigma, way, generator):
    """As the likelihood needs them; the derivatives against those of the plain mixture."""
    points = Points(path=cloud(N, generator), bandwidth=0.1)
    x = noisy(points.points, 0.2, 50, generator).requires_grad_()
    (gradient,) = torch.autograd.grad(points.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(points.score(x.detach(), sigma), gradient, rtol=1e-8, atol=1e-9)
    derivatives = jacobian(points.score, x.detach(), sigma)[1]
    width = math.hypot(0.1, sigma)
    exact = jacobian(lambda x, _: plain(points.points, x, width)[1], x.detach(), sigma)[1]
    torch.testing.assert_close(derivatives, exact, rtol=1e-3, atol=1e-3 / width**2)
    assert points.curvature(sigma) > 0  # which differentiates by torch.func


def test_far_outside_the_nearest_points_count(way, generator):
    points = clump(N, generator)
    density = KernelDensity(points, bandwidth=0.01)
    x = torch.tensor([[20.0, 3.0], [-4.0, 1e3], [1e6, 1e6], [299.0, 0.5]]).double()
    log_p, score = plain(points, x, 0.02)
    found = density(x, levels(4, math.sqrt(3) * 0.01))
    torch.testing.assert_close(found[:, 0], log_p, rtol=1e-9, atol=1e-4)
    torch.testing.assert_close(found[:, 1:], score, rtol=1e-9, atol=1e-4)
    lost = density(torch.tensor([[math.nan, 0.0], [0.0, math.inf], [0.0, 0.0]]).double(), levels(3, 0.1))
    assert lost[2].isfinite().all()
    assert not lost[:2].isfinite().all(-1).any()


def test_there_is_hardly_a_step_where_the_nearest_take_over(way, generator):
    """Along a ray away from all points log p falls as its slope says, but for what others than the nearest add."""
    density = KernelDensity(flower(N, generator), bandwidth=0.1)
    x = torch.stack([torch.linspace(3.0, 5.0, 400), torch.zeros(400)], dim=1).double()
    log_p, slope, _ = density(x, levels(400, 0.05)).unbind(-1)
    assert (log_p.diff() < 0).all()
    assert (slope < 0).all()
    gap = (log_p.diff() - (slope[1:] + slope[:-1]) / 2 * (2 / 399)).abs()
    assert float(gap.max()) < 0.7
    assert float(gap.median()) < 0.01


@pytest.mark.parametrize("factor", [2.0**-9, 3.0, 1e3])
def test_units_and_the_order_of_points_do_not_matter(factor, generator):
    points = flower(N, generator)
    x = noisy(points, 0.2, 100, generator)
    before = KernelDensity(points, bandwidth=0.1)(x, levels(100, 0.2))
    scaled = KernelDensity(factor * points.flip(0), bandwidth=0.1 * factor)(factor * x, levels(100, 0.2 * factor))
    torch.testing.assert_close(scaled[:, 0] + 2 * math.log(factor), before[:, 0], rtol=0, atol=1e-4)
    torch.testing.assert_close(scaled[:, 1:] * factor, before[:, 1:], rtol=0, atol=2e-4)


def test_many_points_are_a_target_like_few(generator):
    """The same points, thrice over, are the same density; samples, moments and precision are the mixture's."""
    few = Points(path=flower(2000, generator), bandwidth=0.2)
    many = Points(path=few.points.repeat(3, 1), bandwidth=0.2)
    assert isinstance(many.kernels, KernelDensity)
    assert not isinstance(few.kernels, KernelDensity)
    x = torch.randn(3, 20, 2, generator=generator)
    sigma = torch.tensor([0.1, 1.0, 9.0])[:, None]
    torch.testing.assert_close(many.score(x, sigma), few.score(x, sigma), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(many.log_prob(x, sigma), few.log_prob(x, sigma), rtol=0, atol=1e-4)
    assert many.score(x, 0.1).dtype == torch.float32
    torch.testing.assert_close(many.covariance, few.covariance)
    torch.testing.assert_close(many.mean, few.mean)
    assert few.kernels.blur == many.blur == 0.2
    torch.testing.assert_close(few.covariance, few.kernels.covariance)


def test_a_bandwidth_too_small_for_the_extent_is_refused(generator):
    points = clump(N, generator)
    with pytest.raises(ValueError, match=r"bandwidth=1e-09 is too small .* give at least"):
        Points(path=points, bandwidth=1e-9)
    finest = Points(path=points, bandwidth=1e-6)
    torch.testing.assert_close(finest.log_prob(points[:9], 1e-6), plain(points, points[:9], math.sqrt(2) * 1e-6)[0])


def test_pairs_are_summed_in_pieces(generator, monkeypatch):
    monkeypatch.setattr(lattice, "MAX_TILES", 0)
    points = cloud(N, generator)
    x, sigma = cloud(40, generator), levels(40, 0.5)
    whole = KernelDensity(points, bandwidth=0.1)(x, sigma)
    monkeypatch.setattr(kernels, "PAIRS", 1000)
    torch.testing.assert_close(KernelDensity(points, bandwidth=0.1)(x, sigma), whole)


# The bandwidth


@pytest.mark.parametrize("h", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("n", [60, 5000])
def test_leaving_one_out_is_the_double_sum(h, n, generator):
    points = torch.cat([flower(n - 1, generator), torch.tensor([[30.0, 30.0]])])
    around = bandwidth._Neighbourhood.of(points, lowest=0.005)
    kernel = torch.exp(-torch.cdist(around.rows, points).square() / (2 * h**2)) / (2 * math.pi * h**2)
    others = (kernel.sum(-1) - 1 / (2 * math.pi * h**2)).clamp(min=0) / (n - 1)
    extent = float((points.amax(0) - points.amin(0)).max())
    expected = float(((1 - 1 / n) * others + 1 / (n * extent**2)).log().mean())
    assert around.log_likelihood(h) == pytest.approx(expected, abs=1e-3)


def test_the_most_likely_bandwidth_is_scotts_on_a_cloud_and_finer_on_a_curve(generator):
    round_cloud, curve = cloud(2000, generator), flower(2000, generator)
    assert bandwidth.most_likely(round_cloud) == pytest.approx(bandwidth.scott(round_cloud), rel=0.3)
    spacing = bandwidth.spacing(curve)
    assert spacing < bandwidth.most_likely(curve) < 10 * spacing
    assert bandwidth.gain_of_narrower(curve, bandwidth.most_likely(curve)) < 0
    noise = curve + 0.05 * cloud(2000, generator)
    assert 0.02 < bandwidth.most_likely(noise) < 0.1


def test_outliers_and_repeated_points_do_not_decide_the_bandwidth(generator):
    curve = flower(1000, generator)
    usual = bandwidth.most_likely(curve)
    far = torch.cat([curve, torch.tensor([[1e4, 1e4]])])
    assert bandwidth.most_likely(far) == pytest.approx(usual, rel=0.3)
    assert bandwidth.most_likely(curve.repeat(5, 1)) == pytest.approx(usual, rel=1e-6)
    rounded = (cloud(2000, generator) * 10).round() / 10
    assert bandwidth.spacing(rounded) == pytest.approx(0.1)
    assert bandwidth.most_likely(rounded) > 0.05


def test_the_rule_is_asked_for_by_name_and_scales_with_the_data(generator):
    curve = flower(500, generator)
    found = Points(path=curve, bandwidth="likelihood").bandwidth
    assert Points(path=1000 * curve, bandwidth="likelihood").bandwidth == pytest.approx(1000 * found, rel=0.1)
    assert Points(path=torch.tensor([[0.0, 0.0], [1.0, 0.0]]), bandwidth="likelihood").bandwidth > 0
    with pytest.raises(ValueError, match="give bandwidth a number"):
        Points(path=torch.ones(3, 2), bandwidth="likelihood")


@pytest.mark.parametrize(("shape", "hides"), [(cloud, False), (flower, True)])
@pytest.mark.parametrize("n", [300, 6000])
def test_a_bandwidth_that_hides_structure_is_warned_of(shape, hides, n, generator, caplog):
    caplog.set_level("INFO")
    points = Points(path=shape(n, generator))
    lifecycle._remark_on_bandwidth(points)
    (line,) = caplog.records
    assert (line.levelname == "WARNING") == hides
    assert f"{points.bandwidth:.4g}" in line.getMessage()
    assert f"{points.spacing:.4g}" in line.getMessage()
    assert ("bandwidth=likelihood" in line.getMessage()) == hides


def test_spacing_is_the_median_distance_to_the_nearest():
    ticks = np.arange(10.0)
    grid = torch.from_numpy(np.stack(np.meshgrid(ticks, 3 * ticks), -1).reshape(-1, 2))
    assert bandwidth.spacing(grid) == 1.0
