"""Every sampler on an anisotropic, uncentred Gaussian: its law is known without a sample, step by step.

`recursion` states each sampler's rule once more, as a recursion of mean and covariance, from its source; the law that
`closed_form` reads off the sampler must agree with it to rounding, the samples to four standard errors.
"""

import math
from itertools import pairwise

import pytest
import torch

from ncsn_lightning import (
    MALA,
    AdaptiveODE,
    Ancestral,
    AnnealedLangevin,
    ConsistentAnnealed,
    Euler,
    ExactScore,
    GaussianMixture,
    Geometric,
    Heun,
    Karras,
    Langevin,
    Linear,
    Multistep,
    PredictorCorrector,
    StochasticHeun,
    UnderdampedLangevin,
)
from ncsn_lightning.samplers import NotSolvedError
from ncsn_lightning.samplers.closed_form import Gaussian, affine_map, errors, sample_moments, smoothed, wasserstein

EYE = torch.eye(2, dtype=torch.float64)


def tilted(mean=(1.5, -0.7), variances=(1.44, 0.09)):
    """A Gaussian of deviations 1.2 and .3 along axes turned by 37°, off the origin."""
    return GaussianMixture(
        torch.tensor([mean], dtype=torch.float64),
        weights=torch.ones(1),
        variances=torch.tensor([variances], dtype=torch.float64),
        directions=torch.tensor([[0.8, 0.6]], dtype=torch.float64),
        scale=0.3,
    )


TARGET = tilted()
SIGMAS = Geometric(sigma_min=0.05, sigma_max=4.0, num_levels=9).sigmas.double()
START = Gaussian(torch.tensor([-2.0, 1.0], dtype=torch.float64), torch.diag(torch.tensor([9.0, 16.0]).double()))


class Law:
    """A normal law that is led through steps x ← x + k s(x, σ) + deviation · z, with the exact score."""

    def __init__(self, start=START):
        self.mean, self.covariance = start

    def step(self, sigma, slope, deviation=0.0):
        precision = torch.linalg.inv(TARGET.covariance + sigma**2 * EYE)
        self.affine(EYE - slope * precision, slope * precision @ TARGET.mean, deviation**2 * EYE)

    def affine(self, matrix, offset, noise=0):
        self.mean, self.covariance = matrix @ self.mean + offset, matrix @ self.covariance @ matrix.T + noise


def score_map(sigma):
    """s(x, σ) = G x + g."""
    precision = torch.linalg.inv(TARGET.covariance + sigma**2 * EYE)
    return -precision, precision @ TARGET.mean


def annealed_langevin(a=0.3, steps=4):
    law = Law()
    for sigma in SIGMAS.tolist():
        for _ in range(steps):
            law.step(sigma, a * sigma**2, math.sqrt(2 * a) * sigma)
    return law


def langevin(alpha=0.01, steps=50):
    law = Law()
    for _ in range(steps):
        law.step(float(SIGMAS[-1]), alpha, math.sqrt(2 * alpha))
    return law


def consistent_annealed(eta=0.8):
    law = Law()
    for sigma, lower in pairwise(SIGMAS.tolist()):
        beta = math.sqrt(1 - ((1 - eta) * sigma / lower) ** 2)
        law.step(sigma, eta * sigma**2, lower * beta)
    return law


def reverse(ancestral):
    law = Law()
    for sigma, lower in pairwise(SIGMAS.tolist()):
        variance = sigma**2 - lower**2
        law.step(sigma, variance, math.sqrt(variance) * (lower / sigma if ancestral else 1))
    return law


def euler():
    law = Law()
    for sigma, lower in pairwise(SIGMAS.tolist()):
        law.step(sigma, sigma * (sigma - lower))
    return law


def heun_map(sigma, lower):
    """One step of Heun's rule as x ← M x + m."""
    (g, c), (g_low, c_low) = score_map(sigma), score_map(lower)
    k = sigma - lower
    end, shift = EYE + k * sigma * g, k * sigma * c
    return (
        EYE + k / 2 * (sigma * g + lower * g_low @ end),
        k / 2 * (sigma * c + lower * (g_low @ shift + c_low)),
    )


def heun(churn=0.0):
    law = Law()
    for sigma, lower in pairwise(SIGMAS.tolist()):
        gamma = min(churn / len(SIGMAS), math.sqrt(2) - 1) * (0.1 <= sigma <= 2.0)
        raised = sigma * (1 + gamma)
        law.covariance = law.covariance + 1.1**2 * (raised**2 - sigma**2) * EYE
        law.affine(*heun_map(raised, lower))
    return law


def multistep():
    """The weights of the last three denoised points, from a Vandermonde system instead of divided differences."""
    maps, past, (x, shift) = [], [], (EYE, torch.zeros(2, dtype=torch.float64))
    lambdas = [-math.log(sigma) for sigma in SIGMAS.tolist()]

    def denoised(sigma, x, shift):
        g, c = score_map(sigma)
        return x + sigma**2 * g @ x, shift + sigma**2 * (g @ shift + c)

    def advance(x, shift, points, now, then):
        h, nodes = then - now, torch.tensor([time - now for time, _ in points], dtype=torch.float64)
        tau = torch.linspace(0, h, 2001, dtype=torch.float64)
        basis = torch.linalg.solve(torch.vander(nodes, increasing=True).T, torch.eye(len(nodes), dtype=torch.float64))
        values = (torch.exp(tau - h)[:, None] * torch.vander(tau, len(nodes), increasing=True)) @ basis.T
        weights = simpson(values, h)
        x = math.exp(-h) * x + sum(w * d for w, (_, (d, _)) in zip(weights, points, strict=True))
        return x, math.exp(-h) * shift + sum(w * d for w, (_, (_, d)) in zip(weights, points, strict=True))

    for i, sigma in enumerate(SIGMAS.tolist()[:-1]):
        past = [(lambdas[i], denoised(sigma, x, shift)), *past[:2]]
        points = past
        if i == 0:
            ahead = advance(x, shift, past, lambdas[0], lambdas[1])
            points = [*past, (lambdas[1], denoised(float(SIGMAS[1]), *ahead))]
        x, shift = advance(x, shift, points, lambdas[i], lambdas[i + 1])
        maps.append((x, shift))
    law = Law()
    law.affine(x, shift)
    return law


def simpson(values, length):
    """Integral over [0, length] of values on an odd number of equidistant points, by columns."""
    weights = torch.full((len(values),), 2.0, dtype=torch.float64)
    weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
    return weights @ values * length / (len(values) - 1) / 3


def underdamped(b=0.7, friction=1.5, steps=3):
    """BAOAB in the joint variables (x, v), as textbooks write it: the kick in two halves."""
    law, zero = Law(), torch.zeros(2, 2, dtype=torch.float64)
    for sigma in SIGMAS.tolist():
        h, (g, c) = b * sigma, score_map(sigma)
        kept = math.exp(-friction * b)
        kick = torch.cat([torch.cat([EYE, zero], 1), torch.cat([h / 2 * g, EYE], 1)])
        drift = torch.cat([torch.cat([EYE, h / 2 * EYE], 1), torch.cat([zero, EYE], 1)])
        damp = torch.block_diag(EYE, kept * EYE)
        joint = Law(Gaussian(torch.cat([law.mean, torch.zeros(2).double()]), torch.block_diag(law.covariance, EYE)))
        still, push = torch.zeros(4).double(), torch.cat([torch.zeros(2).double(), h / 2 * c])
        for _ in range(steps):
            joint.affine(kick, push)
            joint.affine(drift, still)
            joint.affine(damp, still, torch.block_diag(zero, (1 - kept**2) * EYE))
            joint.affine(drift, still)
            joint.affine(kick, push)
        law.mean, law.covariance = joint.mean[:2], joint.covariance[:2, :2]
    return law


def mean_norm(mean, covariance):
    """E‖s‖ of a normal vector, from E‖s‖ = (2√π)⁻¹ ∫ (1 − E exp(−t‖s‖²)) t^(−3/2) dt, with t = eᵘ."""
    t = torch.linspace(-60, 60, 20_001, dtype=torch.float64).exp()
    m = EYE + 2 * t[:, None, None] * covariance
    laplace = torch.linalg.det(m).rsqrt() * torch.exp(-t * (torch.linalg.solve(m, mean.expand(len(t), 2)) @ mean))
    return float(((1 - laplace) / t.sqrt()).sum() * 120 / 20_000 / (2 * math.sqrt(math.pi)))


def predictor_corrector(r=0.16):
    """With infinitely many chains the corrector's step is a number: E‖z‖ = √(π/2), and E‖s‖ of the law."""
    law = Law()
    for sigma, lower in pairwise(SIGMAS.tolist()):
        law.step(sigma, sigma**2 - lower**2, math.sqrt(sigma**2 - lower**2))
        g, c = score_map(lower)
        norm = mean_norm(g @ law.mean + c, g @ law.covariance @ g.T)
        e = 2 * (r * math.sqrt(math.pi / 2) / norm) ** 2
        law.step(lower, e, math.sqrt(2 * e))
    return law


def flow_map(sigmas):
    """The exact flow about the mean: distances along the axes scale with √(v + σ²)."""
    values, axes = torch.linalg.eigh(TARGET.covariance)
    ratio = ((values + sigmas[-1] ** 2) / (values + sigmas[0] ** 2)).sqrt()
    return axes @ torch.diag(ratio) @ axes.T


def flow(x, sigmas):
    return TARGET.mean + (x - TARGET.mean) @ flow_map(sigmas)


def flowed():
    law, matrix = Law(), flow_map(SIGMAS)
    law.affine(matrix, TARGET.mean - matrix @ TARGET.mean)
    return law


PLAIN = {"denoise": False}
AFFINE = {
    "annealed_langevin": (AnnealedLangevin(step_ratio=0.3, steps_per_level=4), annealed_langevin),
    "langevin": (Langevin(step=0.01, steps_per_level=50), langevin),
    "underdamped": (UnderdampedLangevin(step_ratio=0.7, friction=1.5, steps_per_level=3), underdamped),
    "consistent_annealed": (ConsistentAnnealed(step_ratio=0.8, **PLAIN), consistent_annealed),
    "ancestral": (Ancestral(**PLAIN), lambda: reverse(ancestral=True)),
    "reverse_diffusion": (PredictorCorrector(corrector_steps=0, **PLAIN), lambda: reverse(ancestral=False)),
    "ancestral_predictor": (
        PredictorCorrector(predictor="ancestral", corrector_steps=0, **PLAIN),
        lambda: reverse(ancestral=True),
    ),
    "euler": (Euler(**PLAIN), euler),
    "heun": (Heun(**PLAIN), heun),
    "multistep": (Multistep(**PLAIN), multistep),
    "stochastic_heun": (
        StochasticHeun(s_churn=3.0, s_tmin=0.1, s_tmax=2.0, s_noise=1.1, **PLAIN),
        lambda: heun(churn=3.0),
    ),
}
MEASURED = {
    "predictor_corrector": (PredictorCorrector(**PLAIN), predictor_corrector),
    "adaptive_ode": (AdaptiveODE(rtol=1e-5, atol=1e-5, **PLAIN), flowed),
}


@pytest.mark.parametrize(("sampler", "recursion"), AFFINE.values(), ids=AFFINE)
def test_a_sampler_is_its_recursion(sampler, recursion):
    law, expected = affine_map(sampler, TARGET.score, SIGMAS).push(START), recursion()
    torch.testing.assert_close(law.mean, expected.mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(law.covariance, expected.covariance, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("sampler", "recursion"), [*AFFINE.values(), *MEASURED.values()], ids=[*AFFINE, *MEASURED])
def test_samples_follow_the_recursion(sampler, recursion, generator):
    n, expected = 20_000, recursion()
    start = START.mean + torch.randn(n, 2, generator=generator).double() @ torch.linalg.cholesky(START.covariance).T
    x = sampler(TARGET.score, start.float(), SIGMAS.float(), generator=generator)
    assert_moments(x, expected.mean, expected.covariance)


def assert_moments(x, mean, covariance):
    """Within four standard errors of a normal sample, along and between all axes."""
    found, n = sample_moments(x), len(x)
    deviation = covariance.diagonal().sqrt()
    assert bool(((found.mean - mean).abs() < 4 * deviation / math.sqrt(n)).all())
    error = ((covariance**2 + covariance.diagonal().outer(covariance.diagonal())) / n).sqrt()
    assert bool(((found.covariance - covariance).abs() < 4 * error).all())


@pytest.mark.parametrize(
    ("sampler", "order"), [(Euler(**PLAIN), 1), (Heun(**PLAIN), 2), (Multistep(**PLAIN), 3)], ids=["1", "2", "3"]
)
@pytest.mark.parametrize("ladder", [Karras, Geometric, Linear])
def test_order_of_convergence(sampler, order, ladder):
    """Twice the steps, 2^order times less error, on every kind of ladder."""
    distances = []
    start = torch.tensor([[3.0, 1.0], [-2.0, 4.0]], dtype=torch.float64)
    for num_levels in (65, 129):
        sigmas = ladder(sigma_min=0.3, sigma_max=3.0, num_levels=num_levels).sigmas.double()
        distances.append(float((sampler(TARGET.score, start, sigmas) - flow(start, sigmas)).norm()))
    assert math.log2(distances[0] / distances[1]) == pytest.approx(order, abs=0.2)


def test_the_adaptive_solver_keeps_its_tolerance():
    spent = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        calls = Calls(TARGET.score)
        start = START.mean + torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64)
        x = AdaptiveODE(rtol=tolerance, atol=tolerance, **PLAIN)(calls, start, SIGMAS)
        assert float((x - flow(start, SIGMAS)).abs().max()) < 5 * tolerance
        spent.append(calls.count)
    assert spent[0] < spent[1] < spent[2] < 200


class Calls:
    """A score that counts how often it is asked."""

    def __init__(self, score):
        self.score, self.count = score, 0

    def __call__(self, x, sigma):
        self.count += 1
        return self.score(x, sigma)


def test_the_ladder_changes_no_cost_of_the_adaptive_solver():
    counts = []
    for num_levels in (2, 50):
        calls = Calls(TARGET.score)
        sigmas = Geometric(sigma_min=0.05, sigma_max=4.0, num_levels=num_levels).sigmas
        AdaptiveODE()(calls, torch.ones(3, 2), sigmas)
        counts.append(calls.count)
    assert counts[0] == counts[1]


def test_an_adaptive_solver_that_does_not_converge_says_tolerance_and_sigma():
    rough = AdaptiveODE(rtol=1e-12, atol=1e-12)
    with pytest.raises(
        NotSolvedError, match=r"rtol=1e-12 and atol=1e-12 cannot be kept at σ=\d.*; raise the tolerances"
    ):
        rough(TARGET.score, torch.ones(3, 2), SIGMAS.float())  # single precision has no such digits
    short = AdaptiveODE(max_evaluations=20)
    with pytest.raises(NotSolvedError, match=r"at σ=\d.*max_evaluations=20 exceeded"):
        short(TARGET.score, torch.ones(3, 2), SIGMAS.float())
    with pytest.raises(NotSolvedError, match=r"cannot be kept at σ=4 .the score is not finite"):
        AdaptiveODE()(lambda x, sigma: x * math.nan, torch.ones(3, 2), SIGMAS.float())


def test_underdamped_langevin_has_no_bias_on_a_gaussian_and_overdamped_has():
    """After many steps at one level: BAOAB leaves p_σ as it is, the unadjusted step widens it."""
    sigmas = torch.tensor([0.5])
    truth = smoothed(TARGET, 0.5)
    kinetic = UnderdampedLangevin(step_ratio=1.0, friction=0.7, steps_per_level=60)
    assert wasserstein(affine_map(kinetic, TARGET.score, sigmas).push(START), truth) < 1e-6
    overdamped = AnnealedLangevin(step_ratio=1.0, steps_per_level=60)
    values, axes = torch.linalg.eigh(truth.covariance)
    settled = Gaussian(truth.mean, axes @ torch.diag(values / (1 - 0.25 / (2 * values))) @ axes.T)
    assert wasserstein(affine_map(overdamped, TARGET.score, sigmas).push(START), settled) < 1e-3
    assert wasserstein(settled, truth) > 0.1


def test_mala_leaves_the_target_invariant(generator):
    """From p_σ, at a step that unadjusted dynamics would not survive unbiased; and it does move."""
    n, sigma = 20_000, 0.4
    truth = smoothed(TARGET, sigma)
    x = (
        truth.mean + torch.randn(n, 2, generator=generator).double() @ torch.linalg.cholesky(truth.covariance).T
    ).float()
    moved = MALA(step_ratio=1.2, steps_per_level=15)(ExactScore(TARGET), x, torch.tensor([sigma]), generator=generator)
    assert_moments(moved, truth.mean, truth.covariance)
    kept = float((moved == x).all(-1).double().mean())
    assert kept < 0.01
    correlation = torch.corrcoef(torch.stack([x[:, 0], moved[:, 0]]))[0, 1]
    assert float(correlation) < 0.6
    unadjusted = AnnealedLangevin(step_ratio=1.2, steps_per_level=15)
    with pytest.raises(AssertionError):
        assert_moments(
            unadjusted(TARGET.score, x, torch.tensor([sigma]), generator=generator), truth.mean, truth.covariance
        )


def test_distance_of_two_gaussians():
    """Commuting covariances: means and deviations apart; one matrix against a turned one by its formula."""
    p = Gaussian(torch.tensor([0.0, 0.0]).double(), torch.diag(torch.tensor([4.0, 9.0]).double()))
    q = Gaussian(torch.tensor([3.0, 4.0]).double(), torch.diag(torch.tensor([1.0, 1.0]).double()))
    assert wasserstein(p, q) == pytest.approx(math.sqrt(25 + 1 + 4))
    assert wasserstein(p, p) == pytest.approx(0, abs=1e-7)
    shear = Gaussian(p.mean, torch.tensor([[4.0, 2.0], [2.0, 9.0]]).double())
    trace = 26 - 2 * math.sqrt(float((p.covariance @ shear.covariance).trace()) + 2 * math.sqrt(36.0 * 32.0))
    assert wasserstein(p, shear) == pytest.approx(math.sqrt(trace))


def test_the_four_errors_are_each_their_own():
    """Each vanishes where its cause does, and the total keeps the triangle inequality."""

    def rough(x, sigma):
        return 1.03 * TARGET.score(x, sigma)

    sigmas = Geometric(sigma_min=0.1, sigma_max=8.0, num_levels=8).sigmas
    e = errors(Heun(prior="gaussian", denoise=False), TARGET, sigmas, score=rough)
    assert all(value > 1e-4 for value in e)
    assert e.total <= e.start + e.truncation + e.discretisation + e.score
    assert e.truncation == pytest.approx(wasserstein(smoothed(TARGET, 0.1), smoothed(TARGET, 0.0)))
    matched = errors(Heun(prior="moment_matched", denoise=False), TARGET, sigmas, score=TARGET.score)
    assert max(matched.start, matched.score) < 1e-6
    assert errors(Heun(), TARGET, sigmas, score=rough).truncation == pytest.approx(0, abs=1e-7)
    fine = Geometric(sigma_min=0.1, sigma_max=8.0, num_levels=30).sigmas
    assert errors(Multistep(denoise=False), TARGET, fine, score=rough).discretisation < 1e-3


@pytest.mark.parametrize(
    ("sampler", "score", "words"),
    [
        (PredictorCorrector(), TARGET.score, "depend on all chains together"),
        (MALA(step_ratio=0.5, steps_per_level=1), ExactScore(TARGET), "a draw of other than normal vectors"),
        (Langevin(step=0.01, steps_per_level=1), TARGET.score, "prior='uniform' is not normal"),
    ],
)
def test_what_is_no_affine_map_is_refused(sampler, score, words):
    with pytest.raises(ValueError, match=words):
        errors(sampler, TARGET, SIGMAS, score=score)
