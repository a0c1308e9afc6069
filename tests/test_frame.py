"""Wherever the data lie, however large they are and however turned: the same run, in their own coordinates."""

import copy
import math

import numpy as np
import pytest
import torch

from ncsn_lightning import (
    MLP,
    DensityTV,
    Energy,
    EnergyDistance,
    Geometric,
    Heun,
    Langevin,
    Likelihood,
    LogUniform,
    ModeWeights,
    Raw,
    SampleTest,
    ScoreSplit,
    ScoreTest,
    SinusoidalEmbedding,
    StreamingDataModule,
    distributions,
    load_run,
)
from ncsn_lightning.distributions import Distribution, GaussianMixture, Modes
from ncsn_lightning.distributions.mixture import isotropic
from ncsn_lightning.evaluation.commands import sample
from ncsn_lightning.metrics.likelihood import RungeKutta
from ncsn_lightning.models.scores import Density, uncentred
from ncsn_lightning.plotting.space import density_grid, limits
from ncsn_lightning.runs import lifecycle
from ncsn_lightning.schedules import broken_guidelines

UTM = (4.5e5, 5.4e6)
ANGLE = np.random.default_rng(0).uniform(0, 2 * np.pi, (400, 1))
FLOWER = (2 + np.cos(5 * ANGLE)) * np.hstack([np.cos(ANGLE), np.sin(ANGLE)])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def triangle(*, at=(0.0, 0.0), kind=Modes):
    """Three modes of different weights, whose mean lies at a place."""
    means = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    means = means - weights @ means + torch.tensor(at, dtype=torch.float64)
    return kind(means, weights=weights, variances=isotropic(0.3, means), scale=0.3)


class OwnDraws(GaussianMixture):
    """Draws in a way of its own, of which the base class knows nothing."""

    def sample(self, n, *, generator=None):
        return super().sample(n, generator=generator).double().flip(0)


class Exponentials(Distribution):
    """Two independent exponential laws, without noise: no mixture, and far from its mean."""

    def __init__(self, *, at=0.0):
        super().__init__(mean=torch.full((2,), 1.0 + at), covariance=torch.eye(2), scale=0.5, blur=0.0)
        self.at = at

    def sample(self, n, *, generator=None):
        return self.at - torch.rand(n, 2, dtype=torch.float64, generator=generator).log()

    def _log_prob(self, x, sigma):
        x, sigma = x - self.at, sigma[:, None]
        return (-x + sigma.square() / 2 + torch.special.log_ndtr(x / sigma - sigma)).sum(-1)


TARGETS = {
    "moons": distributions.Moons(),
    "shifted moons": distributions.Moons(shift=1e5),
    "two_gaussians": distributions.TwoGaussians(),
    "fractal_tree": distributions.FractalTree(),
    "modes in UTM": triangle(at=UTM),
    "own draws": triangle(at=(40.0, 2.0), kind=OwnDraws),
    "no mixture": Exponentials(at=1e4),
    "points": distributions.Points(path=torch.from_numpy(FLOWER + UTM), bandwidth=0.1),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_centred_target_is_the_same_one_moved(name):
    target = TARGETS[name]
    view = target.centred()
    assert view.mean.abs().max() == 0
    assert view.centred() is view
    assert view.uncentred is target
    x = view.sample(2000, generator=seeded())
    assert x.dtype == torch.float32
    assert x.mean(0).norm() < 5 * view.sigma_data / math.sqrt(1000)
    digits = torch.finfo(target.sample(1).dtype).eps * float(target.mean.abs().max())
    drawn = target.sample(2000, generator=seeded()).double()
    torch.testing.assert_close(target.placed(x).double(), drawn, rtol=0, atol=2 * digits + 1e-6)
    x = x.double()
    for sigma in (0.1, 2.0):
        moved = x + target.mean
        torch.testing.assert_close(view.log_prob(x, sigma), target.log_prob(moved, sigma), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(view.score(x, sigma), target.score(moved, sigma), rtol=1e-5, atol=1e-5)
    ours, theirs = ((t.scale, t.blur, t.unit, t.sigma_data) for t in (view, target))
    assert ours == theirs
    assert (view.extent, view.curvature(0.5)) == pytest.approx((target.extent, target.curvature(0.5)), rel=1e-4)


def test_a_target_about_its_mean_stays_itself():
    for target in (distributions.Checkerboard(), distributions.EightGaussians(), distributions.Rings()):
        assert target.centred() is target is target.uncentred
    assert isinstance(TARGETS["modes in UTM"].centred(), Modes)


def test_a_view_has_no_cache_of_the_target_it_was_made_from():
    target = triangle(at=(50.0, 0.0))
    assert target.typical_points.mean() > 20
    assert target.centred().typical_points.mean().abs() < 0.1
    assert target.means.mean() > 20


def test_samples_keep_their_digits_where_float32_would_merge_them():
    far, near = triangle(at=UTM), triangle(at=(50.0, 50.0))
    assert near.sample(9).dtype == torch.float32
    x = far.sample(2000, generator=seeded())
    assert len(x.unique(dim=0)) == 2000
    assert len(x.float().unique(dim=0)) < 1000
    torch.testing.assert_close(far.placed(x - far.mean), x)
    sampler = Heun()
    start = sampler.start(2000, far, 5.0, generator=seeded())
    assert start.dtype == torch.float64
    states = [*sampler.trajectory(far.score, start, Geometric(sigma_min=0.03, sigma_max=5.0).sigmas)]
    assert len(states[-1].unique(dim=0)) == 2000
    frame = limits(far)
    assert frame.width < 10
    assert density_grid(far, frame).log_prob.exp().sum() * (frame.width / 200) ** 2 == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("prior", ["gaussian", "moment_matched", "uniform"])
def test_priors_lie_about_the_mean(prior):
    here, there = triangle(), triangle(at=(30.0, -7.0))
    x, y = (Langevin(step=0.1, prior=prior).start(500, target, 3.0, generator=seeded()) for target in (here, there))
    torch.testing.assert_close(y, (x + there.mean).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("prior", ["exact", "moment_matched", "gaussian"])
def test_a_likelihood_moves_with_its_target(prior):
    schedule, x = Geometric(sigma_min=0.1, sigma_max=5.0), triangle().sample(50, generator=seeded()).double()
    here, there = (
        Likelihood(distribution=t, schedule=schedule, solver=RungeKutta(), prior=prior).log_prob(t.score, x + t.mean)
        for t in (triangle(), triangle(at=UTM))
    )
    torch.testing.assert_close(here, there, rtol=0, atol=1e-6)


def test_metrics_move_with_their_target():
    x = torch.randn(1500, 2, generator=seeded())
    metrics = {"energy": EnergyDistance(num_points=500), "weights": ModeWeights(), "tv": DensityTV(resolution=16)}
    measured = []
    for at in ((0.0, 0.0), UTM):
        view = triangle(at=at).centred()
        split = ScoreSplit(distribution=view, sigma_min=0.2, sigma_max=5.0, num_levels=3, resolution=48)
        shares = split(lambda x, sigma: -x / (sigma**2 + 2))
        errors = ScoreTest(distribution=view, sigma_min=0.1, sigma_max=5.0)(lambda x, sigma: -x / (sigma**2 + 2))
        values = [value.value for value in SampleTest(distribution=view, metrics=metrics).measure(x).values()]
        measured.append([*values, *errors.relative.tolist(), *shares.means.values()])
    np.testing.assert_allclose(*measured, rtol=2e-3)


SMALL = [
    "~callbacks.figures",
    "~callbacks.score_split",
    "~callbacks.best",
    "network.hidden_dims=[32,32]",
    "network.num_frequencies=16",
    "trainer.max_steps=300",
    "data.steps_per_epoch=300",
    "data.batch_size=128",
    "score_test.num_points=1024",
    "objective=denoising",
    "optimizer.lr=0.01",
]


@pytest.fixture
def score_error(configure, tmp_path):
    """The error of a small training on points of a file, or on another target."""
    runs = iter(range(1000))

    def train(points, *overrides, seed=0):
        run = next(runs)
        if isinstance(points, np.ndarray):
            np.save(tmp_path / f"{run}.npy", points)
            overrides = ("distribution=points", f"distribution.path={tmp_path / f'{run}.npy'}", *overrides)
        else:
            overrides = (points, *overrides)
        job = lifecycle.build(configure(*SMALL, f"seed={seed}", *overrides, folder=f"run{run}"), overrides=[])
        return lifecycle.fit(job)

    return train


@pytest.mark.parametrize("score", ["karras", "raw", "energy"])
def test_points_are_learnt_wherever_they_lie(score, score_error):
    deviation = math.sqrt(FLOWER.var(0).mean())
    recipe = ["distribution.bandwidth=0.1", f"score={score}", "trainer.max_steps=200"]
    here = score_error(FLOWER, *recipe)
    for distance, most in ((100, 0.01), (2e4, 0.1)):
        move = distance * deviation * np.array([math.cos(1), math.sin(1)])
        assert score_error(FLOWER + move, *recipe) == pytest.approx(here, rel=most)


def test_other_targets_are_learnt_wherever_they_lie(score_error):
    here = score_error("distribution=moons")
    assert score_error("distribution=moons", "distribution.shift=140.0") == pytest.approx(here, rel=0.01)
    assert score_error("distribution=moons", "distribution.shift=-28000.0") == pytest.approx(here, rel=0.1)


def test_the_size_and_the_direction_of_data_do_not_matter(score_error):
    def errors(factor, turn=0):
        c, s = round(math.cos(turn)), round(math.sin(turn))
        points = factor * FLOWER @ np.array([[c, s], [-s, c]]) + [3.0, -1.0]
        return np.array([score_error(points, f"distribution.bandwidth={0.1 * factor}", seed=seed) for seed in range(3)])

    here = errors(1.0)
    for others in (errors(1e-3), errors(1e3), errors(1.0, math.pi / 2)):
        assert abs(others.mean() - here.mean()) < np.concatenate([here, others]).std(ddof=1) * 2
        assert others.mean() == pytest.approx(here.mean(), rel=0.15)


SIZES = {
    "checkerboard": lambda k: distributions.Checkerboard(cell_size=k),
    "circles": lambda k: distributions.Circles(zoom=3 * k),
    "eight_gaussians": lambda k: distributions.EightGaussians(radius=4 / math.sqrt(2) * k, std=0.5 / math.sqrt(2) * k),
    "forty_gaussians": lambda k: distributions.FortyGaussians(std=1.3132616875182228 * k, spread=k),
    "fractal_tree": lambda k: distributions.FractalTree(length=2 * k, width=0.1 * k),
    "grid_gaussians": lambda k: distributions.GridGaussians(spacing=2 * k, std=0.05 * k),
    "moons": lambda k: distributions.Moons(zoom=2 * k, shift=-k),
    "pinwheel": lambda k: distributions.Pinwheel(zoom=2 * k, noise=0.05 * k),
    "rings": lambda k: distributions.Rings(zoom=3 * k, noise=0.08 * k),
    "s_curve": lambda k: distributions.SCurve(zoom=1.5 * k),
    "swiss_roll": lambda k: distributions.SwissRoll(zoom=0.2 * k, noise=0.2 * k),
    "two_gaussians": lambda k: distributions.TwoGaussians(offset=5 * k, std=k),
    "two_spirals": lambda k: distributions.TwoSpirals(zoom=k / 3, noise=0.1 * k),
    "points": lambda k: distributions.Points(path=torch.from_numpy(k * FLOWER + 5 * k)),
}


@pytest.mark.parametrize("name", SIZES)
def test_everything_of_a_target_scales_with_it(name):
    here = SIZES[name](1.0)
    if name != "points":
        assert here.detail == pytest.approx(min(0.01, here.scale / 10), rel=1e-12)
    x = here.noisy_points(0.5)[:200].double()
    for k in (1e-3, 1e3):
        there = SIZES[name](k)
        ends = (there.detail, there.extent, there.sigma_data, there.blur)
        assert ends == pytest.approx(
            [k * end for end in (here.detail, here.extent, here.sigma_data, here.blur)], rel=1e-5
        )
        score, norm = here.score(x, 0.1), here.score(x, 0.1).norm(dim=-1).max()
        torch.testing.assert_close(k * there.score(k * x, 0.1 * k), score, rtol=1e-4, atol=1e-6 * float(norm))


def test_automatic_sigma_max_is_the_largest_distance_between_two_points():
    flower = torch.from_numpy(FLOWER)
    outlier = torch.cat([flower.repeat(25, 1), torch.tensor([[400.0, 30.0]], dtype=torch.float64)])
    for points in (flower, outlier, torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, k] for k in range(9)])):
        target = distributions.Points(path=points, bandwidth=0.1)
        assert target.extent == pytest.approx(float(torch.cdist(points, points).max()), rel=2e-7)
        assert not broken_guidelines(Geometric(sigma_min=0.001, sigma_max=target.extent), target)
    one = distributions.Points(path=torch.tensor([[3.0, 4.0]]), bandwidth=0.1)
    assert 0.6 < one.extent == one.diameter < 1.0


@pytest.fixture
def utm(tmp_path):
    path = tmp_path / "utm.npy"
    np.save(path, 3 * FLOWER + UTM)
    return ["distribution=points", f"distribution.path={path}", "distribution.bandwidth=0.3"]


def test_a_run_on_large_coordinates_answers_in_them(utm, configure, tmp_path):
    lean = ["callbacks.figures.num_samples=300", "~callbacks.score_split"]
    job = lifecycle.build(configure(*utm, *lean), overrides=[])
    lifecycle.fit(job)
    inside = job.data.distribution
    assert inside.mean.abs().max() == 0
    assert inside is job.data.objective.distribution is job.builder.build("evaluation.samples").distribution
    assert next(job.data.train_dataloader().stream.batches(0, 1)).x_noisy.mean().abs() < 10
    run = load_run(tmp_path / "run")
    center = run.distribution.mean
    kept = np.load(tmp_path / "run/samples.npz")
    for points in (kept["x"], kept["truth"], run.distribution.sample(300).numpy()):
        assert points.dtype == np.float64
        assert np.abs(points - UTM).max() < 100
        assert len(np.unique(points, axis=0)) > 290
    x = torch.from_numpy(kept["x"])
    torch.testing.assert_close(run.score(x, 0.5).float(), run.module.score((x - center).float(), torch.tensor(0.5)))
    assert run.score(x, 0.5).dtype == torch.float64
    error = run.score(x, 0.5) - run.distribution.score(x, 0.5)
    assert (error.square().mean() / run.distribution.score(x, 0.5).square().mean()) < 1
    config = {"run": str(tmp_path / "run"), "n": 300, "out": str(tmp_path / "drawn.csv"), "seed": 0, "trust": []}
    config |= {"threads": 1, "figures": {"format": "png"}}
    drawn = np.loadtxt(sample(config), delimiter=",", skiprows=1)
    assert len(np.unique(drawn, axis=0)) > 290
    assert np.abs(drawn - UTM).max() < 100


def test_a_score_in_the_datas_coordinates_is_that_of_centred_points():
    target, x = triangle(at=UTM), torch.randn(5, 2, generator=seeded())
    network = MLP(embedding=SinusoidalEmbedding(dim=8), hidden_dims=[8])
    torch.nn.init.normal_(network.last.weight, generator=seeded())
    energy = Energy(network=network, sigma_data=1.0)
    score = uncentred(energy, target)
    moved = target.placed(x)
    torch.testing.assert_close(score(moved, 0.7).float(), energy(x, 0.7), rtol=1e-4, atol=1e-5)
    assert isinstance(score, Density)
    torch.testing.assert_close(score.log_density(moved, 0.7).float(), energy.log_density(x, 0.7), rtol=1e-4, atol=1e-5)
    assert uncentred(energy, triangle()) is energy
    assert not isinstance(uncentred(Raw(network=network), target), Density)
    double = copy.deepcopy(score).double()
    assert double(moved, 0.7).dtype == torch.float64
    torch.testing.assert_close(double(moved, 0.7), score(moved, 0.7), rtol=1e-4, atol=1e-5)


def test_a_stream_of_data_far_from_the_origin_says_how_to_centre_them(caplog):
    levels = LogUniform(schedule=Geometric(sigma_min=0.1, sigma_max=5.0))
    StreamingDataModule(distribution=triangle(at=(2.0, 2.0)), levels=levels)
    StreamingDataModule(distribution=triangle(at=UTM).centred(), levels=levels)
    assert not caplog.records
    StreamingDataModule(distribution=triangle(at=UTM), levels=levels)
    assert "give distribution.centred() to all parts" in caplog.text
