"""Whose fault an error is, where it is known to be nobody's."""

import pytest
import torch

from ncsn_lightning import DensityTV, ExactScore, Geometric, Heun, SampleTest, SlicedWasserstein2, TwoGaussians
from ncsn_lightning.core.randomness import keyed_generator
from ncsn_lightning.evaluation.walks import Chains, shares
from ncsn_lightning.metrics import sliced_wasserstein2


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_a_sampler_of_nearly_no_error_ends_where_samples_are_compared(sigma):
    """On the exact score it is as good as draws, of a target itself or of two point masses under noise."""
    target = TwoGaussians(std=1.0 - sigma)
    ladder = Geometric(sigma_min=0.01 if sigma == 0 else 0.5, sigma_max=20.0, num_levels=5)
    chains = Chains(Heun(), target, ladder, n=4000).near_exact(sigma)
    test = SampleTest(distribution=target, metrics={"tv": DensityTV(), "sw": SlicedWasserstein2()}, sigma=sigma)
    for name, share in shares(test, chains, ExactScore(target), seeds=range(3)).items():
        assert abs(share.value - share.floor) < 4 * share.deviation, name


def test_states_of_a_solver_of_nearly_no_error_are_draws_of_every_level_that_they_reach():
    target, ladder = TwoGaussians(), Geometric(sigma_min=0.01, sigma_max=20.0, num_levels=64)
    chains = Chains(Heun(prior="moment_matched", denoise=True), target, ladder, n=1000)
    assert chains.levels[[0, 1, -1]].tolist() == pytest.approx([20, float(ladder.sigmas[2]), 0])
    distances, floors = chains.distances(ExactScore(target), range(4)), chains.floors(range(20))
    assert distances.shape == (4, 32)
    assert floors.shape == (20, 32)
    assert ((distances.mean(0) - floors.mean(0)).abs() < 4 * floors.std(0) / 2).all()
    assert torch.corrcoef(floors.T)[0, 1] < 0.9  # draws of one level are not those of the next
    assert torch.equal(chains.distances(ExactScore(target), [2])[0], distances[2])


def test_walks_of_draws_have_the_floor_of_draws():
    """Each walk meets draws of the truth of its own; beside the same draw again all would be off by its chance."""
    target, n = TwoGaussians(), 500
    test = SampleTest(distribution=target, metrics={"sw": SlicedWasserstein2()})
    values = [
        test.measure(target.sample(n, generator=keyed_generator(walk, "walk")), first=5 * walk)["sw"].value
        for walk in range(12)
    ]
    draws = [[target.sample(n, generator=keyed_generator(index, key)) for key in "xy"] for index in range(60)]
    floors = torch.tensor([sliced_wasserstein2(x, y, num_angles=32) for x, y in draws])
    found = torch.tensor(values)
    assert found.mean() == pytest.approx(float(floors.mean()), abs=4 * float(floors.std()) / 12**0.5)
    assert floors.std() / 2 < found.std() < 2 * floors.std()
