"""A run read back is the run that was trained."""

import re
import subprocess

import numpy as np
import pytest
import torch

from ncsn_lightning import load_run
from ncsn_lightning.runs import lifecycle, summary
from ncsn_lightning.samplers import AnnealedLangevin
from ncsn_lightning.training.checkpoints import AtomicCheckpointIO

LEAN = ["~callbacks.figures"]


@pytest.fixture
def train(configure):
    """Train a small network and return its job."""

    def fit(*overrides, files=None):
        job = lifecycle.build(configure(*LEAN, *overrides), overrides=[], files=files)
        lifecycle.fit(job)
        return job

    return fit


@pytest.mark.parametrize("recipe", [["score=karras"], ["score=energy"], ["experiment=primer", "module.ema_decay=0.9"]])
def test_a_loaded_score_is_the_average_of_the_training_bit_for_bit(recipe, train, tmp_path):
    job = train(*recipe)
    moved = tmp_path / "moved.ckpt"
    (tmp_path / "run/checkpoints/last.ckpt").rename(moved)
    run = load_run(moved)
    x, sigma = torch.randn(20, 2), torch.rand(20) + 0.1
    assert torch.equal(run.score(x, sigma), job.module.score(x, sigma))
    assert not torch.equal(run.score(x, sigma), job.module.model(x, sigma))
    assert not any(parameter.requires_grad for parameter in run.score.parameters())
    assert torch.equal(run.schedule.sigmas, job.builder.build("schedule").sigmas)
    assert run.config == job.record.config
    assert run.steps == 100
    assert isinstance(run.sampler, AnnealedLangevin)
    assert torch.equal(run.distribution.typical_points, job.builder.build("distribution").typical_points)


def test_a_run_is_printed_in_one_line(train, tmp_path):
    train()
    text = str(load_run(tmp_path / "run"))
    assert "\n" not in text
    assert re.match(
        r"Run\(Checkerboard Preconditioned FiLM, \d+ weights, \d+ steps, seed \d+; AnnealedLangevin on ", text
    )


def test_a_folder_gives_its_furthest_whole_checkpoint(train, tmp_path):
    train()
    last = tmp_path / "run/checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    torch.save({**checkpoint, "global_step": 150}, last)
    assert load_run(tmp_path / "run").steps == 150
    last.write_bytes(last.read_bytes()[:1000])
    assert load_run(tmp_path / "run").steps in (50, 100)  # the best
    (tmp_path / "run/checkpoints/best.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match=r"run=.*: holds no whole checkpoint.*\n.*last.ckpt: truncated"):
        load_run(tmp_path / "run")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_the_users_points_travel_in_the_checkpoint(train, tmp_path):
    path = tmp_path / "points.csv"
    np.savetxt(path, np.random.default_rng(0).normal(size=(30, 2)), delimiter=",")
    job = train("distribution=points", f"distribution.path={path}")
    path.unlink()
    run = load_run(tmp_path / "run")
    x = torch.randn(20, 2)
    assert torch.equal(run.distribution.score(x, 0.1), job.builder.build("distribution").score(x, 0.1))
    assert lifecycle.resume(tmp_path / "run") == pytest.approx(job.record.results(job.trainer)["score_error"])


def test_a_run_of_ones_own_classes_is_read_by_whoever_trusts_them(train, importable):
    source = "from ncsn_lightning import Checkerboard\nclass Board(Checkerboard):\n    pass\n"
    (importable / "boards.py").write_text(source)
    train("distribution._target_=boards.Board")
    with pytest.raises(ValueError, match=r"outside ncsn_lightning, torch\.optim, not loaded; trust=boards if"):
        load_run(importable / "run")
    assert type(load_run(importable / "run", trust=("boards",)).distribution).__name__ == "Board"


def test_weights_of_data_that_were_not_centred_are_refused(train, tmp_path):
    train("distribution=moons")
    assert load_run(tmp_path / "run").steps == 100
    for path in (tmp_path / "run/checkpoints").iterdir():
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint.pop("centred")
        torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"run=.*: trained by an earlier version, .* train it again"):
        load_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"\.ckpt: trained by an earlier version"):
        lifecycle.resume(tmp_path / "run")


def test_an_unknown_path_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run=.*none: no such file; give a run's folder or one of its"):
        load_run(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no whole checkpoint; give another run"):
        load_run(tmp_path)


def test_whatever_lightning_saves_is_read_back(tmp_path):
    """With ddp_spawn it hands weights from process to process through this plugin, in files that are no checkpoints."""
    plugin = AtomicCheckpointIO()
    plugin.save_checkpoint({"weight": torch.ones(3)}, tmp_path / "weights")
    assert torch.equal(plugin.load_checkpoint(tmp_path / "weights")["weight"], torch.ones(3))


def test_a_revision_is_dirty_by_more_than_its_pages(tmp_path, monkeypatch):
    def git(*command):
        names = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *names, *command], check=True, capture_output=True)

    page, code = tmp_path / "docs" / "results.md", tmp_path / "package" / "runs" / "summary.py"
    for path in (page, code, tmp_path / "pyproject.toml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    monkeypatch.setattr(summary, "__file__", str(code))
    clean = summary.revision()
    assert re.fullmatch(r"[0-9a-f]{12}", clean)
    page.write_text("two\n")
    assert summary.revision() == clean
    code.write_text("two\n")
    assert summary.revision() == f"{clean}-dirty"
