"""Samplers on the exact score: what they must give is known in closed form or from published numbers."""

import itertools
import math

import pytest
import torch

from ncsn_lightning import (
    DDPM,
    MALA,
    AdaptiveODE,
    Ancestral,
    AnnealedLangevin,
    Checkerboard,
    ConsistentAnnealed,
    Energy,
    Euler,
    ExactScore,
    Geometric,
    Heun,
    Karras,
    Langevin,
    Linear,
    Multistep,
    PredictorCorrector,
    Raw,
    StochasticHeun,
    TwoGaussians,
    UnderdampedLangevin,
)
from ncsn_lightning.models.networks import MLP, SinusoidalEmbedding


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


class Counted:
    """The density N(0, I) at every level, with its score; it counts how often that is asked for."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, sigma):
        self.calls += 1
        return -x

    def log_density(self, x, sigma):
        return -x.square().sum(-1) / 2


@pytest.mark.parametrize("num_levels", [1, 2, 5])
@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda **keys: AnnealedLangevin(step_ratio=0.1, steps_per_level=7, **keys),
        lambda **keys: Langevin(step=0.1, steps_per_level=7, **keys),
        lambda **keys: UnderdampedLangevin(step_ratio=0.1, steps_per_level=7, **keys),
        lambda **keys: MALA(step_ratio=0.1, steps_per_level=7, **keys),
        lambda **keys: ConsistentAnnealed(step_ratio=1.0, **keys),
        lambda **keys: PredictorCorrector(corrector_steps=3, **keys),
        *(Ancestral, Euler, Heun, Multistep, StochasticHeun),
    ],
)
def test_evaluations_are_counted_right(make, denoise, num_levels):
    sampler, score = make(denoise=denoise), Counted()
    sampler(score, torch.ones(3, 2), torch.linspace(1.0, 0.5, num_levels))
    assert score.calls == sampler.evaluations(num_levels)


def test_the_adaptive_solver_keeps_its_budget():
    sampler, score = AdaptiveODE(max_evaluations=60), Counted()
    sampler(score, torch.ones(3, 2), torch.tensor([1.0, 0.5]))
    assert 8 < score.calls <= sampler.evaluations(2) == 61


@pytest.mark.parametrize(
    ("sampler", "levels"),
    [
        (AnnealedLangevin(step_ratio=0.1, steps_per_level=1), [2.0, 2.0, 1.0, 0.5]),
        (AnnealedLangevin(step_ratio=0.1, steps_per_level=1, denoise=True), [2.0, 2.0, 1.0, 0.0]),
        (Euler(denoise=False), [2.0, 1.0, 0.5, 0.5]),
        (Heun(), [2.0, 1.0, 0.5, 0.0]),
    ],
)
def test_states_are_at_the_levels_that_they_reach(sampler, levels):
    sigmas = torch.tensor([2.0, 1.0, 0.5])
    assert sampler.reached(sigmas).tolist() == levels
    walk = sampler.walk(TwoGaussians().score, TwoGaussians(), sigmas, n=3, seed=0)
    assert len(list(walk)) == len(levels)


@pytest.mark.parametrize("ladder", [Geometric, Karras])
def test_consistent_annealing_is_exact_on_a_point_mass(ladder, generator):
    """Each state has the variance σ_i² of its level, whatever η and the ladder; denoised, it is the point."""
    n, sigmas = 40_000, ladder(sigma_min=0.1, sigma_max=3.0, num_levels=8).sigmas
    point = torch.tensor([1.0, -2.0])

    def score(x, sigma):
        return (point - x) / sigma**2

    for eta in (0.7, 1.2):
        sampler = ConsistentAnnealed(step_ratio=eta)
        start = point + sigmas[0] * torch.randn(n, 2, generator=generator)
        *states, last = sampler.trajectory(score, start, sigmas, generator=generator)
        for state, sigma in zip(states, sampler.reached(sigmas)[1:], strict=False):
            ratio = (state - point).var(0) / sigma**2
            torch.testing.assert_close(ratio, torch.ones(2), rtol=0, atol=4 * math.sqrt(2 / n))
        torch.testing.assert_close(last, point.expand(n, 2), rtol=1e-4, atol=1e-4)


def test_ancestral_steps_on_the_ddpm_ladder_are_ddpms_own(generator):
    """Algorithm 2 of Ho et al. in x_VP, with the noise of our walk in x_VP / √ᾱ."""
    steps, target = 100, TwoGaussians()
    beta = torch.linspace(1e-3, 0.1, steps, dtype=torch.float64)
    signal = (1 - beta).cumprod(0)
    sigmas = DDPM(num_levels=steps, num_steps=steps, beta_min=1e-3, beta_max=0.1).sigmas.double()
    start = sigmas[0] * torch.randn(50, 2, generator=generator, dtype=torch.float64)
    ours = Ancestral()(target.score, start, sigmas, generator=torch.Generator().manual_seed(3))
    noise = torch.Generator().manual_seed(3)
    x = start * signal[-1].sqrt()
    for t in reversed(range(steps)):
        sigma = ((1 - signal[t]) / signal[t]).sqrt()
        epsilon = -sigma * target.score(x / signal[t].sqrt(), float(sigma))
        x = (x - beta[t] / (1 - signal[t]).sqrt() * epsilon) / (1 - beta[t]).sqrt()
        if t > 0:
            variance = (1 - signal[t - 1]) / (1 - signal[t]) * beta[t]
            x = x + variance.sqrt() * torch.empty_like(x).normal_(generator=noise)
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)  # the ladder is in single precision


@pytest.mark.parametrize(("num_levels", "steps", "best"), [(10, 100, 0.036), (50, 5, 0.161), (232, 5, 0.052)])
def test_automatic_step_is_technique_4(num_levels, steps, best):
    """The values that NCSNv2's formula gives for σ from 10 to .01."""
    sigmas = Geometric(sigma_min=0.01, sigma_max=10.0, num_levels=num_levels).sigmas
    assert AnnealedLangevin(step_ratio="auto", steps_per_level=steps).ratio(sigmas) == pytest.approx(best, abs=6e-4)


def test_the_automatic_step_brings_the_variance_on_a_point_mass_nearest_to_its_level(generator):
    """What the formula promises, from the level above; twice or half the step is further off."""
    sigmas, n = torch.tensor([1.0, 0.5]), 40_000
    best = AnnealedLangevin(step_ratio="auto", steps_per_level=5).ratio(sigmas)
    off = []
    for a in (best / 2, best, 2 * best):
        chain = AnnealedLangevin(step_ratio=a, steps_per_level=5)
        x = chain(lambda x, s: -x / s**2, torch.randn(n, 2, generator=generator), sigmas[1:], generator=generator)
        off.append(abs(float(x.var()) / 0.25 - 1))
    assert off[1] < min(off[0], off[2]) - 4 * math.sqrt(1 / n)


def test_the_ode_keeps_the_weights_from_a_prior_about_the_mean_and_not_from_one_beside_it(generator):
    """.80 against .746: at σ_max the target is not N(0, σ_max² I)."""
    n, target = 10_000, TwoGaussians()
    sigmas = Karras(sigma_min=0.01, sigma_max=target.diameter, num_levels=18).sigmas
    for prior, shift, weight in (("moment_matched", 0.0, 0.80), ("gaussian", 0.0, 0.805), ("gaussian", -3.0, 0.746)):
        sampler = Heun(prior=prior)
        start = sampler.start(n, target, sigmas[0], generator=generator) + shift
        x = sampler(target.score, start, sigmas)
        assert heavy_weight(x) == pytest.approx(weight, abs=4 * math.sqrt(weight * (1 - weight) / n) + 0.005)


def energy_model():
    network = MLP(embedding=SinusoidalEmbedding(dim=8), hidden_dims=[8])
    return Energy(network=network, sigma_data=1.0)


def test_mala_needs_a_density(generator):
    sampler, x, sigmas = MALA(step_ratio=0.5, steps_per_level=2), torch.zeros(3, 2), torch.tensor([1.0])
    for score in (TwoGaussians().score, Raw(network=energy_model().network)):
        with pytest.raises(ValueError, match=r"MALA accepts and rejects by log p_σ, which .* use score=energy"):
            sampler(score, x, sigmas)
    for density in (ExactScore(TwoGaussians()), energy_model()):
        assert sampler(density, x, sigmas, generator=generator).isfinite().all()


def test_an_energys_score_is_the_gradient_of_its_log_density(generator):
    model, x = energy_model(), torch.randn(6, 2, generator=generator)
    torch.nn.init.normal_(model.network.last.weight, generator=generator)
    gradient = torch.func.grad(lambda x: model.log_density(x, 0.7).sum())(x)
    torch.testing.assert_close(model(x, 0.7), gradient)


def test_churn_of_nothing_is_heun(generator):
    sigmas, x = Karras(sigma_min=0.1, sigma_max=5.0, num_levels=6).sigmas, torch.randn(9, 2, generator=generator)
    plain, still = Heun(), StochasticHeun(s_churn=0.0, s_noise=2.0)
    assert torch.equal(plain(TwoGaussians().score, x, sigmas), still(TwoGaussians().score, x, sigmas))


@pytest.mark.parametrize(
    ("sampler", "sigmas", "line"),
    [
        (
            ConsistentAnnealed(step_ratio=0.4),
            [1.0, 0.5],
            r"step_ratio=0\.4 .* from σ=1 to 0\.5 γ is 0\.5; keep it betwe",
        ),
        (ConsistentAnnealed(step_ratio=1.6), [1.0, 0.5], r"between 0\.5 and 1\.5, or raise schedule\.num_levels"),
        (ConsistentAnnealed(step_ratio=0.4), Linear(sigma_min=0.1, sigma_max=1.0).sigmas.tolist(), "from σ=0.2 to 0.1"),
        (AnnealedLangevin(step_ratio="auto"), [1.0], r"step_ratio='auto' .* two levels.* give a number"),
    ],
)
def test_a_ladder_that_does_not_fit_is_refused(sampler, sigmas, line):
    with pytest.raises(ValueError, match=line):
        sampler.check(torch.tensor(sigmas))


def test_consistent_annealing_takes_every_step_inside_its_bounds_and_any_single_level():
    ConsistentAnnealed(step_ratio=0.51).check(torch.tensor([1.0, 0.5]))
    ConsistentAnnealed(step_ratio=0.1).check(torch.tensor([1.0]))


def test_kinetic_chains_blow_up_beyond_the_bound_of_their_step(generator):
    """b < 2 is sharp on a point mass."""
    x, sigmas = torch.randn(100, 2, generator=generator), torch.tensor([1.0])

    def score(x, sigma):
        return -x / sigma**2

    stable = UnderdampedLangevin(step_ratio=1.9, friction=0.1, steps_per_level=400)
    assert float(stable(score, x, sigmas, generator=generator).abs().max()) < 10
    beyond = UnderdampedLangevin.__new__(UnderdampedLangevin)
    beyond.__dict__.update(stable.__dict__, step_ratio=2.1)
    assert not float(beyond(score, x, sigmas, generator=generator).abs().max()) < 1e6


@pytest.mark.parametrize(
    ("prior", "mean", "variance"),
    [
        ("gaussian", [3.0, 3.0], [9.0, 9.0]),
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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UnderdampedLangevin(step_ratio=2.0), "less than 2"),
        (lambda: UnderdampedLangevin(step_ratio=0.5, friction=-1.0), "friction"),
        (lambda: ConsistentAnnealed(step_ratio=2.5), "less than 2"),
        (lambda: MALA(step_ratio=0.0), "greater than 0"),
        (lambda: PredictorCorrector(predictor="euler"), "'reverse_diffusion' or 'ancestral'"),
        (lambda: PredictorCorrector(corrector_steps=-1), "corrector_steps"),
        (lambda: StochasticHeun(s_tmin=2.0, s_tmax=1.0), r"s_tmin=2 exceeds s_tmax=1"),
        (lambda: StochasticHeun(s_churn=-1.0), "s_churn"),
        (lambda: AdaptiveODE(rtol=0.0), "rtol"),
        (lambda: AdaptiveODE(method="rk4"), "'dopri5', 'dopri8' or 'bosh3'"),
    ],
)
def test_wrong_arguments_of_the_others_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


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
