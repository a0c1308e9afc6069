import math

import pytest
import torch

from ncsn_lightning import DDPM, DDPMCosine, Geometric, Karras, Ladder, Linear, LogNormal, LogUniform, Schedule, Single
from ncsn_lightning.distributions import Checkerboard
from ncsn_lightning.schedules import broken_guidelines

RANGE = {"sigma_min": 0.01, "sigma_max": 2.0, "num_levels": 10}


@pytest.mark.parametrize("schedule", [Geometric(**RANGE), Linear(**RANGE), Karras(**RANGE), DDPM(), DDPMCosine()])
def test_ladders_decrease(schedule):
    assert (schedule.sigmas.diff() < 0).all()


@pytest.mark.parametrize("kind", [Geometric, Linear, Karras])
def test_ladders_reach_both_ends(kind):
    schedule = kind(**RANGE)
    torch.testing.assert_close(schedule.sigmas[[0, -1]], torch.tensor([2.0, 0.01]))
    torch.testing.assert_close(kind(**schedule.ends, num_levels=3).sigmas[[0, -1]], torch.tensor([2.0, 0.01]))


def test_geometric_is_the_primers_formula():
    expected = torch.tensor([2.0 * (0.01 / 2.0) ** ((i - 1) / 9) for i in range(1, 11)])
    torch.testing.assert_close(Geometric(**RANGE).sigmas, expected)


def test_linear_steps_are_equal():
    steps = Linear(**RANGE).sigmas.double().diff()
    torch.testing.assert_close(steps, torch.full((9,), -1.99 / 9, dtype=torch.float64), rtol=1e-5, atol=0)


def test_karras_steps_are_equal_in_the_root():
    roots = Karras(**RANGE, rho=7.0).sigmas.double() ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(9), rtol=1e-5, atol=0)


def test_karras_with_rho_one_is_linear():
    torch.testing.assert_close(Karras(**RANGE, rho=1.0).sigmas, Linear(**RANGE).sigmas)


def test_ddpm_is_the_variance_preserving_chain():
    """x_t = √ᾱ x + √(1 − ᾱ) z, divided by √ᾱ, is x + σ z: multiply the chain out step by step."""
    scale, variance = 1.0, 0.0
    expected = []
    for beta in torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).tolist():
        scale, variance = math.sqrt(1 - beta) * scale, (1 - beta) * variance + beta
        expected.append(math.sqrt(variance) / scale)
    sigmas = DDPM(num_levels=1000).sigmas
    torch.testing.assert_close(sigmas.flip(0).double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


def test_ddpm_keeps_evenly_spaced_steps():
    full, kept = DDPM(num_levels=1000).sigmas, DDPM(num_levels=4).sigmas
    torch.testing.assert_close(kept, full[[0, 333, 666, 999]])


def test_cosine_signal_follows_the_cosine():
    sigmas = DDPMCosine(num_levels=1000).sigmas.double().flip(0)
    signal = 1 / (1 + sigmas[499] ** 2)  # ᾱ at t = 500 of 1000
    expected = math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert float(signal) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (Geometric, {"sigma_min": 2.0, "sigma_max": 1.0}, ["sigma_min=2", "sigma_max=1"]),
        (Geometric, {"sigma_min": 1.0, "sigma_max": 1.0}, ["sigma_min=1"]),
        (Geometric, {"sigma_min": -1.0, "sigma_max": 1.0}, ["sigma_min", "-1.0"]),
        (Geometric, {"sigma_min": 0.0, "sigma_max": 1.0}, ["sigma_min", "greater than 0"]),
        (Linear, {"sigma_min": float("nan"), "sigma_max": 1.0}, ["sigma_min", "nan"]),
        (Karras, {"sigma_min": 0.1, "sigma_max": float("inf")}, ["sigma_max", "finite"]),
        (Karras, {"sigma_min": "small", "sigma_max": 1.0}, ["sigma_min", "small"]),
        (Geometric, {"sigma_min": 0.1, "sigma_max": 1.0, "num_levels": 1}, ["num_levels", "1"]),
        (Geometric, {"sigma_min": 0.1, "sigma_max": 1.0, "num_levels": 2.5}, ["num_levels", "2.5"]),
        (DDPM, {"num_levels": 2000}, ["num_levels=2000", "num_steps=1000"]),
        (DDPM, {"beta_min": 0.5}, ["beta_min=0.5", "beta_max=0.02"]),
        (Single, {"sigma": 0.0}, ["sigma"]),
    ],
)
def test_wrong_values_are_named(kind, arguments, words):
    with pytest.raises(ValueError, match="(?s)" + ".*".join(words)):
        kind(**arguments)


def test_all_wrong_arguments_are_said_at_once():
    with pytest.raises(ValueError, match=r"(?s)sigma_min.*sigma_max.*num_levels"):
        Geometric(sigma_min=-1.0, sigma_max=0.0, num_levels=0)


SCHEDULE = Geometric(**RANGE)
DENSITIES = [
    LogUniform(schedule=SCHEDULE),
    LogUniform(schedule=SCHEDULE, tilt=0.25),
    LogUniform(schedule=SCHEDULE, tilt=-1.0),
    LogNormal(schedule=SCHEDULE, sigma_data=1.0),
    LogNormal(schedule=SCHEDULE, sigma_data=1.0, p_mean=-1.607, p_std=1.5),
]


@pytest.mark.parametrize("levels", DENSITIES)
def test_density_integrates_to_one_and_is_the_derivative_of_the_quantile(levels):
    log_sigma = torch.linspace(math.log(0.01), math.log(2.0), 20001, dtype=torch.float64)[1:-1]
    density = levels.density(log_sigma.exp())
    assert float(torch.trapezoid(density, log_sigma)) == pytest.approx(1.0, abs=1e-3)
    u = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    slope = (levels.quantile(u + 1e-4).log() - levels.quantile(u - 1e-4).log()) / 2e-4
    torch.testing.assert_close(levels.density(levels.quantile(u)), 1 / slope, rtol=1e-3, atol=0)


@pytest.mark.parametrize("levels", DENSITIES)
def test_density_vanishes_outside_the_range(levels):
    assert levels.density(torch.tensor([0.005, 3.0])).tolist() == [0.0, 0.0]


def test_log_uniform_moments(generator):
    draws = LogUniform(schedule=SCHEDULE).sample(100_000, generator=generator).log()
    width = math.log(200)
    assert float(draws.mean()) == pytest.approx(math.log(0.01) + width / 2, abs=5 * width / math.sqrt(12 * 100_000))
    assert float(draws.var()) == pytest.approx(width**2 / 12, rel=0.02)


def test_a_tilt_moves_rows_to_low_levels(generator):
    """ln σ − ln σ_min is an exponential of rate τ, cut at the range."""
    tilt, width = 0.5, math.log(200)
    above = LogUniform(schedule=SCHEDULE, tilt=tilt).sample(100_000, generator=generator).log() - math.log(0.01)
    mean = 1 / tilt - width / math.expm1(tilt * width)
    assert float(above.mean()) == pytest.approx(mean, abs=5 * float(above.std()) / math.sqrt(100_000))


def test_ladder_draws_every_level_alike(generator):
    draws = Ladder(schedule=SCHEDULE).sample(100_000, generator=generator)
    counts = torch.stack([(draws == sigma).sum() for sigma in SCHEDULE.sigmas])
    assert int(counts.sum()) == 100_000
    assert (counts - 10_000).abs().max() < 5 * math.sqrt(9000)


def test_stratified_levels_fall_one_into_each_quantile(generator):
    levels = LogUniform(schedule=SCHEDULE, stratified=True)
    draws = levels.sample(7, 32, generator=generator).double()
    position = (draws.log() - math.log(0.01)) / math.log(200) * 32
    assert torch.equal(position.floor(), torch.arange(32).expand(7, 32).double())


def test_stratified_ladder_is_balanced(generator):
    draws = Ladder(schedule=SCHEDULE, stratified=True).sample(50, generator=generator)
    assert all(int((draws == sigma).sum()) == 5 for sigma in SCHEDULE.sigmas)


@pytest.mark.parametrize("kind", [LogUniform, LogNormal])
def test_a_continuous_density_needs_a_range(kind):
    extra = {"sigma_data": 1.0} if kind is LogNormal else {}
    with pytest.raises(ValueError, match="needs a range"):
        kind(schedule=Single(sigma=0.1), **extra)


def test_log_normal_without_mass_is_refused():
    with pytest.raises(ValueError, match="p_mean=50"):
        LogNormal(schedule=SCHEDULE, sigma_data=1.0, p_mean=50.0)


def test_guidelines():
    target = Checkerboard()
    assert broken_guidelines(Geometric(sigma_min=0.01, sigma_max=5.0, num_levels=10), target) == []
    broken = broken_guidelines(Geometric(sigma_min=0.2, sigma_max=2.0, num_levels=5), target)
    assert [line.split("=")[0] for line in broken] == ["σ_max", "σ_min", "L"]
    assert all(remedy in line for remedy, line in zip(["sigma_max", "sigma_min", "num_levels"], broken, strict=True))


@pytest.mark.parametrize(
    ("sigmas", "words"),
    [
        (torch.ones(2, 2), r"sigmas of the shape \[2, 2\]: give \[L\]"),
        (torch.ones(0), r"sigmas of the shape \[0\]: give \[L\]"),
        (torch.tensor([1.0, 2.0]), "sigmas: give positive, finite levels that decrease"),
        (torch.tensor([1.0, 0.0]), "sigmas: give positive"),
        (torch.tensor([math.inf, 1.0]), "sigmas: give positive"),
    ],
)
def test_a_ladder_is_a_row_of_decreasing_levels(sigmas, words, unchecked):
    with pytest.raises(ValueError, match=words):
        Schedule(sigmas)
