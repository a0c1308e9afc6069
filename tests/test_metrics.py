import pytest
import torch

from ncsn_lightning import Checkerboard, ScoreTest, TwoGaussians, off_support

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
