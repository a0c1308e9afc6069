"""Samplers on the exact score: what they must give is known in closed form or from published numbers."""

import itertools
import math

import pytest
import torch

from ncsn_lightning import AnnealedLangevin, Geometric, Langevin, TwoGaussians
from ncsn_lightning.distributions import Checkerboard


def gaussian_score(variance):
    def score(x, sigma):
        return -x / variance

    return score


def heavy_weight(x):
    """Share of the samples at the mode of weight .8."""
    return float((x.sum(-1) > 0).double().mean())


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_langevin_reaches_its_stationary_variance(alpha, generator):
    """Unadjusted Langevin on N(0, v) settles at v / (1 − α / 2v), not at v."""
    v, n = 0.7, 40_000
    x = math.sqrt(v) * torch.randn(n, 2, generator=generator)
    sampler = Langevin(step=alpha * v, steps_per_level=math.ceil(20 / alpha))
    x = sampler(gaussian_score(v), x, torch.tensor([1.0]), generator=generator)
    expected = v / (1 - alpha * v / (2 * v))
    assert float(x.var()) == pytest.approx(expected, abs=4 * expected * math.sqrt(2 / (2 * n)))


@pytest.mark.parametrize("steps", [1, 3])
def test_annealed_langevin_follows_the_recursion_of_the_variance(steps, generator):
    """On p_σ = N(0, v + σ²): v' = (1 − α/(v + σ²))² v + 2α, step by step down the ladder."""
    v, n = 0.5, 100_000
    sigmas = Geometric(sigma_min=0.2, sigma_max=2.0, num_levels=5).sigmas

    def score(x, sigma):
        return -x / (v + sigma**2)

    x = 2.0 * torch.randn(n, 2, generator=generator)
    x = AnnealedLangevin(step_ratio=0.3, steps_per_level=steps)(score, x, sigmas, generator=generator)
    variance = 4.0
    for sigma in sigmas.tolist():
        for _ in range(steps):
            alpha = 0.3 * sigma**2
            variance = (1 - alpha / (v + sigma**2)) ** 2 * variance + 2 * alpha
    assert float(x.var()) == pytest.approx(variance, abs=4 * variance / math.sqrt(n))


def test_the_last_denoising_step_is_the_posterior_mean(generator):
    target, sigmas = TwoGaussians(), torch.tensor([2.0, 0.5])
    x = torch.randn(100, 2, generator=generator)
    plain = AnnealedLangevin(step_ratio=0.1, steps_per_level=3)
    walked = plain(target.score, x, sigmas, generator=torch.Generator().manual_seed(1))
    denoised = AnnealedLangevin(step_ratio=0.1, steps_per_level=3, denoise=True)(
        target.score, x, sigmas, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(denoised, walked + 0.25 * target.score(walked, 0.5))


def test_plain_langevin_forgets_the_weights(generator):
    """From [−8, 8]² to the nearest mode: weight about .51 instead of .8."""
    n = 4000
    x = 16 * torch.rand(n, 2, generator=generator) - 8
    x = Langevin(step=0.05, steps_per_level=1000)(TwoGaussians().score, x, torch.tensor([0.0]), generator=generator)
    assert heavy_weight(x) == pytest.approx(0.51, abs=4 * math.sqrt(0.25 / n))


def test_annealing_keeps_the_weights(generator):
    """NCSN's toy (σ replaces the components' deviation): weight about .784."""
    n = 4000
    sigmas = Geometric(sigma_min=1.0, sigma_max=20.0, num_levels=10).sigmas
    x = 16 * torch.rand(n, 2, generator=generator) - 8
    sampler = AnnealedLangevin(base_step=0.05, steps_per_level=100)
    x = sampler(TwoGaussians(std=0.0).score, x, sigmas, generator=generator)
    assert heavy_weight(x) == pytest.approx(0.784, abs=4 * math.sqrt(0.784 * 0.216 / n))


def test_base_step_is_the_ratio_over_the_last_variance(generator):
    sigmas = Geometric(sigma_min=0.1, sigma_max=1.0, num_levels=3).sigmas
    by_c, by_a = AnnealedLangevin(base_step=1e-3), AnnealedLangevin(step_ratio=0.1)
    assert by_c.ratio(sigmas) == pytest.approx(0.1)
    x = torch.randn(10, 2, generator=generator)
    first, second = (
        s(gaussian_score(1.0), x, sigmas, generator=torch.Generator().manual_seed(0)) for s in (by_c, by_a)
    )
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_trajectory_yields_a_state_a_level_and_leaves_the_start_alone(generator):
    sigmas = Geometric(sigma_min=0.1, sigma_max=1.0, num_levels=4).sigmas
    x = torch.randn(10, 2, generator=generator)
    before = x.clone()
    sampler = AnnealedLangevin(step_ratio=0.1, steps_per_level=2, denoise=True)
    states = list(sampler.trajectory(gaussian_score(1.0), x, sigmas, generator=torch.Generator().manual_seed(0)))
    assert len(states) == 4
    assert torch.equal(x, before)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(states))
    last = sampler(gaussian_score(1.0), x, sigmas, generator=torch.Generator().manual_seed(0))
    assert torch.equal(states[-1], last)


def test_gradients_stay_on_between_states():
    """The loop runs without gradients, its caller's are untouched while it yields."""
    walk = AnnealedLangevin(step_ratio=0.1, steps_per_level=1).trajectory(
        gaussian_score(1.0), torch.zeros(2, 2), torch.tensor([1.0, 0.5])
    )
    next(walk)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "sampler", [AnnealedLangevin(step_ratio=0.1, steps_per_level=7, denoise=True), Langevin(step=0.1)]
)
def test_evaluations_are_counted_right(sampler):
    calls = 0

    def score(x, sigma):
        nonlocal calls
        calls += 1
        return -x

    sampler(score, torch.zeros(3, 2), torch.tensor([1.0, 0.7, 0.5]))
    assert calls == sampler.evaluations(3)


@pytest.mark.parametrize(
    ("prior", "mean", "variance"),
    [
        ("gaussian", [0.0, 0.0], [9.0, 9.0]),
        ("moment_matched", [3.0, 3.0], [26.0, 26.0]),  # .8·5 − .2·5; 1 + 25 − 9 + 9
    ],
)
def test_priors_have_their_moments(prior, mean, variance, generator):
    n = 40_000
    sampler = AnnealedLangevin(step_ratio=0.1, prior=prior)
    x = sampler.start(n, TwoGaussians(), 3.0, generator=generator)
    deviation = math.sqrt(variance[0])
    torch.testing.assert_close(x.mean(0), torch.tensor(mean), atol=5 * deviation / math.sqrt(n), rtol=0)
    torch.testing.assert_close(x.var(0), torch.tensor(variance), rtol=5 * math.sqrt(2 / n), atol=0)


def test_uniform_prior_fills_the_square_of_the_target(generator):
    x = Langevin(step=0.1, prior="uniform").start(20_000, Checkerboard(), 1.0, generator=generator)
    assert 1.99 < float(x.abs().max()) <= 2.0
    torch.testing.assert_close(x.var(0), torch.full((2,), 4 / 3), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one"),
        ({"step_ratio": 0.1, "base_step": 1e-5}, "exactly one"),
        ({"step_ratio": 2.0}, "less than 2"),
        ({"step_ratio": -0.1}, "greater than 0"),
        ({"step_ratio": 0.1, "steps_per_level": 0}, "steps_per_level"),
        ({"step_ratio": 0.1, "prior": "cauchy"}, "prior"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        AnnealedLangevin(**arguments)


@pytest.mark.parametrize(("target", "sigma"), [(TwoGaussians(), 0.01), (TwoGaussians(std=0.0), 1.0)])
def test_plain_langevin_blows_up_beyond_the_step_that_is_refused(target, sigma, generator):
    """2(1 + σ²) for modes of unit variance, 2σ² for point masses."""
    limit, sigmas = 2 * (target.scale**2 * (target.scale == 1) + sigma**2), torch.tensor([sigma])
    stable, unstable = (Langevin(step=share * limit, steps_per_level=1000) for share in (0.95, 1.05))
    stable.check_target(target, sigmas)
    with pytest.raises(ValueError, match=r"step=2\.1\d* makes the chain unstable.*keep step below 2"):
        unstable.check_target(target, sigmas)
    ends = [s(target.score, target.sample(100, generator=generator), sigmas) for s in (stable, unstable)]
    assert float(ends[0].abs().max()) < 50
    assert not float(ends[1].abs().max()) < 1e6


def test_an_unstable_base_step_is_refused_before_any_step():
    sampler = AnnealedLangevin(base_step=0.1)
    with pytest.raises(ValueError, match=r"base_step=0\.1 makes the chain unstable.*below 0\.02"):
        sampler.check(torch.tensor([1.0, 0.1]))
