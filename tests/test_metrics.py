import math

import pytest
import torch

from ncsn_lightning import (
    Checkerboard,
    CoverageGap,
    DensityTV,
    EightGaussians,
    EnergyDistance,
    GridGaussians,
    ModeWeights,
    OffSupport,
    SampleTest,
    ScoreTest,
    SlicedWasserstein2,
    SquaredMMD,
    TwoGaussians,
    Wasserstein2,
    WithinModes,
    coverage,
    curl,
    energy_distance,
    off_support,
    sliced_wasserstein2,
    squared_mmd,
    total_variation,
    wasserstein2,
    within_modes,
)
from ncsn_lightning.distributions import Modes
from ncsn_lightning.metrics import kernels, median_distance
from ncsn_lightning.metrics.likelihood import Estimate
from ncsn_lightning.metrics.regions import cell_masses, grid_of

RANGE = {"sigma_min": 0.05, "sigma_max": 5.0, "num_levels": 4, "num_points": 4096}


@pytest.fixture(scope="module")
def test():
    return ScoreTest(distribution=TwoGaussians(), **RANGE)


def test_the_exact_score_has_no_error_and_the_least_loss(test):
    errors = test(TwoGaussians().score)
    torch.testing.assert_close(errors.relative, torch.zeros(4, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(errors.loss, errors.minimum)


def test_zero_is_no_better_than_zero(test):
    errors = test(lambda x, sigma: torch.zeros_like(x))
    torch.testing.assert_close(errors.relative, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(errors.loss, torch.full((4,), 2.0, dtype=torch.float64), rtol=0.1, atol=0)


def test_a_known_share_of_the_score_gives_its_square(test):
    errors = test(lambda x, sigma: 0.9 * TwoGaussians().score(x, sigma))
    torch.testing.assert_close(errors.relative, torch.full((4,), 0.01, dtype=torch.float64), rtol=1e-3, atol=0)


def test_standard_errors_are_the_spread_over_other_points():
    """Of 40 tests on points of their own: their deviation is what each of them says, to the noise of 40."""

    def score(x, sigma):
        return 0.8 * TwoGaussians().score(x, sigma) + 0.3 * x.sin() / sigma

    found = [ScoreTest(distribution=TwoGaussians(), **{**RANGE, "num_points": 500}, seed=s)(score) for s in range(40)]
    for name in ("error", "loss", "relative"):
        spread = torch.stack([getattr(errors, name) for errors in found]).std(0)
        said = torch.stack([getattr(errors, f"{name}_stderr") for errors in found]).mean(0)
        torch.testing.assert_close(said, spread, rtol=4 / 80**0.5, atol=0)
    one = ScoreTest(distribution=TwoGaussians(), **{**RANGE, "num_points": 1})(score)
    assert one.error_stderr.isnan().all()


def test_the_score_is_asked_level_by_level_with_a_scalar(test):
    shapes = []

    def score(x, sigma):
        shapes.append((tuple(x.shape), tuple(sigma.shape)))
        return x

    test(score)
    assert shapes == [((4096, 2), ())] * 4


def test_the_points_depend_on_nothing_but_target_and_grid():
    first, second = (ScoreTest(distribution=TwoGaussians(), **RANGE) for _ in range(2))
    assert torch.equal(first.x, second.x)


def test_off_support():
    board = Checkerboard()
    assert off_support(board, torch.tensor([[0.5, 0.5], [-0.5, 0.5], [3.0, 0.0], [1.5, 1.5]])) == 0.5
    assert off_support(board, board.sample(1000, generator=torch.Generator().manual_seed(0))) == 0.0
    assert off_support(TwoGaussians(), torch.tensor([[100.0, 0.0]])) == 0.0


def gaussian(n, generator, *, mean=0.0, std=1.0):
    return mean + std * torch.randn(n, 2, generator=generator)


def test_wasserstein_of_a_shift_is_its_length(generator):
    x = gaussian(300, generator)
    shift = torch.tensor([3.0, 4.0])
    assert wasserstein2(x, x + shift) == pytest.approx(5, rel=1e-6)
    assert wasserstein2(x, x.flip(0)) == pytest.approx(0, abs=1e-6)
    assert sliced_wasserstein2(x, x + shift, num_angles=32) == pytest.approx(5 / math.sqrt(2), rel=1e-6)


def test_wasserstein_of_two_gaussians_is_bures(generator):
    """W₂² = |m|² + 2 (s − 1)² between N(0, I) and N(m, s² I); sampling adds little where they lie apart."""
    x, y = gaussian(1000, generator), gaussian(1000, generator, mean=3.0, std=2.0)
    expected = math.sqrt(18 + 2)
    assert wasserstein2(x, y) == pytest.approx(expected, abs=4 * math.sqrt(5 / 1000))
    assert sliced_wasserstein2(x, y, num_angles=64) == pytest.approx(expected / math.sqrt(2), abs=0.2)


def test_energy_distance_of_two_gaussians_is_its_closed_form(generator):
    """In two dimensions E‖N(0, v I)‖ = √(π v / 2)."""
    std, values = 1.5, []
    for _ in range(20):
        values.append(energy_distance(gaussian(500, generator), gaussian(500, generator, std=std)))
    mean_length = [math.sqrt(math.pi * v / 2) for v in (1 + std**2, 2.0, 2 * std**2)]
    expected = 2 * mean_length[0] - mean_length[1] - mean_length[2]
    measured = Estimate.of(torch.tensor(values))
    assert measured.value == pytest.approx(expected, abs=4 * measured.error)
    assert measured.error < expected / 10


def test_mmd_of_two_gaussians_is_its_closed_form(generator):
    """E exp(−‖X − Y‖²/2b²) = b²/(b² + s²) exp(−‖m‖²/2(b² + s²)) where X − Y ~ N(m, s² I)."""
    b, m = 0.7, 0.5

    def mean_kernel(squared):
        return b**2 / (b**2 + 2) * math.exp(-squared / (2 * (b**2 + 2)))

    values = [
        squared_mmd(gaussian(500, generator), gaussian(500, generator, mean=m), bandwidths=[b]) for _ in range(20)
    ]
    measured = Estimate.of(torch.tensor(values))
    assert measured.value == pytest.approx(2 * mean_kernel(0) - 2 * mean_kernel(2 * m**2), abs=4 * measured.error)
    assert measured.error < measured.value / 10


@pytest.mark.parametrize("distance", [energy_distance, lambda x, y: squared_mmd(x, y, bandwidths=[0.3, 1.0])])
def test_pair_statistics_are_unbiased(distance, generator):
    """Over 200 pairs of samples of one Gaussian the mean is 0 within four standard errors; a V-statistic's is not."""
    n = 30
    values = torch.tensor([distance(gaussian(n, generator), gaussian(n, generator)) for _ in range(200)])
    measured = Estimate.of(values)
    assert abs(measured.value) < 4 * measured.error
    assert measured.error < 0.3 / n  # and the bias of a V-statistic is above 1 / n


def test_pairs_in_chunks_are_all_pairs(generator, monkeypatch):
    x, y = gaussian(50, generator), gaussian(70, generator)
    whole = energy_distance(x, y)
    monkeypatch.setattr(kernels, "PAIRS", 300)
    assert energy_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_coverage_of_the_truth_by_itself_is_its_expectation(generator):
    """1 − 2^−k up to O(1/n), whatever the density (Naeem et al. 2020)."""
    n, k = 400, 3
    values = torch.tensor([coverage(gaussian(n, generator), gaussian(n, generator), neighbours=k) for _ in range(20)])
    expected = 1 - math.comb(2 * n - 1 - k, n) / math.comb(2 * n - 1, n)
    assert expected == pytest.approx(1 - 2.0**-k, abs=2 / n)
    measured = Estimate.of(values)
    assert measured.value == pytest.approx(expected, abs=4 * measured.error)
    one_mode = TwoGaussians().means[0].float() + gaussian(n, generator)
    truth = TwoGaussians().sample(n, generator=generator)
    assert coverage(one_mode, truth, neighbours=k) == pytest.approx(0.8 * expected, abs=0.08)


def test_total_variation_counts_what_is_missing():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.2])
    assert total_variation(p, q) == pytest.approx(0.3)
    assert total_variation(p, p) == 0
    assert total_variation(torch.zeros(2), p) == 1


def test_mode_weights_are_those_of_the_samples(generator):
    """Samples of the wrong weights, .5 for .8, are .3 away; the mean responsibility of the truth is exactly w."""
    overlapping = TwoGaussians(offset=0.8)
    responsibilities = overlapping.responsibilities(overlapping.sample(20_000, generator=generator))
    measured = Estimate.of(responsibilities[:, 0])
    assert measured.value == pytest.approx(0.8, abs=4 * measured.error)
    test = SampleTest(distribution=TwoGaussians(), metrics={"mode_weights": ModeWeights()})
    test.update(TwoGaussians(weight=0.5).sample(10_000, generator=generator))
    assert test.compute()["mode_weights"].value == pytest.approx(0.3, abs=4 * 0.005)
    points = TwoGaussians(std=0.0).responsibilities(torch.tensor([[4.0, 4.0], [-1.0, -3.0]]))
    assert points.round().tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("target", [Checkerboard(), EightGaussians(), GridGaussians()])
def test_cells_hold_the_mass_of_the_truth(target, generator):
    """The masses add up to 1, and 10⁵ draws fall into the cells as multinomial counts do."""
    grid = grid_of(target, 0.0, 32)
    masses = cell_masses(target, 0.0, grid)
    assert float(masses.sum()) == pytest.approx(1, abs=2e-3)
    n = 100_000
    shares = grid.counts(target.sample(n, generator=generator))
    filled = masses > 1e-4
    chi_square = ((shares - masses).square() / (masses * (1 - masses)))[filled].mean() * n
    assert float(chi_square) == pytest.approx(1, abs=0.35)


def test_samples_outside_the_grid_cost_their_mass(generator):
    target = EightGaussians()
    test = SampleTest(distribution=target, metrics={"density_tv": DensityTV(resolution=4)})
    inside = target.sample(5000, generator=generator)
    test.update(torch.cat([inside, inside + 100]))
    assert test.compute()["density_tv"].value == pytest.approx(0.5, abs=0.02)


METRICS = {
    "wasserstein2": Wasserstein2(num_points=400),
    "sliced": SlicedWasserstein2(),
    "energy_distance": EnergyDistance(num_points=200),
    "squared_mmd": SquaredMMD(num_points=200),
    "coverage_gap": CoverageGap(num_points=200),
    "mode_weights": ModeWeights(),
    "density_tv": DensityTV(),
}


def test_samples_of_the_truth_reach_the_floor(generator):
    """Floors are the same for all samples at one n, and the truth's own value lies within; a shrunk one's does not."""
    target = EightGaussians()
    test = SampleTest(distribution=target, metrics=METRICS, repeats=8)
    found = []
    for samples in (target.sample(2000, generator=generator), 0.8 * target.sample(2000, generator=generator)):
        test.reset()
        test.update(samples)
        found.append(test.compute())
    for name in METRICS:
        truth, shrunk = (measured[name] for measured in found)
        assert (truth.floor, truth.deviation) == (shrunk.floor, shrunk.deviation)
        assert truth.value == pytest.approx(truth.floor, abs=5 * truth.deviation), name
    assert (
        found[1]["energy_distance"].value
        > found[1]["energy_distance"].floor + 3 * found[1]["energy_distance"].deviation
    )
    assert found[1]["coverage_gap"].value > 0.2
    again = SampleTest(distribution=target, metrics={"sliced": SlicedWasserstein2()}, repeats=8)
    again.update(target.sample(2000, generator=generator))
    assert again.compute()["sliced"].floor == found[0]["sliced"].floor


def test_the_floor_of_mode_weights_is_the_binomial_one(generator):
    """Eight modes at n = 10⁴: half of 8 mean absolute deviations √(2 w (1 − w) / π n), .0106."""
    test = SampleTest(distribution=EightGaussians(), metrics={"mode_weights": ModeWeights()}, repeats=20)
    test.update(EightGaussians().sample(10_000, generator=generator))
    measured = test.compute()["mode_weights"]
    expected = 4 * math.sqrt(2 * (1 / 8) * (7 / 8) / (math.pi * 10_000))
    assert measured.floor == pytest.approx(expected, abs=4 * measured.deviation / math.sqrt(20))
    assert str(measured) == f"{measured.value:.3g} ({measured.floor:.2g} ± {measured.deviation:.1g})"


def test_a_metric_says_how_many_points_it_needs():
    test = SampleTest(distribution=EightGaussians(), metrics={"coverage_gap": CoverageGap(neighbours=5)})
    test.update(torch.tensor([[0.0, 1.0], [math.nan, 0.0]]))
    with pytest.raises(ValueError, match=r"n=1: too few finite samples for coverage_gap; draw at least 6"):
        test.compute()


def test_the_median_distance_is_that_of_different_points():
    """Of two point masses, .8 and .2, most pairs coincide; with noise none does."""
    target = TwoGaussians(std=0.0)
    apart = float(torch.dist(*target.means))
    assert median_distance(target) == pytest.approx(apart, rel=1e-5)
    noisy = torch.pdist(target.noisy_points(1.0)[:1024].double()).median()
    assert median_distance(target, 1.0) == pytest.approx(float(noisy), rel=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_a_mode_holds_what_a_gaussian_holds(sigma, generator):
    """98.89 % within three deviations, along and across its direction; half as wide it holds 1 − exp(−18)."""
    target = Modes(
        torch.tensor([[-9.0, 0.0], [9.0, 3.0]]),
        weights=torch.tensor([0.3, 0.7]),
        variances=torch.tensor([[1.0, 0.04], [0.25, 0.09]]),
        directions=torch.tensor([[0.6, 0.8], [0.0, 1.0]]),
        scale=0.2,
    )
    n, expected = 100_000, 1 - math.exp(-4.5)
    x = target.sample_noisy(n, sigma, generator=generator)
    spread = math.sqrt(expected * (1 - expected) / n)
    assert within_modes(target, x, sigma) == pytest.approx(expected, abs=4 * spread)
    nearest = target.means[torch.cdist(x.double(), target.means).argmin(-1)]
    assert within_modes(target, (x + nearest) / 2, sigma) == pytest.approx(1 - math.exp(-18), abs=1e-4)
    test = SampleTest(distribution=target, metrics={"within": WithinModes()}, sigma=sigma)
    test.update((x[:10_000] + nearest[:10_000]) / 2)
    assert test.compute()["within"].value == pytest.approx(1 - expected, abs=4e-3)


def test_a_board_has_places_off_its_support_and_gaussians_have_none():
    metrics = {"off_support": OffSupport()}
    assert SampleTest(distribution=Checkerboard(), metrics=metrics).metrics
    assert not SampleTest(distribution=EightGaussians(), metrics=metrics).metrics


def test_curl_of_a_gradient_is_zero_and_of_a_rotation_one():
    x = EightGaussians().typical_points[:500].double()
    assert curl(EightGaussians().score, x, 0.3) < 1e-12
    assert curl(lambda x, sigma: torch.stack([-x[:, 1], x[:, 0]], dim=-1), x, 0.3) == pytest.approx(1)
    assert curl(lambda x, sigma: torch.stack([x[:, 0] - x[:, 1], x[:, 0] + x[:, 1]], dim=-1), x, 0.3) == pytest.approx(
        0.5
    )
