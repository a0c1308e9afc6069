"""Published experiments: a fixed training set, what is kept of a measurement, and one of them from end to end."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ncsn_lightning import (
    Denoising,
    Exact,
    Geometric,
    LogUniform,
    Moons,
    StableTarget,
    StreamingDataModule,
    TwoGaussians,
)
from ncsn_lightning.training.data import Stream, training_set

ROOT = Path(__file__).parents[1]
TINY = [
    *("network.hidden_dims=[8]", "network.embedding.dim=8", "data.batch_size=64", "data.validation_size=64"),
    *("score_test.num_points=16", "trainer.max_steps=40", "data.steps_per_epoch=20", "block_size=20"),
]
LEVELS = LogUniform(schedule=Geometric(sigma_min=0.01, sigma_max=8.0), groups=4)


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, str(ROOT / "scripts/studies"))
    yield
    sys.path.remove(str(ROOT / "scripts/studies"))


def clean(stream):
    """The clean points of the first 100 steps; denoising's target gives the noise away."""
    batches = stream.batches(0, 100)
    return torch.cat([(x + sigma.unsqueeze(-1) ** 2 * target).reshape(-1, 2) for x, sigma, target in batches])


def test_a_fixed_training_set_gives_all_rows_and_each_as_often():
    points, target = 50, Moons()
    x = clean(Stream(target, LEVELS, Denoising(), batch_size=400, seed=3, size=points))
    distance, nearest = torch.cdist(x.double(), training_set(target, points, seed=3).double()).min(-1)
    assert distance.max() < 1e-4
    counts = torch.bincount(nearest, minlength=points).double()
    expected = len(x) / points
    assert ((counts - expected).square() / expected).sum() < points - 1 + 5 * (2 * (points - 1)) ** 0.5  # χ²
    fresh = clean(Stream(target, LEVELS, Denoising(), batch_size=400, seed=3))
    assert len(fresh.round(decimals=3).unique(dim=0)) > 0.9 * len(fresh)


def test_training_sets_differ_by_their_seeds():
    assert not torch.equal(training_set(Moons(), 10, seed=0), training_set(Moons(), 10, seed=1))
    assert torch.equal(training_set(Moons(), 10, seed=0), training_set(Moons(), 10, seed=0))


@pytest.mark.parametrize("objective", [StableTarget, Exact])
def test_what_asks_the_target_for_more_is_refused_beside_a_training_set(objective):
    target = TwoGaussians()
    sizes = {"batch_size": 64, "steps_per_epoch": 100, "validation_size": 64}
    with pytest.raises(ValueError, match=r"train_size=10: .* use objective=denoising"):
        StreamingDataModule(
            distribution=target, levels=LEVELS, objective=objective(distribution=target), train_size=10, seed=0, **sizes
        )


def test_a_measurement_is_made_once(tmp_path):
    from lab import Lab

    calls = []

    def measured(lab):
        return lab.measure({"a": lambda: calls.append("a") or 1.5, "b": lambda: calls.append("b") or [1, 2]})

    for _ in range(2):
        lab = Lab("name", tmp_path, tmp_path, "basic", [])
        assert measured(lab) == {"a": 1.5, "b": [1, 2]}
        assert lab.seconds > 0
    assert calls == ["a", "b"]
    (tmp_path / "name" / "b.json").unlink()
    measured(lab)
    assert calls == ["a", "b", "b"]


def test_the_overlap_of_technique_2_is_vacuous_in_two_dimensions():
    from reproductions.techniques import overlap

    values = [float(value) for value in re.findall(r"(\d\.\d{4}) for", overlap())]
    assert min(values) >= 0.997
    assert values[0] == pytest.approx(0.9987, abs=2e-4)  # Φ(3.5) − Φ(−3.1) at γ = 1.1


@pytest.mark.usefixtures("unchecked")  # sixteen thousand evaluations
def test_ncsn_toy_from_training_to_page(tmp_path, monkeypatch):
    from lab import Lab
    from reproductions import ncsn_toy

    monkeypatch.setattr(ncsn_toy, "N", 100)
    monkeypatch.setattr(ncsn_toy, "WALKS", 2)
    lab = Lab("ncsn_toy", tmp_path / "runs", tmp_path, "basic", [*TINY, "seed=0,1"])
    lines = ncsn_toy.reproduce(lab)
    rows = {tuple(line.strip("| ").split(" | ")[:2]): line for line in lines if line.startswith("| ")}
    weights = {key: float(line.split(" | ")[2].split(" ± ")[0]) for key, line in rows.items() if "±" in line}
    four = 4 * (0.8 * 0.2 / 400) ** 0.5
    assert weights["annealed Langevin", "exact"] == pytest.approx(0.784, abs=four)
    assert weights["plain Langevin", "exact"] == pytest.approx(0.51, abs=4 * 0.5 / 20)
    assert lab.totals().startswith("*2 jobs, ")
    assert (tmp_path / "images/result_ncsn_toy.png").stat().st_size < 300_000


def test_an_excess_is_of_pairs_on_the_same_test_points(tmp_path, monkeypatch):
    """Seeds whose test points differ much, and networks that are off by as much on each: no error is left."""
    from lab import Lab
    from reproductions import table2

    truth = {f"run{seed}": 1.0 + seed for seed in range(5)}
    monkeypatch.setattr(table2, "floor", lambda folder, draw: truth[folder])
    monkeypatch.setattr(table2, "distance", lambda folder, walk: truth[folder] + 0.3)
    jobs = [SimpleNamespace(hash=name, folder=name, overrides={"seed": str(seed)}) for seed, name in enumerate(truth)]
    found, others, above = table2.column(Lab("name", tmp_path, tmp_path, "basic", []), "moons", jobs)
    assert (found, others, above) == ("3.3 ± 1.5", "3.0 ± 1.5", "+10% ± 0%")


def test_a_divergence_free_field_has_no_surplus_and_a_longer_score_has():
    from reproductions import split_fields

    for factors, expected in (((1.0, 0.0), 0.0), ((1.0, 0.3), 0.0), ((1.03, 0.0), -0.104)):
        value, error = split_fields.surplus(split_fields.field(*factors), n=2000)
        assert value == pytest.approx(expected, abs=4 * error)
        assert error < 0.03


def test_shares_of_the_fault_are_said_beside_the_truth():
    from reproductions import whose_fault

    share = {"value": 0.2, "error": 0.01, "floor": 0.13, "deviation": 0.03, "num_points": 2000}
    pairs = {"truth, this sampler": {"w_2": share}, "network, this sampler": {"w_2": {**share, "value": 0.3}}}
    head, _, row = whose_fault.samples(pairs)
    assert head.startswith("| metric | points | truth, this sampler | network, this sampler |")
    assert row == "| w 2 | 2000 | 0.200 ± 0.010 | 0.300 ± 0.010 | 0.13 ± 0.03 |"
