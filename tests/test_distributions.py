"""Every target, from one table: exact identities that only the right density and the right score fulfil."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from ncsn_lightning import distributions as targets

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


@pytest.mark.parametrize("relative", [0.5, 3.0])
def test_density_integrates_to_one(target, relative):
    """On a grid of half a smoothed scale: the trapezoid rule is then exact for these densities."""
    sigma = relative * max(target.scale, 0.1)
    reach = float(target.typical_points.abs().max()) + 6 * sigma + 6 * target.scale * (sigma < 1)
    step = min(0.5 * math.hypot(target.scale * (target.scale < 0.5), sigma), reach / 100)
    axis = torch.arange(-reach, reach, step, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    mass = sum(float(target.log_prob(part, sigma).exp().sum()) for part in grid.split(20_000)) * step**2
    assert mass == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("sigma", [0.02, 0.5, 5.0])
def test_score_is_the_gradient_of_the_log_density(target, sigma):
    x = noisy(target, 2 * sigma, 40).requires_grad_()
    (gradient,) = torch.autograd.grad(target.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(target.score(x.detach(), sigma), gradient, rtol=1e-6, atol=1e-7 / sigma)


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_heat_equation(target, sigma):
    """∂p/∂(σ²) = ½ Δp, that is ∂ log p/∂(σ²) = ½ (∇·s + ‖s‖²)."""
    x = noisy(target, sigma, 10).requires_grad_()
    variance = torch.full((10,), sigma**2, dtype=torch.float64, requires_grad=True)
    log_p = target.log_prob(x, variance.sqrt())
    rate, score = torch.autograd.grad(log_p.sum(), (variance, x), create_graph=True)
    divergence = sum(torch.autograd.grad(score[:, d].sum(), x, retain_graph=True)[0][:, d] for d in range(2))
    torch.testing.assert_close(rate, 0.5 * (divergence + score.square().sum(-1)), rtol=1e-5, atol=1e-6)


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
    """χ² of a 12 × 12 histogram of noisy samples against the integrated density."""
    sigma, n, cells, fine = max(0.05, target.scale / 2), 20_000, 12, 24
    x = noisy(target, sigma, n, seed=1)
    low, high = x.min(0).values - 0.1, x.max(0).values + 0.1
    side = (high - low) / cells
    index = ((x - low) / side).long().clamp(0, cells - 1)
    counts = torch.bincount(index[:, 0] * cells + index[:, 1], minlength=cells**2).double()
    offset = (torch.arange(cells * fine, dtype=torch.float64) + 0.5) / fine
    grid = torch.stack(torch.meshgrid(low[0] + side[0] * offset, low[1] + side[1] * offset, indexing="ij"), -1)
    density = torch.cat([target.log_prob(part, sigma).exp() for part in grid.reshape(-1, 2).split(20_000)])
    mass = density.view(cells, fine, cells, fine).mean((1, 3)).flatten() * side.prod()
    expected = n * mass
    kept = expected > 5
    statistic = float(((counts - expected).square() / expected)[kept].sum())
    assert chi2.sf(statistic, int(kept.sum()) - 1) > 1e-4
    assert float(counts[~kept].sum()) == pytest.approx(float(expected[~kept].sum()), abs=5 * math.sqrt(n * 0.02) + 5)


def test_mean_and_covariance(target):
    n = 40_000
    x = target.sample(n, generator=torch.Generator().manual_seed(2)).double()
    deviation = x.std(0)
    assert ((x.mean(0) - target.mean).abs() < 5 * deviation / math.sqrt(n)).all()
    scale = deviation[:, None] * deviation[None, :]
    assert ((x.T.cov() - target.covariance).abs() < 0.03 * scale).all()


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


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for log_ndtr
def test_sigma_broadcasts_and_vmap_agrees(target):
    x = noisy(target, 0.5, 6).view(3, 2, 2)
    sigma = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    whole = target.score(x, sigma[:, None])
    for row, level in zip(range(3), sigma, strict=True):
        torch.testing.assert_close(whole[row], target.score(x[row], float(level)))
    torch.testing.assert_close(torch.func.vmap(target.score)(x, sigma), whole)
    torch.testing.assert_close(target.score(x[0, 0], 0.1), whole[0, 0])
    torch.testing.assert_close(target.log_prob(x, sigma[:, None])[1], target.log_prob(x[1], 0.5))


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


def arc(t):
    return torch.stack([2 * torch.cos(t) - 1, 2 * torch.sin(t)], -1), torch.stack(
        [1 - 2 * torch.cos(t), 1 - 2 * torch.sin(t)], -1
    )


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.3, 5.0])
def test_moons_quadrature_against_a_much_finer_one(sigma):
    """Midpoint rule of 400 000 nodes a moon in log space, near, inside, outside and far away."""
    x = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.98, 1.0], [-3.3, -0.4], [3.0, 3.0], [20.0, -30.0]]).double()
    n = 400_000
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n * math.pi
    variance = 0.1**2 + sigma**2
    logs = [-(x[:, None] - curve).square().sum(-1) / (2 * variance) for curve in arc(t)]
    reference = torch.logsumexp(torch.cat(logs, -1), -1) - math.log(2 * n) - math.log(2 * math.pi * variance)
    torch.testing.assert_close(targets.Moons().log_prob(x, sigma), reference, rtol=1e-6, atol=1e-6)


def test_entropies_of_closed_form():
    board = targets.Checkerboard(cell_size=2.0)
    x = board.sample(2000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(-board.log_prob(x), torch.full((2000,), math.log(8 * 4)))
    for target, entropy in [
        (targets.FortyGaussians(), 6.859),
        (targets.TwoGaussians(), math.log(2 * math.pi * math.e) - 0.8 * math.log(0.8) - 0.2 * math.log(0.2)),
    ]:
        surprise = -target.log_prob(target.sample(200_000, generator=torch.Generator().manual_seed(0)).double())
        assert float(surprise.mean()) == pytest.approx(entropy, abs=0.0015 + 5 * float(surprise.std()) / math.sqrt(2e5))


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


def test_checkerboard_edges_and_corners():
    board = targets.Checkerboard()
    inside, outside = torch.tensor([[0.5, 0.5], [-1.5, -1.5]]), torch.tensor([[0.5, -0.5], [2.5, 0.0], [-2.1, -1.5]])
    torch.testing.assert_close(board.log_prob(inside), torch.full((2,), -math.log(8)))
    assert torch.isneginf(board.log_prob(outside)).all()
    edge = torch.tensor([[0.0, 0.5]]).double()  # half of the mass lies on one side of an edge, far from corners
    assert float(board.log_prob(edge, 0.01).exp()) == pytest.approx(1 / 16, rel=1e-9)
    expected = 1 / (0.01 * math.sqrt(2 * math.pi)) / 0.5
    torch.testing.assert_close(board.score(edge, 0.01), torch.tensor([[expected, 0.0]]).double(), rtol=1e-7, atol=1e-9)
    corner = torch.tensor([[0.0, 0.0]]).double()  # two of four cells: the gradients cancel
    assert float(board.log_prob(corner, 0.01).exp()) == pytest.approx(1 / 16, rel=1e-9)
    torch.testing.assert_close(board.score(corner, 0.01), torch.zeros(1, 2).double(), atol=1e-9, rtol=0)


def test_forty_means_are_the_literatures():
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    means = (torch.rand(40, 2) - 0.5) * 80
    torch.random.set_rng_state(state)
    far = targets.FortyGaussians(std=1e-3)
    log_p = far.log_prob(means.double(), 0.0)
    torch.testing.assert_close(log_p, log_p.mean().expand(40), atol=1e-3, rtol=0)
    assert float(log_p.mean()) == pytest.approx(-math.log(40) - math.log(2 * math.pi * 1e-6), abs=1e-3)


def test_point_masses_have_a_score_at_positive_sigma():
    masses = targets.TwoGaussians(std=0.0)
    x = torch.tensor([[5.5, 5.0]]).double()
    torch.testing.assert_close(masses.score(x, 1.0), torch.tensor([[-0.5, 0.0]]).double(), atol=1e-9, rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler itself
@pytest.mark.parametrize("name", ["checkerboard", "two_gaussians", "circles"])
def test_compiled_score_is_the_score(name):
    target = TABLE[name]()
    x = noisy(target, 0.3, 64)
    compiled = torch.compile(target.score, fullgraph=True)
    torch.testing.assert_close(compiled(x, torch.tensor(0.3)), target.score(x, torch.tensor(0.3)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: targets.Checkerboard(cell_size=0.0), "cell_size"),
        (lambda: targets.Moons(noise=-1.0), "noise"),
        (lambda: targets.TwoGaussians(weight=1.0), "weight"),
        (lambda: targets.EightGaussians(modes=1), "modes"),
        (lambda: targets.Rings(rings=0), "rings"),
        (lambda: targets.SwissRoll(start=9.0, stop=5.0), "start"),
        (lambda: targets.Circles(noise="wide"), "noise"),
    ],
)
def test_wrong_arguments_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.csv", None, "no such file|missing|not found|does not exist"),
        ("p.csv", "", "empty|no points|holds no"),
        ("p.csv", "1,2,3\n4,5,6\n", "column"),
        ("p.csv", "1,2\nnan,4\n", "nan|finite"),
        ("p.csv", "1,2\nfour,4\n", "number|text"),
        ("p.dat", "1,2\n3,4\n", "npy"),
    ],
)
def test_bad_points_files_are_refused(name, content, words, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises((ValueError, OSError), match=f"(?i){words}") as caught:
        targets.Points(path=str(path))
    assert name in str(caught.value)


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
