"""Whose fault an error is, where it is known to be nobody's."""

import pytest

from ncsn_lightning import DensityTV, ExactScore, Geometric, Heun, SampleTest, SlicedWasserstein2, TwoGaussians
from ncsn_lightning.evaluation.chains import Chains, shares


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_a_sampler_of_nearly_no_error_ends_where_samples_are_compared(sigma):
    """On the exact score it is as good as draws, of a target itself or of two point masses under noise."""
    target = TwoGaussians(std=1.0 - sigma)
    ladder = Geometric(sigma_min=0.01 if sigma == 0 else 0.5, sigma_max=20.0, num_levels=5)
    chains = Chains(Heun(), target, ladder, n=4000).near_exact(sigma)
    test = SampleTest(distribution=target, metrics={"tv": DensityTV(), "sw": SlicedWasserstein2()}, sigma=sigma)
    for name, share in shares(test, chains, ExactScore(target), seeds=range(3)).items():
        assert abs(share.value - share.floor) < 4 * share.deviation, name
