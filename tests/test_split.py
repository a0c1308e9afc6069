"""The score error in two parts: fields of which the parts are known, and what each part does to the marginals."""

import itertools
import math

import pytest
import torch

from ncsn_lightning import Checkerboard, EightGaussians, GridGaussians, Karras, ScoreSplit, ScoreTest, cross_entropy


def turned(field):
    """J field, by 90°."""
    return torch.stack([-field[..., 1], field[..., 0]], dim=-1)


@pytest.fixture(scope="module")
def split():
    return ScoreSplit(distribution=EightGaussians(), sigma_min=0.02, sigma_max=8.0, num_levels=4, resolution=96)


def constant(value):
    return torch.full((4,), value, dtype=torch.float64)


def test_a_multiple_of_the_score_is_all_gradient(split):
    shares = split(lambda x, sigma: 1.03 * EightGaussians().score(x, sigma))
    torch.testing.assert_close(shares.gradient, constant(0.03**2), rtol=1e-3, atol=0)
    torch.testing.assert_close(shares.divergence_free, constant(0.0), rtol=0, atol=1e-7)
    torch.testing.assert_close(shares.mass, constant(1.0), rtol=0, atol=1e-5)


def test_the_score_turned_by_a_right_angle_has_no_gradient_part(split):
    """∇·(p J ∇ log p) = ∇·(J ∇p) = 0."""
    score = EightGaussians().score
    shares = split(lambda x, sigma: score(x, sigma) + 0.3 * turned(score(x, sigma)))
    torch.testing.assert_close(shares.divergence_free, constant(0.09), rtol=2e-3, atol=0)
    torch.testing.assert_close(shares.gradient, constant(0.0), rtol=0, atol=0.09 * 1e-3)


def test_parts_of_a_gradient_and_a_rotation_are_told_apart(split):
    """∇ sin(x₁) + ½ J s: both parts by quadrature of the density, and their sum is the error that points measure."""
    target = EightGaussians()

    def score(x, sigma):
        exact = target.score(x, sigma)
        gradient = torch.stack([x[..., 0].cos(), torch.zeros_like(x[..., 0])], dim=-1)
        return exact + gradient + 0.5 * turned(exact)

    shares = split(score)
    test = ScoreTest(distribution=target, sigma_min=0.02, sigma_max=8.0, num_levels=4, num_points=40_000)
    norm = test(target.score).norm / test.sigmas.square()
    expected = test.x[..., 0].cos().square().double().mean(-1) / norm
    torch.testing.assert_close(shares.gradient, expected, rtol=0.03, atol=0)
    torch.testing.assert_close(shares.gradient + shares.divergence_free, test(score).relative, rtol=0.03, atol=0)


def test_the_error_of_the_grid_falls_with_the_square_of_its_cells():
    """The part of J s that leaks into the gradient is the discretisation, squared: fourth order in the cells' side."""
    target, leaks = EightGaussians(std=0.05), []
    for resolution in (128, 236):
        split = ScoreSplit(distribution=target, sigma_min=0.01, sigma_max=0.02, num_levels=2, resolution=resolution)
        shares = split(lambda x, sigma: target.score(x, sigma) + turned(target.score(x, sigma)))
        leaks.append(float(shares.gradient[-1]))
    assert leaks[1] < leaks[0] / 4
    assert leaks[0] < 1e-2


def test_levels_finer_than_the_grid_have_no_value():
    split = ScoreSplit(distribution=Checkerboard(), sigma_min=0.01, sigma_max=1.0, num_levels=3, resolution=64)
    shares = split(lambda x, sigma: torch.zeros_like(x))
    assert shares.gradient.isnan().tolist() == [False, False, True]
    assert len(shares.gradient_per_level) == len(shares.divergence_free_per_level) == 2
    assert shares.means["gradient"] == pytest.approx(1, rel=1e-3)  # the score itself is a gradient


def test_modes_without_a_way_between_them_are_split_each_by_itself():
    target = GridGaussians()
    split = ScoreSplit(distribution=target, sigma_min=0.01, sigma_max=0.02, num_levels=2, resolution=192)
    shares = split(lambda x, sigma: 0.9 * target.score(x, sigma))
    torch.testing.assert_close(shares.gradient, constant(0.01)[:2], rtol=1e-3, atol=0)
    assert float(shares.divergence_free.max()) < 1e-9


def heun(score, x, sigmas):
    """The probability-flow ODE by Heun's method down the ladder, as in Karras et al. (2022), algorithm 1."""
    for sigma, below in itertools.pairwise(sigmas):
        slope = -sigma * score(x, sigma)
        guess = x + (below - sigma) * slope
        x = x + (below - sigma) / 2 * (slope - below * score(guess, below))
    return x


def test_only_the_gradient_part_moves_what_is_generated(generator):
    """Eight Gaussians, 64 levels from σ = 20: mean −log p of the samples minus the entropy, in nats.

    A relative error of .09 that is all divergence-free costs +.0038, one of .0009 that is all gradient −.104 or +.141.
    """
    target, n = EightGaussians(), 10_000
    sigmas = Karras(sigma_min=0.01, sigma_max=20.0, num_levels=64).sigmas.double()
    start = target.sample(n, generator=generator).double()
    start = start + sigmas[0] * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    entropy = math.log(8) + math.log(2 * math.pi * math.e) + 2 * math.log(target.scale)  # of modes far apart

    def surplus(gradient, rotation):
        def score(x, sigma):
            s = target.score(x, sigma)
            return gradient * s + rotation * turned(s)

        measured = cross_entropy(target, heun(score, start, sigmas), float(sigmas[-1])).mean
        return measured.value - entropy, measured.error

    expected = {(1.0, 0.0): 0.0006, (1.0, 0.3): 0.0038, (1.03, 0.0): -0.104, (0.97, 0.0): 0.141}
    for (gradient, rotation), value in expected.items():
        measured, error = surplus(gradient, rotation)
        assert measured == pytest.approx(value, abs=4 * error + 0.003), (gradient, rotation)
        assert error < 0.02
