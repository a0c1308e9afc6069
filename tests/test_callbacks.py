"""What a run leaves behind, and how it ends when it goes wrong."""

import csv
import json
import os
import signal

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from ncsn_lightning import BlockCallback, Checkerboard, ScoreTest
from ncsn_lightning.core.signals import Preempted
from ncsn_lightning.runs import lifecycle
from ncsn_lightning.runs.summary import revision, versions
from ncsn_lightning.training.callbacks import Diverged
from ncsn_lightning.training.checkpoints import read_checkpoint


def summary(tmp_path):
    return json.loads((tmp_path / "run/summary.json").read_text())


class At(BlockCallback):
    """Does something once a step is reached."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step >= self.step:
            self.action(pl_module)


def run_with(configure, callback, *overrides):
    job = lifecycle.build(configure("data.steps_per_epoch=20", "block_size=10", *overrides), overrides=["a=1"])
    job.trainer.callbacks.insert(0, callback)
    lifecycle.fit(job)


def test_a_run_leaves_its_samples_figures_and_summary(configure, tmp_path, caplog):
    caplog.set_level("INFO")
    lifecycle.fit(
        lifecycle.build(
            configure("weighting=learned", "callbacks.figures.every_n_steps=50", "figures.format=[png,pdf]"),
            overrides=["x=1"],
        )
    )
    folder = tmp_path / "run"
    said = [record.getMessage() for record in caplog.records if record.name.endswith("progress_bars")]
    end = "sampling 50 chains; measuring and drawing are left after that"
    assert said == ["sampling 50 chains", "measuring 50 samples", "drawing 9 pictures", end, *said[1:3]]
    points = np.load(folder / "samples.npz")
    assert (points["x"].shape, points["truth"].shape) == ((50, 2), (50, 2))
    on_the_board = np.floor(points["truth"]).sum(-1) % 2 == 0
    assert on_the_board.all()
    names = {
        "samples",
        "score_field",
        "score_error",
        "loss_levels",
        "filmstrip",
        "schedule",
        "learned_weighting",
        "score_split",
    }
    assert {p.stem for p in (folder / "figures").glob("*.png")} == names
    assert {p.stem for p in (folder / "figures").glob("*.pdf")} == names
    for picture in (folder / "figures").glob("*.png"):
        assert picture.stat().st_size < 300_000
        with Image.open(picture) as image:
            assert image.width > 500
    with Image.open(folder / "figures/annealing.gif") as animation:
        assert animation.n_frames > 5
    assert (folder / "figures/annealing.gif").stat().st_size < 3_000_000
    report = summary(tmp_path)
    assert report.keys() == {
        "status", "seed", "steps", "wall_time", "metrics", "overrides", "config_hash", "versions", "revision", "error",
    }  # fmt: skip
    assert (report["status"], report["steps"], report["overrides"], report["error"]) == ("finished", 100, ["x=1"], None)
    per_level = report["metrics"]["score_error_per_level"]
    assert len(per_level) == 10
    learned = report["metrics"]["learned_weighting_per_level"]
    assert learned.keys() == report["metrics"]["optimal_weighting_per_level"].keys() == per_level.keys()
    assert all(np.isfinite(list(learned.values())))
    assert report["metrics"]["score_error"] == pytest.approx(np.mean(list(per_level.values())))
    assert report["metrics"].keys() >= {"energy_distance", "sliced_wasserstein2", "density_tv"}
    assert "mode_weights" not in report["metrics"]  # a board has none
    floor = report["metrics"]["floors"]["density_tv"]
    assert (floor["value"], floor["num_points"]) == (report["metrics"]["density_tv"], 50)
    assert report["metrics"]["score_error_gradient"] > 0
    inside = torch.isfinite(Checkerboard().log_prob(torch.from_numpy(points["x"]), 0.0)).double().mean()
    assert report["metrics"]["off_support"] == pytest.approx(1 - float(inside))


def test_ddpm_runs_as_the_schedule_and_sampler_that_it_is(configure, tmp_path):
    ddpm = ["schedule=ddpm", "schedule.num_levels=20", "levels=ladder", "sampler=ancestral"]
    lifecycle.fit(lifecycle.build(configure(*ddpm), overrides=[]))
    assert np.isfinite(np.load(tmp_path / "run/samples.npz")["x"]).all()
    assert summary(tmp_path)["status"] == "finished"


def test_a_sampler_that_finds_no_way_loses_no_run(configure, tmp_path, caplog):
    stiff = ["sampler=adaptive_ode", "sampler.max_evaluations=5", "callbacks.figures.every_n_steps=50"]
    lifecycle.fit(lifecycle.build(configure(*stiff), overrides=[]))
    assert caplog.text.count("no samples: sampler.rtol=") == 2  # half-way, and at the end
    assert "raise the tolerances or max_evaluations" in caplog.text
    assert summary(tmp_path)["status"] == "finished"
    assert summary(tmp_path)["metrics"]["score_error_gradient"] > 0
    assert {p.stem for p in (tmp_path / "run/figures").iterdir()} >= {"score_field", "score_error", "schedule"}
    assert not (tmp_path / "run/samples.npz").exists()


def test_the_score_is_measured_once_at_each_validation_and_no_more_at_the_end(configure, monkeypatch, tmp_path):
    measure, calls = ScoreTest.forward, []
    monkeypatch.setattr(ScoreTest, "forward", lambda test, score: calls.append(score) or measure(test, score))
    lifecycle.fit(lifecycle.build(configure("data.steps_per_epoch=50", "trainer.max_steps=120"), overrides=[]))
    assert len(calls) == 3
    with open(tmp_path / "run/metrics.csv", newline="") as file:
        logged = [float(row["score_error"]) for row in csv.DictReader(file) if row["score_error"]]
    assert len(logged) == 3
    assert summary(tmp_path)["metrics"]["score_error"] == pytest.approx(logged[-1], rel=1e-6)


def test_the_monitor_logs_the_gradient_of_the_last_step_and_the_speed(configure, tmp_path):
    """Beside a callback that sees every step; and the same in the fast loop, which would refuse that one."""
    norms = {}

    class Gradients(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            squares = sum(float(p.grad.double().square().sum()) for p in pl_module.parameters() if p.grad is not None)
            norms[trainer.global_step] = squares**0.5

    for loop in ("standard", "fast"):
        job = lifecycle.build(configure(f"loop={loop}", "~callbacks.figures", folder=loop), overrides=[])
        if loop == "standard":
            job.trainer.callbacks.append(Gradients())
        lifecycle.fit(job)
        with open(tmp_path / loop / "metrics.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["gradient_norm"]]
        assert [int(row["step"]) for row in rows] == [49, 99]
        assert all(float(row["steps_per_second"]) > 0 and row["loss/train"] for row in rows)
        assert [float(row["gradient_norm"]) for row in rows] == pytest.approx([norms[49], norms[99]], rel=1e-5)


def poison(module):
    with torch.no_grad():
        module.model.network.last.weight.fill_(float("nan"))


def blow_up(module):
    with torch.no_grad():
        module.model.network.last.weight.mul_(1e4).add_(100)


@pytest.mark.parametrize("harm", [poison, blow_up])
def test_divergence_ends_the_run_and_keeps_the_last_good_checkpoint(harm, configure, tmp_path):
    with pytest.raises(Diverged, match=r"diverged (at|by) step \d+: .*lower the learning rate \(optimizer\.lr\)"):
        run_with(configure, At(50, harm))
    report = summary(tmp_path)
    assert report["status"] == "diverged"
    assert "Diverged" in report["error"]
    last = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert last["global_step"] == 40
    assert all(value.isfinite().all() for value in last["state_dict"].values())


def test_a_failure_is_reported_with_its_traceback(configure, tmp_path):
    def fail(module):
        raise KeyError("broken part")

    with pytest.raises(KeyError):
        run_with(configure, At(30, fail))
    report = summary(tmp_path)
    assert (report["status"], report["steps"]) == ("failed", 30)
    assert "Traceback" in report["error"]
    assert "broken part" in report["error"]


def test_sigterm_is_reported_as_preempted(configure, tmp_path):
    with pytest.raises(Preempted):
        run_with(configure, At(30, lambda module: os.kill(os.getpid(), signal.SIGTERM)))
    assert summary(tmp_path)["status"] == "preempted"


def test_versions_and_revision():
    assert versions()["torch"] == torch.__version__
    assert revision() is None or len(revision()) >= 7
