"""Every target, from one table: exact identities that only the right density and the right score fulfil."""

import math
import pickle
from itertools import product

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ncsn_lightning import distributions as targets
from ncsn_lightning.distributions import components

TABLE = {
    "checkerboard": targets.Checkerboard,
    "two_gaussians": targets.TwoGaussians,
    "eight_gaussians": targets.EightGaussians,
    "grid_gaussians": targets.GridGaussians,
    "forty_gaussians": targets.FortyGaussians,
    "moons": targets.Moons,
    "s_curve": targets.SCurve,
    "swiss_roll": targets.SwissRoll,
    "circles": targets.Circles,
    "rings": targets.Rings,
    "two_spirals": targets.TwoSpirals,
    "pinwheel": targets.Pinwheel,
    "fractal_tree": targets.FractalTree,
}


@pytest.fixture(scope="module", params=[*TABLE, "points"])
def target(request, tmp_path_factory):
    if request.param != "points":
        return TABLE[request.param]()
    path = tmp_path_factory.mktemp("points") / "points.npy"
    np.save(path, targets.Moons().sample(300, generator=torch.Generator().manual_seed(0)).numpy())
    return targets.Points(path=str(path))


def noisy(target, sigma, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return target.sample(n, generator=generator).double() + sigma * torch.randn(n, 2, generator=generator).double()


def square_grid(low, high, cells):
    """Midpoints of cells x cells squares, `[cells, cells, 2]`, and the area of one."""
    side = (high - low) / cells
    ticks = low + side * (torch.arange(cells, dtype=torch.float64) + 0.5)[:, None]
    return torch.stack(torch.meshgrid(*ticks.unbind(1), indexing="ij"), dim=-1), float(side.prod())


@pytest.mark.parametrize("sigma", [0.0, 0.2, 2.0, 30.0])
def test_density_integrates_to_one(target, sigma):
    """The midpoint rule converges exponentially: at steps of 0.6 of the smoothed scale only rounding is left."""
    if isinstance(target, targets.Checkerboard):
        low, cells = torch.full((2,), -2.0 - 7 * sigma), 4 * math.ceil((2 + 7 * sigma) / max(sigma, 0.5))
    else:
        low = target.mean - 0.8 * target.diameter - 7 * sigma
        cells = math.ceil(2 * float((target.mean - low).max()) / (0.6 * math.hypot(target.scale, sigma)))
    grid, area = square_grid(low, 2 * target.mean - low, cells)
    mass = sum(float(target.log_prob(row, sigma).exp().sum()) for row in grid.flatten(0, 1).split(50_000)) * area
    assert mass == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 5.0, 157.0])
def test_score_is_the_gradient_of_the_log_density(target, sigma):
    x = noisy(target, 2 * sigma, 40).requires_grad_()
    (gradient,) = torch.autograd.grad(target.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(target.score(x.detach(), sigma), gradient, rtol=1e-8, atol=1e-10 / sigma)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 2.0])
def test_heat_equation(target, sigma):
    """∂p/∂(σ²) = ½ Δp, that is ∂ log p/∂(σ²) = ½ (∇·s + ‖s‖²)."""
    x = noisy(target, sigma, 10).requires_grad_()
    variance = torch.full((10,), sigma**2, dtype=torch.float64, requires_grad=True)
    log_p = target.log_prob(x, variance.sqrt())
    rate, score = torch.autograd.grad(log_p.sum(), (variance, x), create_graph=True)
    divergence = sum(torch.autograd.grad(score[:, d].sum(), x, retain_graph=True)[0][:, d] for d in range(2))
    torch.testing.assert_close(rate, 0.5 * (divergence + score.square().sum(-1)), rtol=1e-7, atol=1e-7 / sigma**2)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_moments_of_the_score(target, sigma):
    """E[s] = 0 and E[s · x] = −2 under p_σ."""
    n = 20_000
    x = noisy(target, sigma, n)
    score = target.score(x, sigma)
    inner = (score * x).sum(-1)
    assert (score.mean(0).abs() < 5 * score.std(0) / math.sqrt(n)).all()
    assert abs(float(inner.mean()) + 2) < 5 * float(inner.std()) / math.sqrt(n)


def test_samples_follow_the_density(target):
    """χ² of a 12 × 12 histogram of `sample` against the integrated density; rare cells are one."""
    n, cells = 40_000, 12
    x = target.sample(n, generator=torch.Generator().manual_seed(1)).double()
    low, high = x.min(0).values.floor(), x.max(0).values.ceil()  # whole numbers: the checkerboard's edges are bins'
    fine = math.ceil(float((high - low).max()) / cells / (0.7 * min(target.scale, 0.5)))
    grid, area = square_grid(low, high, cells * fine)
    density = torch.cat([target.log_prob(part).exp() for part in grid.flatten(0, 1).split(50_000)])
    expected = n * area * density.view(cells, fine, cells, fine).sum((1, 3)).flatten()
    index = ((x - low) / (high - low) * cells).long().clamp(0, cells - 1)
    counts = torch.bincount(index[:, 0] * cells + index[:, 1], minlength=cells**2)
    kept = expected > 10
    kept[expected.masked_fill(~kept, math.inf).argmin()] = False  # so that no cell of the test is rare
    observed = torch.cat([counts[kept], counts[~kept].sum()[None]])
    predicted = torch.cat([expected[kept], n - expected[kept].sum()[None]])
    statistic = float(((observed - predicted).square() / predicted).sum())
    assert chi2.sf(statistic, len(observed) - 1) > 1e-4
    assert len(observed) > 8


def test_mean_and_covariance(target):
    n = 100_000
    x = target.sample(n, generator=torch.Generator().manual_seed(2)).double() - target.mean
    products = x[:, :, None] * x[:, None, :]
    assert (x.mean(0).abs() < 5 * x.std(0) / math.sqrt(n)).all()
    assert ((products.mean(0) - target.covariance).abs() < 5 * products.std(0) / math.sqrt(n)).all()


def test_automatic_scales_follow_from_samples(target):
    x = target.typical_points
    assert target.diameter == pytest.approx(float(torch.pdist(x.double()).max()), rel=1e-5)
    assert target.sigma_data**2 == pytest.approx(float(x.double().var(0).mean()), rel=0.1)
    assert not target.state_dict()


@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0])
def test_curvature_is_the_reciprocal_of_the_smallest_variance(target, sigma):
    """It is that less the spread of a posterior: nearly all where structures lie apart, all of it for far Gaussians."""
    largest = 1 / (sigma**2 + (0 if isinstance(target, targets.Checkerboard) else target.scale**2))
    assert 0 < target.curvature(sigma) < (1 + 1e-9) * largest
    if sigma == 0.01:
        assert target.curvature(sigma) > 0.7 * largest
    if isinstance(target, targets.TwoGaussians | targets.GridGaussians) and sigma < 1:
        assert target.curvature(sigma) == pytest.approx(largest, rel=1e-3)


def test_float32_agrees_with_float64(target):
    for sigma in (0.01, 1.0, 157.0):
        x = noisy(target, sigma, 200).float()
        single, double = target.score(x, sigma), target.score(x.double(), sigma)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4 * float(double.norm(dim=-1).mean()))


def test_the_far_tail_is_finite_and_points_home(target):
    x = 50 * torch.tensor([[1.0, 0.0], [-0.6, 0.8], [0.0, -1.0]], dtype=torch.float64)
    x = x + (60 if isinstance(target, targets.FortyGaussians) else 0) * x.sign()
    log_p, score = target.log_prob(x, 0.01), target.score(x, 0.01)
    assert log_p.isfinite().all()
    assert score.isfinite().all()
    assert ((score * (target.mean - x)).sum(-1) > 0).all()
    step = 1e-4 * torch.nn.functional.normalize(score, dim=-1)
    slope = (target.log_prob(x + step, 0.01) - target.log_prob(x - step, 0.01)) / 2e-4
    torch.testing.assert_close(slope, score.norm(dim=-1), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("points", "level", "shape"),
    [
        ((2,), (), ()),
        ((2,), (3,), (3,)),
        ((5, 2), (), (5,)),
        ((5, 2), (1,), (5,)),
        ((5, 2), (5,), (5,)),
        ((5, 2), (3, 1), (3, 5)),
        ((3, 1, 2), (4,), (3, 4)),
        ((0, 2), (), (0,)),
    ],
)
def test_shapes_broadcast(target, points, level, shape, generator):
    x = torch.randn(points, generator=generator, dtype=torch.float64)
    sigma = torch.rand(level, generator=generator, dtype=torch.float64) + 0.1
    log_p, score = target.log_prob(x, sigma), target.score(x, sigma)
    assert (log_p.shape, score.shape) == (shape, (*shape, 2))
    rows, levels = x.expand(*shape, 2).reshape(-1, 2), sigma.expand(shape).reshape(-1)
    for i, (row, one) in enumerate(zip(rows, levels, strict=True)):
        torch.testing.assert_close(log_p.flatten()[i], target.log_prob(row, float(one)))
        torch.testing.assert_close(score.reshape(-1, 2)[i], target.score(row, float(one)))


def test_vmap_is_the_loop(target):
    x, sigma = noisy(target, 0.5, 5), torch.tensor([0.02, 0.1, 0.5, 2.0, 157.0], dtype=torch.float64)
    same, vmap = torch.testing.assert_close, torch.func.vmap
    same(vmap(target.score)(x, sigma), target.score(x, sigma))
    same(vmap(target.score, (0, None))(x, 0.3), target.score(x, 0.3))
    same(vmap(target.score, (None, 0))(x[0], sigma), target.score(x[0], sigma))
    same(vmap(target.log_prob)(x, sigma), target.log_prob(x, sigma))
    same(vmap(torch.func.grad(target.log_prob))(x, sigma), target.score(x, sigma), rtol=1e-6, atol=1e-9)


def test_many_rows_are_the_rows_one_by_one(target):
    """Long inputs are worked off in pieces."""
    x, sigma = noisy(target, 0.1, 2000), torch.linspace(0.01, 2, 2000, dtype=torch.float64)
    log_p, score = target.log_prob(x, sigma), target.score(x, sigma)
    for i in (0, 130, 131, 800, 1999):
        torch.testing.assert_close(log_p[i], target.log_prob(x[i], sigma[i]))
        torch.testing.assert_close(score[i], target.score(x[i], sigma[i]))


CURVES = ["moons", "s_curve", "swiss_roll", "two_spirals", "pinwheel"]


@pytest.mark.parametrize("name", CURVES)
def test_quadrature_density_is_the_mean_over_exact_samples(name):
    """p_σ(y) = E_x N(y; x, σ²I): an independent Monte Carlo estimate, within five standard errors."""
    target, sigma, n = TABLE[name](), 0.3, 200_000
    x = target.sample(n, generator=torch.Generator().manual_seed(3)).double()
    for y in noisy(target, sigma, 5, seed=4):
        kernel = torch.exp(-(x - y).square().sum(-1) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
        exact = float(target.log_prob(y, sigma).exp())
        assert abs(float(kernel.mean()) - exact) < 5 * float(kernel.std()) / math.sqrt(n)


def pair(first, second):
    return torch.stack([first, second], dim=-1)


def gauss_legendre(start, stop, panels):
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(12))
    edges = torch.linspace(start, stop, panels + 1, dtype=torch.float64)
    half = edges.diff()[:, None] / 2
    return (edges[:-1, None] + half * (1 + nodes)).flatten(), (half * weights).flatten()


# The definitions of science.md, written again: pieces of a curve, range and density of the parameter, noise.
DEFINITIONS = {
    "moons": (
        lambda t: [pair(2 * t.cos() - 1, 2 * t.sin()), pair(2 * (1 - t.cos()) - 1, 2 * (0.5 - t.sin()))],
        (0, math.pi),
        torch.ones_like,
        0.1,
    ),
    "s_curve": (
        lambda t: [1.5 * pair(t.sin(), t.cos() - 1), 1.5 * pair(-t.sin(), 1 - t.cos())],
        (0, 1.5 * math.pi),
        torch.ones_like,
        0.075,
    ),
    "swiss_roll": (
        lambda t: [pair(t * t.cos(), t * t.sin()) / 5],
        (1.5 * math.pi, 4.5 * math.pi),
        torch.ones_like,
        0.2,
    ),
    "two_spirals": (
        lambda t: [pair(-t * t.cos(), t * t.sin()) / 3, pair(t * t.cos(), -t * t.sin()) / 3],
        (0, 3 * math.pi),
        lambda t: t,
        0.1,
    ),
}


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.3, 5.0, 157.0])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_quadrature_against_a_much_finer_one(name, sigma, generator):
    """Twelve nodes in each of 4000 panels: on the curve, inside, outside and far away, density and score to 1e-6."""
    curve, ends, density, noise = DEFINITIONS[name]
    target = TABLE[name]()
    angle = 2 * math.pi * torch.rand(12, 1, generator=generator, dtype=torch.float64)
    outside = torch.linspace(4, 50, 12, dtype=torch.float64)[:, None] * torch.cat([angle.cos(), angle.sin()], dim=1)
    inside = 6 * torch.rand(12, 2, generator=generator, dtype=torch.float64) - 3
    centres = torch.tensor([[-1.0, 0.0], [1.0, 1.0], [0.0, -1.5], [0.0, 1.5], [0.0, 0.0]], dtype=torch.float64)
    x = torch.cat([noisy(target, sigma, 12), inside, outside, centres])
    t, weights = gauss_legendre(*ends, panels=4000)
    means = torch.cat(curve(t))
    log_weights = (weights * density(t)).log().repeat(len(curve(t)))
    variance = noise**2 + sigma**2
    for point in x:
        logs = log_weights - (means - point).square().sum(-1) / (2 * variance)
        exact = torch.logsumexp(logs, 0) - torch.logsumexp(log_weights, 0) - math.log(2 * math.pi * variance)
        pull = logs.softmax(0) @ (means - point) / variance
        torch.testing.assert_close(target.log_prob(point, sigma), exact, rtol=1e-13, atol=1e-6)
        torch.testing.assert_close(target.score(point, sigma), pull, rtol=1e-6, atol=1e-6 / math.sqrt(variance))


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.3, 5.0, 157.0])
def test_pinwheel_where_there_is_data_against_the_continuous_one(sigma):
    """Its integral over |z₁| ≤ 9 by 7200 nodes an arm: the mixture over |z₁| ≤ 6 by 259 is the same to 1e-6."""
    target = targets.Pinwheel()
    z, weights = gauss_legendre(-9, 9, panels=600)
    arm = torch.arange(5, dtype=torch.float64)[:, None]
    angle = (2 * math.pi * arm / 5 + 0.25 * torch.exp(1 + 0.3 * z)).flatten()
    log_weights = (weights.log() - z.square() / 2 - 0.5 * math.log(2 * math.pi) - math.log(5)).repeat(5)
    outward, tangent = pair(angle.cos(), angle.sin()), pair(-angle.sin(), angle.cos())
    means = 2 * (1 + 0.3 * z).repeat(5)[:, None] * outward
    across, along = 0.05**2 + sigma**2, 0.2**2 + 0.05**2 + sigma**2
    log_volume = 0.5 * math.log(across * along)
    for point in noisy(target, sigma, 60):
        u, v = (outward * (point - means)).sum(-1), (tangent * (point - means)).sum(-1)
        logs = log_weights - u**2 / (2 * across) - v**2 / (2 * along) - math.log(2 * math.pi) - log_volume
        pull = -logs.softmax(0) @ (u[:, None] * outward / across + v[:, None] * tangent / along)
        torch.testing.assert_close(target.log_prob(point, sigma), torch.logsumexp(logs, 0), rtol=0, atol=1e-6)
        torch.testing.assert_close(target.score(point, sigma), pull, rtol=1e-6, atol=1e-6 / math.sqrt(across))


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.3, 157.0])
@pytest.mark.parametrize("name", ["two_gaussians", "grid_gaussians", "forty_gaussians", "pinwheel", "fractal_tree"])
def test_mixtures_against_torchs_own(name, sigma):
    """Component by component with full covariances, without the engine's algebra, far tail included."""
    target = TABLE[name]()
    frames = torch.stack([target.directions, pair(-target.directions[:, 1], target.directions[:, 0])], dim=-1)
    spectrum = torch.diag_embed(target.deviations.square() + sigma**2)
    modes = MultivariateNormal(target.means, frames @ spectrum @ frames.mT)
    mixture = MixtureSameFamily(Categorical(target.weights), modes)
    x = torch.cat([noisy(target, sigma, 20), 50 * torch.nn.functional.normalize(noisy(target, 1.0, 20))])
    x.requires_grad_()
    exact = mixture.log_prob(x)
    (gradient,) = torch.autograd.grad(exact.sum(), x)
    torch.testing.assert_close(target.log_prob(x, sigma), exact, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(target.score(x, sigma), gradient, rtol=1e-7, atol=1e-7)


def random_mixture(modes, *, turned, generator):
    """Components each with a covariance of its own."""
    angle = math.pi * torch.rand(modes, generator=generator).double() * turned
    return targets.GaussianMixture(
        4 * torch.randn(modes, 2, generator=generator),
        weights=torch.rand(modes, generator=generator) + 0.1,
        variances=torch.rand(modes, 2, generator=generator) + 0.1,
        directions=pair(angle.cos(), angle.sin()),
        scale=0.3,
    )


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("modes", [1, 2, 33, 512])
def test_covariances_of_their_own_against_torchs(modes, turned, generator):
    """One level for all points, or one for each, which are computed in different ways."""
    target = random_mixture(modes, turned=turned, generator=generator)
    frames = torch.stack([target.directions, pair(-target.directions[:, 1], target.directions[:, 0])], dim=-1)
    sigma = torch.logspace(-1, 1, 200, dtype=torch.float64)
    x = noisy(target, 1.0, 200).requires_grad_()
    spectrum = torch.diag_embed(target.deviations.square() + sigma.square()[:, None, None])
    mixture = MixtureSameFamily(
        Categorical(target.weights.expand(200, -1)), MultivariateNormal(target.means, frames @ spectrum @ frames.mT)
    )
    exact = mixture.log_prob(x)
    (gradient,) = torch.autograd.grad(exact.sum(), x)
    torch.testing.assert_close(target.log_prob(x.detach(), sigma), exact.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(target.score(x.detach(), sigma), gradient, rtol=1e-9, atol=1e-9)
    for i in (0, 199):
        alone = target.score(x[i : i + 1].detach().expand(5, 2), float(sigma[i]))
        torch.testing.assert_close(alone, gradient[i].expand(5, 2), rtol=1e-9, atol=1e-9)


def test_a_mixture_needs_memory_in_proportion_to_its_components(generator):
    few, many = (random_mixture(modes, turned=True, generator=generator) for modes in (100, 1000))
    numbers = [sum(buffer.numel() for buffer in target.buffers()) for target in (few, many)]
    assert numbers[1] < 10.1 * numbers[0]


@pytest.mark.parametrize("turned", [False, True])
def test_both_ways_of_evaluating_components_agree(turned, generator):
    means, weights = torch.randn(90, 2, generator=generator).double(), torch.full((90,), 1 / 90).double()
    groups, group = torch.tensor([[0.1, 0.3], [0.5, 0.05]]).double(), torch.arange(90) % 2
    angle = torch.rand(90, generator=generator).double() * turned
    directions = pair(angle.cos(), angle.sin())
    ways = [
        components.Shared(means, weights, groups, group, directions),
        components.Own(means, weights, groups[group], directions),
    ]
    assert type(components.cheapest(means, weights, groups[group], directions)) is components.Shared
    x, sigma = 3 * torch.randn(50, 2, generator=generator).double(), torch.logspace(-2, 1, 50).double()
    for ask in ("log_sum", "score", "responsibilities"):
        shared, own = (getattr(way, ask)(x, sigma) for way in ways)
        torch.testing.assert_close(shared, own, rtol=1e-9, atol=1e-9)


def exact_board(x, sigma):
    """Sum over the eight cells with 60 digits: log p and ∇ log p."""
    total, slope = mpmath.mpf(0), [mpmath.mpf(0), mpmath.mpf(0)]
    for cell in product(range(-2, 2), repeat=2):
        if sum(cell) % 2 == 0:
            ends = [
                ((u - i - 1) / mpmath.mpf(sigma), (u - i) / mpmath.mpf(sigma)) for u, i in zip(x, cell, strict=True)
            ]
            mass = [mpmath.ncdf(-a) - mpmath.ncdf(-b) if a > 0 else mpmath.ncdf(b) - mpmath.ncdf(a) for a, b in ends]
            rate = [(mpmath.npdf(b) - mpmath.npdf(a)) / sigma for a, b in ends]
            total += mass[0] * mass[1]
            slope[0] += rate[0] * mass[1]
            slope[1] += rate[1] * mass[0]
    return float(mpmath.log(total / 8)), [float(part / total) for part in slope]


def exact_circles(x, sigma, radii, noise):
    """Bessel functions with 60 digits: log p and ∇ log p."""
    v, r = mpmath.mpf(noise) ** 2 + mpmath.mpf(sigma) ** 2, mpmath.hypot(*map(mpmath.mpf, x))
    peaks = [mpmath.exp(-(r**2 + R**2) / (2 * v)) / (2 * mpmath.pi * v * len(radii)) for R in radii]
    density = sum(p * mpmath.besseli(0, r * R / v) for p, R in zip(peaks, radii, strict=True))
    pairs = zip(peaks, radii, strict=True)
    slope = sum(p * (R * mpmath.besseli(1, r * R / v) - r * mpmath.besseli(0, r * R / v)) / v for p, R in pairs)
    return float(mpmath.log(density)), [float(slope / density * u / (r or 1)) for u in x]


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0, 157.0])
@pytest.mark.parametrize("name", ["checkerboard", "circles", "rings"])
def test_closed_forms_against_sixty_digits(name, sigma, generator):
    exact = {
        "checkerboard": exact_board,
        "circles": lambda x, sigma: exact_circles(x, sigma, [3, 1.5], 0.24),
        "rings": lambda x, sigma: exact_circles(x, sigma, [3, 2.25, 1.5, 0.75], 0.08),
    }[name]
    target = TABLE[name]()
    places = [(0.0, 0.0), (1.0, 1.0), (2.0, 0.0), (2.0, 2.0), (-1.0, 0.5), (1e-8, 0.3), (50.0, 0.0), (-30.0, 40.0)]
    x = torch.cat([torch.tensor(places).double(), 3 * torch.randn(10, 2, generator=generator).double()])
    with mpmath.workdps(60):
        log_p, slope = zip(*(exact(tuple(row), sigma) for row in x.tolist()), strict=True)
    tiny = 1e-9 / (target.scale + sigma)
    torch.testing.assert_close(target.log_prob(x, sigma), torch.tensor(log_p).double(), rtol=1e-7, atol=1e-11)
    torch.testing.assert_close(target.score(x, sigma), torch.tensor(slope, dtype=torch.float64), rtol=1e-8, atol=tiny)


def test_entropies_of_closed_form():
    board = targets.Checkerboard(cell_size=2.0)
    x = board.sample(2000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(-board.log_prob(x), torch.full((2000,), math.log(8 * 4)))
    for target, entropy in [
        (targets.FortyGaussians(), 6.859),
        (targets.TwoGaussians(), math.log(2 * math.pi * math.e) - 0.8 * math.log(0.8) - 0.2 * math.log(0.2)),
        (targets.GridGaussians(), math.log(2 * math.pi * math.e * 0.05**2) + math.log(25)),
    ]:
        surprise = -target.log_prob(target.sample(200_000, generator=torch.Generator().manual_seed(0)).double())
        margin = 0.0015 * isinstance(target, targets.FortyGaussians)  # of the published value
        assert float(surprise.mean()) == pytest.approx(entropy, abs=margin + 5 * float(surprise.std()) / math.sqrt(2e5))


@pytest.mark.parametrize("name", ["two_gaussians", "circles"])
def test_entropy_grows_by_half_the_fisher_information(name):
    """dH(p_σ)/dσ² = ½ E‖s‖² (de Bruijn), with the same points at both ends."""
    target, n, sigma, step = TABLE[name](), 200_000, 0.7, 0.02
    generator = torch.Generator().manual_seed(0)
    clean = target.sample(n, generator=generator).double()
    z = torch.randn(n, 2, generator=generator).double()

    def surprise(variance):
        return -target.log_prob(clean + math.sqrt(variance) * z, math.sqrt(variance))

    rate = (surprise(sigma**2 + step) - surprise(sigma**2 - step)) / (2 * step)
    fisher = 0.5 * target.score(clean + sigma * z, sigma).square().sum(-1)
    gap = rate - fisher
    assert abs(float(gap.mean())) < 5 * float(gap.std()) / math.sqrt(n) + 2e-3


def test_checkerboard_without_noise():
    board = targets.Checkerboard(cell_size=0.3)  # whose edges are no binary fractions
    inside, outside = torch.tensor([[0.1, 0.2], [-0.5, -0.4]]), torch.tensor([[0.1, -0.1], [0.7, 0.0], [-0.61, -0.5]])
    torch.testing.assert_close(board.log_prob(inside), torch.full((2,), -math.log(8 * 0.3**2)))
    assert torch.isneginf(board.log_prob(outside)).all()
    edges = 0.3 * torch.tensor(list(product([-2, -1, 0, 1, 2], repeat=2)), dtype=torch.float64)
    assert not board.log_prob(edges).isnan().any()
    assert (board.score(torch.cat([inside, outside]), 0.0) == 0).all()
    x = board.sample(1_000_000, generator=torch.Generator().manual_seed(0))
    assert board.log_prob(x).isfinite().all()


def test_no_sample_of_the_checkerboard_is_rounded_out_of_its_cell(monkeypatch):
    """A uniform number just below 1 would round to the cell's upper edge in float32."""
    board = targets.Checkerboard(cell_size=0.7)
    for extreme in (0.0, 1 - 2.0**-53):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand", lambda *shape, extreme=extreme, **_: torch.full(shape, extreme).double())
            x = board.sample(200, generator=torch.Generator().manual_seed(0))
        assert board.log_prob(x).isfinite().all()


def test_checkerboard_edges_and_corners():
    board = targets.Checkerboard()
    edge = torch.tensor([[0.0, 0.5]]).double()  # half of the mass lies on one side of an edge, far from corners
    assert float(board.log_prob(edge, 0.01).exp()) == pytest.approx(1 / 16, rel=1e-9)
    expected = 1 / (0.01 * math.sqrt(2 * math.pi)) / 0.5
    torch.testing.assert_close(
        board.score(edge, 0.01), torch.tensor([[expected, 0.0]], dtype=torch.float64), rtol=1e-9, atol=1e-9
    )
    corner = torch.tensor([[0.0, 0.0]]).double()  # two of four cells: the gradients cancel
    assert float(board.log_prob(corner, 0.01).exp()) == pytest.approx(1 / 16, rel=1e-9)
    torch.testing.assert_close(board.score(corner, 0.01), torch.zeros(1, 2).double(), atol=1e-9, rtol=0)


def test_modes_stand_where_they_are_defined():
    eight, grid, two = targets.EightGaussians(radius=5.0, std=1.0), targets.GridGaussians(), targets.TwoGaussians()
    half = 5 / math.sqrt(2)
    circle = [(5, 0), (half, half), (0, 5), (-half, half), (-5, 0), (-half, -half), (0, -5), (half, -half)]
    torch.testing.assert_close(eight.means, torch.tensor(circle, dtype=torch.float64))
    lattice = list(product([-4, -2, 0, 2, 4], repeat=2))
    torch.testing.assert_close(grid.means, torch.tensor(lattice, dtype=torch.float64))
    torch.testing.assert_close(two.mean, torch.tensor([3.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(two.covariance, torch.tensor([[17.0, 16.0], [16.0, 17.0]], dtype=torch.float64))
    assert targets.EightGaussians().deviations.unique().tolist() == pytest.approx([0.5 / math.sqrt(2)])


def test_fractal_tree_grows_two_branches_from_the_end_of_each(generator):
    tree = targets.FractalTree(depth=4, length=2.0, angle=0.5, length_ratio=0.72)
    assert len(tree.means) == 2**4 - 1
    level = torch.tensor([0, 1, 1, *[2] * 4, *[3] * 8], dtype=torch.float64)
    half = (tree.directions.T * 0.72**level).T  # of a trunk of length 2
    starts, ends = tree.means - half, tree.means + half
    for child in range(1, 15):
        meets = (ends[level == level[child] - 1] - starts[child]).norm(dim=-1) < 1e-12
        parent = tree.directions[level == level[child] - 1][meets]
        assert len(parent) == 1
        assert float(parent[0] @ tree.directions[child]) == pytest.approx(math.cos(0.5))
    x = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    mirror = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(tree.log_prob(x * mirror, 0.1), tree.log_prob(x, 0.1))


def test_forty_means_are_the_literatures():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        means = (torch.rand(40, 2) - 0.5) * 80
    torch.testing.assert_close(targets.FortyGaussians().means, means.double(), rtol=1e-7, atol=1e-6)
    deviations = targets.FortyGaussians().deviations
    torch.testing.assert_close(deviations, torch.full_like(deviations, math.log1p(math.e)))


def test_point_masses_have_a_score_at_positive_sigma():
    masses = targets.TwoGaussians(std=0.0)
    assert (masses.sample(50).abs() == 5).all()
    assert masses.scale > 0
    x = torch.tensor([[5.5, 5.0]]).double()
    torch.testing.assert_close(masses.score(x, 1.0), torch.tensor([[-0.5, 0.0]]).double(), atol=1e-9, rtol=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler itself
@pytest.mark.parametrize("name", ["checkerboard", "fractal_tree", "circles"])
def test_compiled_score_is_the_score(name):
    target = TABLE[name]()
    x, sigma = noisy(target, 0.3, 64), torch.linspace(0.01, 3, 64, dtype=torch.float64)
    compiled = torch.compile(target.score, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, sigma), target.score(x, sigma), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: targets.Checkerboard(cell_size=0.0), "cell_size"),
        (lambda: targets.Checkerboard(cell_size=math.nan), "cell_size"),
        (lambda: targets.Checkerboard(cell_size=math.inf), "cell_size"),
        (lambda: targets.Checkerboard(side=1.0), "side"),
        (lambda: targets.Moons(noise=-1.0), "noise"),
        (lambda: targets.Moons(noise=0.0), "noise"),
        (lambda: targets.Moons(noise=1e-9), "noise=2e-09"),
        (lambda: targets.Pinwheel(noise=1e-6), "noise=1e-06"),
        (lambda: targets.TwoGaussians(weight=1.0), "weight"),
        (lambda: targets.TwoGaussians(std=-1.0), "std"),
        (lambda: targets.EightGaussians(modes=1), "modes"),
        (lambda: targets.GridGaussians(side=2.0), "side"),
        (lambda: targets.FortyGaussians(std=0.0), "std"),
        (lambda: targets.Rings(rings=0), "rings"),
        (lambda: targets.SwissRoll(start=9.0, stop=5.0), "start=9 must be below stop=5"),
        (lambda: targets.Circles(noise="wide"), "noise"),
        (lambda: targets.Circles(factor=1.0), "factor"),
        (lambda: targets.FractalTree(width=1.0), "width=1 "),
        (lambda: targets.FractalTree(depth=11), "depth"),
        (lambda: targets.Points(path="p.npy", bandwidth=0.0), "bandwidth"),
        (lambda: targets.Points(path="p.npy", bandwidth="wide"), "bandwidth"),
    ],
)
def test_wrong_arguments_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


MIXTURE = {
    "means": torch.zeros(3, 2),
    "weights": torch.ones(3),
    "variances": torch.ones(3, 2),
    "directions": torch.tensor([[1.0, 0.0]]).expand(3, 2),
}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("means", torch.zeros(3), r"means of the shape \[3\]: give \[K, 2\]"),
        ("means", torch.zeros(0, 2), r"means of the shape \[0, 2\]: give \[K, 2\]"),
        ("means", [[0.0, 0.0]], "means of the type list: give a tensor"),
        ("variances", np.ones((3, 2)), "variances of the type ndarray: give a tensor"),
        ("weights", torch.ones(2), r"weights of the shape \[2\]: give \[3\], as means has 3 rows"),
        ("variances", torch.ones(3), r"variances of the shape \[3\]: give \[3, 2\]"),
        ("variances", torch.ones(3, 2, 2), r"variances of the shape \[3, 2, 2\]: give \[3, 2\]"),
        ("directions", torch.ones(2, 2), r"directions of the shape \[2, 2\]: give \[3, 2\]"),
        ("directions", torch.eye(2).expand(3, 2, 2), r"directions of the shape \[3, 2, 2\]: give \[3, 2\]"),
        ("directions", torch.ones(3, 2), "directions of component 0: give unit vectors"),
        ("means", torch.tensor([[0, 0], [0, math.nan], [0, 0]]), "means of component 1: give finite numbers"),
        ("weights", torch.tensor([1.0, 1.0, 0.0]), "weights of component 2: give positive numbers"),
        ("variances", -torch.ones(3, 2), "variances of component 0: give finite numbers of at least 0"),
    ],
)
def test_a_mixture_says_what_shape_it_wants(name, value, words, unchecked):
    with pytest.raises(ValueError, match=words):
        targets.GaussianMixture(**{**MIXTURE, name: value}, scale=1.0)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.csv", None, "no such file"),
        ("p.csv", "", "empty"),
        ("p.csv", "x,y\n", "empty"),
        ("p.csv", "1,2,3\n4,5,6\n", r"\[2, 3\]; give N rows of two columns"),
        ("p.csv", "1,2\n3\n", "line 2 has 1 columns"),
        ("p.csv", "x,y\n1,2\nnan,4\n", "NaN or infinite value in row 2"),
        ("p.csv", "1,2\nfour,4\n", "line 2 has the text 'four'"),
        ("p.csv", b"1,\xff\n", "cannot be read"),
        ("p.parquet", "1,2\n3,4\n", "unknown extension; save the points as .npy or .csv"),
        ("p.npy", None, "no such file"),
        ("p.npy", b"", "empty"),
        ("p.npy", b"no array", "cannot be read"),
        ("p.npy", np.zeros((0, 2)), "empty"),
        ("p.npy", np.zeros((4, 3)), r"\[4, 3\]; give N rows of two columns"),
        ("p.npy", np.zeros(4), r"\[4\]; give N rows"),
        ("p.npy", np.array([[0.0, 1.0], [np.inf, 2.0]]), "row 2; remove such rows"),
        ("p.npy", np.array([["1", "2"]]), "not real numbers"),
        ("p.npy", np.array([[1j, 2j]]), "not real numbers"),
        ("p.npy", np.array([[1, None]], dtype=object), "Object arrays"),
        ("p.npy", np.ones((3, 2)), "give bandwidth a number"),
    ],
)
def test_bad_points_files_are_refused_in_one_line(name, content, words, tmp_path):
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, OSError), match=words) as caught:
        targets.Points(path=str(path))
    assert str(caught.value).startswith(f"path={path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("as_array", [True, False])
def test_no_code_of_a_points_file_is_run(as_array, tmp_path):
    sprung, path = tmp_path / "sprung", tmp_path / "p.npy"
    if as_array:
        np.save(path, np.array([[Trap(sprung), 1]], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(ValueError, match="cannot be read"):
        targets.Points(path=str(path))
    assert not sprung.exists()


def test_truncated_and_damaged_arrays_are_refused(tmp_path):
    """Whatever byte of the header is wrong, the answer is one line or the right shape."""
    path = tmp_path / "p.npy"
    np.save(path, np.arange(20.0).reshape(10, 2))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole[: random.integers(1, len(whole))] if random.random() < 0.3 else whole)
        damaged[random.integers(min(128, len(damaged)))] = random.integers(256)
        path.write_bytes(damaged)
        try:
            answer = targets.Points(path=str(path), bandwidth=1.0).points.shape[1]
        except ValueError as error:
            answer = str(error)
        assert answer == 2 or (answer.startswith(f"path={path}: ") and "\n" not in answer)


def test_automatic_bandwidth_is_scotts(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 2)) * [1.0, 3.0] + [5.0, 0.0]
    np.save(tmp_path / "a.npy", x.astype(np.float32))
    spread = math.sqrt(x.astype(np.float32).astype(float).var(axis=0).mean())
    assert targets.Points(path=str(tmp_path / "a.npy")).bandwidth == pytest.approx(spread / 2, rel=1e-12)  # 64^(-1/6)


def test_points_from_a_tensor_are_a_copy():
    x = torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    points = targets.Points(path=x, bandwidth=0.5)
    before = points.log_prob(x)
    torch.testing.assert_close(targets.Points(path=points.files["path"], bandwidth=0.5).log_prob(x), before)
    x += 1
    torch.testing.assert_close(points.log_prob(x - 1), before)


def test_points_read_both_formats_alike(tmp_path):
    x = np.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.25]])
    np.save(tmp_path / "a.npy", x)
    (tmp_path / "b.csv").write_text("x,y\n" + "\n".join(f"{a},{b}" for a, b in x) + "\n")
    (tmp_path / "c.csv").write_text("\n".join(f"{a},{b}" for a, b in x) + "\n")
    loaded = [targets.Points(path=str(tmp_path / n), bandwidth=0.3) for n in ("a.npy", "b.csv", "c.csv")]
    y = torch.tensor([0.3, 0.4]).double()
    kernel = np.exp(-((x - y.numpy()) ** 2).sum(-1) / (2 * (0.09 + 0.04))) / (2 * np.pi * (0.09 + 0.04))
    for points in loaded:
        assert float(points.log_prob(y, 0.2)) == pytest.approx(math.log(kernel.mean()), rel=1e-9)
