"""The likelihood on exact scores: the target's own density must come back, and Gaussians are known in closed form."""

import math

import pytest
import torch

from ncsn_lightning import (
    Checkerboard,
    Circles,
    DormandPrince,
    EightGaussians,
    FortyGaussians,
    FractalTree,
    Geometric,
    GridGaussians,
    Likelihood,
    Moons,
    Pinwheel,
    Points,
    Rings,
    RungeKutta,
    SCurve,
    SwissRoll,
    TwoGaussians,
    TwoSpirals,
    cross_entropy,
)


def spread_points():
    """Points of one's own: 200 of two moons, each under a kernel."""
    return Points(path=Moons().sample(200, generator=torch.Generator().manual_seed(0)), bandwidth=0.1)


SMOOTH = [
    *(Circles, EightGaussians, FortyGaussians, FractalTree, GridGaussians, Moons, Pinwheel, Rings, SCurve, SwissRoll),
    *(TwoGaussians, TwoSpirals, spread_points),
]


def schedule_of(target, sigma_min=None):
    smallest = sigma_min or min(0.01, target.scale / 10)
    return Geometric(sigma_min=smallest, sigma_max=target.diameter, num_levels=2)


def likelihood(target, solver, *, prior="exact", **arguments):
    return Likelihood(distribution=target, schedule=schedule_of(target), solver=solver, prior=prior, **arguments)


@pytest.mark.parametrize("kind", SMOOTH)
def test_the_truth_gives_back_its_own_density(kind):
    target = kind()
    measure = likelihood(target, DormandPrince(tolerance=1e-7))
    x = target.noisy_points(measure.sigma_min)[:24].double()
    expected = target.log_prob(x, measure.sigma_min)
    torch.testing.assert_close(measure.log_prob(target.score, x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [EightGaussians, spread_points])
def test_a_field_that_carries_no_mass_leaves_the_density(kind):
    """Of the score turned by a right angle, ∇·(p J∇log p) = 0: points move otherwise, their density is the target's."""
    target, turn = kind(), torch.tensor([[1.0, 0.3], [-0.3, 1.0]], dtype=torch.float64)
    measure = likelihood(target, DormandPrince(tolerance=1e-7))
    x = target.noisy_points(measure.sigma_min)[:24].double()
    expected = target.log_prob(x, measure.sigma_min)
    found = measure.log_prob(lambda x, sigma: target.score(x, sigma) @ turn, x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_few_fixed_steps_are_enough_for_a_divergence():
    """The hardest mixture: 25 modes a hundred times narrower than the whole; the mean is off by 1e-3 nats at most."""
    target = GridGaussians()
    measured = likelihood(target, RungeKutta(steps=32), num_points=500)(target.score)
    assert abs(measured.kl.value) < 1e-3


def test_fixed_steps_converge_with_order_four():
    """On N(0, v I) points move by √((v + σ_max²)/(v + σ_min²)) and lose the logarithm of its square."""
    v, ends = 0.3, {"sigma_min": 0.2, "sigma_max": 3.0}
    x, ratio = torch.ones(1, 2, dtype=torch.float64), (v + 9) / (v + 0.04)
    places, integrals = [], []
    for steps in (64, 128):
        end, growth = RungeKutta(steps=steps)(lambda x, sigma: -x / (v + sigma**2), x, blur=0.0, **ends)
        places.append(abs(float(end[0, 0]) - math.sqrt(ratio)))
        integrals.append(abs(float(growth) + math.log(ratio)))
    assert math.log2(places[0] / places[1]) == pytest.approx(4, abs=0.3)
    assert math.log2(integrals[0] / integrals[1]) == pytest.approx(4, abs=0.3)


def test_divergence_of_a_wrong_gaussian_score_is_its_closed_form():
    """On N(0, v I) a model with its score c times too strong flows linearly, so q is a Gaussian of known variance."""
    target, share = TwoGaussians(offset=1e-6, std=0.7), 1.2
    measure = likelihood(target, RungeKutta(steps=64), prior="moment_matched", num_points=4000)
    measured = measure(lambda x, sigma: share * target.score(x, sigma))
    v, w = (0.49 + sigma**2 for sigma in (measure.sigma_min, measure.sigma_max))
    modelled = w * (v / w) ** share  # d ln x = c d ln(v + σ²) / 2
    ratio = v / modelled
    kl = ratio - 1 - math.log(ratio)
    assert measured.kl.value == pytest.approx(kl, abs=4 * measured.kl.error)
    assert measured.kl.error < kl / 10
    nll = math.log(2 * math.pi * modelled) + ratio
    assert measured.nll.value == pytest.approx(nll, abs=4 * measured.nll.error)


def test_the_blame_of_the_prior_is_the_whole_divergence_on_the_truth():
    target = TwoGaussians()
    measured = likelihood(target, RungeKutta(steps=64), prior="gaussian", num_points=2000)(target.score)
    assert measured.kl.value == pytest.approx(measured.mismatch.value, abs=1e-4)
    excess = torch.linalg.eigvalsh(target.covariance) / target.diameter**2
    missed = float((excess - excess.log1p()).sum()) / 2  # by a Gaussian that lacks the target's covariance
    assert measured.mismatch.value == pytest.approx(missed, abs=4 * measured.mismatch.error)
    assert abs(likelihood(target, RungeKutta(steps=64), num_points=200)(target.score).mismatch.value) == 0


def test_the_model_density_integrates_to_one():
    target = TwoGaussians(offset=1.0, std=0.5)
    ticks = torch.linspace(-5, 5, 41, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks)
    measure = likelihood(target, RungeKutta(steps=16), prior="moment_matched")
    q = measure.log_prob(lambda x, sigma: 0.9 * target.score(x, sigma), grid)
    assert float(q.exp().sum()) / 16 == pytest.approx(1, abs=2e-3)


def test_an_adaptive_solver_that_does_not_converge_names_tolerance_and_level():
    target = GridGaussians()
    measure = likelihood(target, DormandPrince(tolerance=1e-9, max_steps=5))
    with pytest.raises(ValueError, match=r"tolerance=1e-09: .* does not converge at σ=0\.\d+ .*max_steps=5"):
        measure.log_prob(target.score, target.typical_points[:5])
    with pytest.raises(ValueError, match=r"tolerance=1e-06: .* does not converge at σ="):
        likelihood(target, DormandPrince()).log_prob(lambda x, sigma: x / 0, target.typical_points[:5])


def test_points_off_the_support_are_counted():
    board = Checkerboard()
    on, off = board.typical_points[:100], board.typical_points[:7] + torch.tensor([1.0, 0.0])
    measured = cross_entropy(board, torch.cat([on, off]), 0.0)
    assert measured.off_support == 7
    assert measured.mean.value == pytest.approx(math.log(8))


def test_no_likelihood_where_there_is_no_density():
    with pytest.raises(ValueError, match=r"sigma=0: the target has no density there.*give a σ above 0"):
        cross_entropy(TwoGaussians(std=0.0), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"sigma=0: 0 of 3 points lie on the support"):
        cross_entropy(Checkerboard(), torch.full((3, 2), 9.0))


def test_the_rule_for_the_integral_is_exact_for_cubics():
    solver = RungeKutta(steps=8)
    nodes = torch.linspace(0, 1, 9, dtype=torch.float64)
    weights = torch.tensor(solver._weights(), dtype=torch.float64)
    for power in range(4):
        assert float(weights @ nodes**power) / 8 == pytest.approx(1 / (power + 1), abs=1e-14)


@pytest.mark.parametrize(
    ("make", "words"), [(lambda: RungeKutta(steps=4), "steps"), (lambda: DormandPrince(tolerance=0.0), "tolerance")]
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
