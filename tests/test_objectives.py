import math

import pytest
import torch

from ncsn_lightning import Checkerboard, Denoising, Exact, SigmaPower, StableTarget, TwoGaussians
from ncsn_lightning.objectives.regression_targets import squared_error

TARGET = TwoGaussians()
SIGMAS = torch.tensor([0.01, 0.1, 1.0, 10.0])


def zero(x, sigma):
    return torch.zeros_like(x)


def draw(n, generator):
    """`n` clean points and their noise at each of SIGMAS: x [4, n, 2], sigma [4, 1], noise [4, n, 2]."""
    x = TARGET.sample(4 * n, generator=generator).view(4, n, 2)
    return x, SIGMAS.unsqueeze(-1), torch.randn(4, n, 2, generator=generator)


def test_zero_score_loses_the_dimension_at_every_level(generator):
    """With λ = σ² and s ≡ 0 the denoising loss is E‖z‖² = 2."""
    n = 40_000
    x, sigma, noise = draw(n, generator)
    noisy = x + sigma.unsqueeze(-1) * noise
    error = squared_error(zero(noisy, sigma), Denoising().target(x, sigma, noise))
    loss = (SigmaPower()(sigma) * error).mean(-1)
    torch.testing.assert_close(loss, torch.full((4,), 2.0), atol=5 * 2 / math.sqrt(n), rtol=0)  # Var‖z‖² = 4


@pytest.mark.parametrize("factor", [0.0, 0.9, 1.3])
def test_loss_minus_the_constant_is_the_fisher_error(factor, generator):
    """DSM(σ) − (D/σ² − E‖s‖²) = E‖s_θ − s‖², here with s_θ = factor · s; in units of σ²."""
    n = 40_000
    x, sigma, noise = draw(n, generator)
    x, sigma, noise = x.double(), sigma.double(), noise.double()

    def model(x, sigma):
        return factor * TARGET.score(x, sigma)

    noisy = x + sigma.unsqueeze(-1) * noise
    square = TARGET.score(noisy, sigma).square().sum(-1)
    error = squared_error(model(noisy, sigma), Denoising().target(x, sigma, noise))
    gap = error - (2 / sigma**2 - square) - (1 - factor) ** 2 * square
    gap = gap * sigma**2
    assert (gap.mean(-1).abs() < 5 * gap.std(-1) / math.sqrt(n)).all()


def posterior_draws(noisy, sigma, generator):
    """Noise z of points x ~ p(x | x̃) of the checkerboard, x̃ = x + σz, by rejection."""
    noise, left = torch.empty_like(noisy), torch.ones(len(noisy), dtype=torch.bool)
    while left.any():
        noise[left] = torch.randn(int(left.sum()), 2, generator=generator)
        left = Checkerboard().log_prob(noisy - sigma * noise).isinf()
    return noise


@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_stable_target_has_the_score_as_its_mean(sigma, generator):
    """At fixed noisy points beside the checkerboard's edges, over fresh pools and draws of the posterior."""
    n, repeats = 2000, 30
    target, level = Checkerboard(), torch.tensor([sigma])
    x = target.sample(n, generator=generator)
    x[:, 0] = x[:, 0].round() + sigma * (4 * torch.rand(n, generator=generator) - 2)
    noisy = x[target.log_prob(x, sigma) > -4]
    exact = target.score(noisy, level)
    objective = StableTarget(distribution=target)
    projections = []
    for _ in range(repeats):
        noise = posterior_draws(noisy, sigma, generator)
        field = objective.target(noisy - sigma * noise, level, noise, generator=generator)
        projections.append(((field - exact) * exact).sum(-1).mean() / exact.square().sum(-1).mean())
    projections = torch.stack(projections)
    outside = 0.01  # of the score: the posterior's mass further than the cells
    assert abs(projections.mean()) < 4 * projections.std() / math.sqrt(repeats) + outside


@pytest.mark.parametrize("objective", [Exact(distribution=TARGET), Denoising()])
def test_other_targets_have_the_score_as_their_mean(objective, generator):
    """E[(target − s) · s] = 0."""
    n = 20_000
    x, sigma, noise = draw(n, generator)
    exact = TARGET.score(x + sigma.unsqueeze(-1) * noise, sigma)
    projection = ((objective.target(x, sigma, noise) - exact) * exact).sum(-1) * sigma**2
    assert (projection.mean(-1).abs() <= 5 * projection.std(-1) / math.sqrt(n)).all()


def test_stable_target_has_a_fraction_of_the_variance_of_denoising_and_exact_none(generator):
    """Some twentieth where the pool has many points within σ, as here at all levels above .03."""
    n = 4000
    x, sigma, noise = draw(n, generator)
    exact = TARGET.score(x + sigma.unsqueeze(-1) * noise, sigma)

    def variance(objective):
        field = objective.target(x, sigma, noise, generator=generator)
        return ((field - exact).square().sum(-1) * sigma**2).mean(-1)

    stable, plain = variance(StableTarget(distribution=TARGET)), variance(Denoising())
    assert (stable[1:] < 0.1 * plain[1:]).all()
    assert stable[0] < plain[0]
    torch.testing.assert_close(variance(Exact(distribution=TARGET)), torch.zeros(4), atol=1e-10, rtol=0)


def test_stable_target_is_the_posterior_mean(generator):
    """By the definition, one row at a time, in float64, over the row's own point and those in the cells around."""
    x, sigma, noise = (t.double() for t in draw(5, generator))
    objective = StableTarget(distribution=TARGET, num_references=300, pool_size=300)
    field = objective.target(x, sigma, noise, generator=torch.Generator().manual_seed(3))
    pool = TARGET.sample(300, generator=torch.Generator().manual_seed(3)).double()
    counts = []
    for level in range(4):
        s = float(sigma[level])
        width = 2.2 * 2 ** ((math.floor(2 * math.log2(s)) + 1) / 2)
        for row in range(5):
            noisy = x[level, row] + s * noise[level, row]
            cells = [((points - pool.amin(0)) / width).floor() for points in (pool, noisy)]
            near = pool[((cells[0] - cells[1]).abs() <= 1).all(-1)]
            counts.append(len(near))
            points = torch.cat([x[level, row : row + 1], near])
            weight = torch.softmax(-(noisy - points).square().sum(-1) / (2 * s * s), 0)
            expected = (weight @ points - noisy) / s**2
            torch.testing.assert_close(field[level, row], expected)
    assert min(counts) == 0
    assert max(counts) == 300


def test_stable_target_of_a_share_is_the_share_of_the_targets(generator):
    x, sigma, noise = draw(64, generator)
    objective = StableTarget(distribution=TARGET, pool_size=2000)
    whole = objective.target(x, sigma, noise, generator=torch.Generator().manual_seed(3))
    share = objective.target(x[1::2], sigma[1::2], noise[1::2], generator=torch.Generator().manual_seed(3))
    assert torch.equal(share, whole[1::2])
