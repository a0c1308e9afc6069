"""Whatever one may do to a Lightning training works here, or is refused before there is a folder: docs/lightning.md."""

import csv
import json
import logging
import re
from pathlib import Path

import pytest
import torch

from ncsn_lightning import NCSN, BlockCallback, StreamingDataModule, load_run
from ncsn_lightning.config.plain import Refusal
from ncsn_lightning.runs import lifecycle

PAGE = (Path(__file__).parents[1] / "docs/lightning.md").read_text()
LEAN = ["~callbacks.figures", "data.steps_per_epoch=30", "trainer.log_every_n_steps=10", "trainer.max_steps=60"]


def fit(configure, *overrides, folder="run"):
    job = lifecycle.build(configure(*LEAN, *overrides, folder=folder), overrides=[*overrides])
    lifecycle.fit(job)
    return job


def logged(folder, name):
    with open(folder / "metrics.csv", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row.get(name)]


class Notes(BlockCallback):
    """Notes what is true of torch and of the trainer during a training."""

    def __init__(self):
        self.sanity_checks = 0

    def on_sanity_check_end(self, trainer, pl_module):
        self.sanity_checks += 1

    def on_train_start(self, trainer, pl_module):
        self.start = {name: p.detach().clone() for name, p in pl_module.model.named_parameters()}
        self.anomalies, self.deterministic = torch.is_anomaly_enabled(), torch.are_deterministic_algorithms_enabled()

    def way(self, module):
        """How far the weights have gone."""
        return (
            sum(float((p.detach() - self.start[name]).square().sum()) for name, p in module.model.named_parameters())
            ** 0.5
        )


LIGHTNINGS = "lightning.pytorch.callbacks"
ENDLESS = "trainer.max_steps=10000000"
WORKS = {  # what is asked for, and what is true afterwards
    "gradient_clip_val": (
        ["+trainer.gradient_clip_val=0.01", "optimizer=sgd", "optimizer.momentum=0"],
        lambda job, notes: 0 < notes.way(job.module.cpu()) <= 60 * 0.001 * 0.01,
    ),
    "accumulate_grad_batches": (["+trainer.accumulate_grad_batches=2"], lambda job, _: taken(job) == 120),
    "precision=bf16-mixed": (["trainer.precision=bf16-mixed"], lambda job, _: job.trainer.precision == "bf16-mixed"),
    "max_time": (["+trainer.max_time={seconds:1}", ENDLESS], lambda job, _: 0 < job.trainer.global_step < 1e7),
    "max_epochs": (["+trainer.max_epochs=1"], lambda job, _: job.trainer.global_step == 30),
    "fast_dev_run": (["+trainer.fast_dev_run=true"], lambda job, _: job.trainer.global_step == 1),
    "overfit_batches": (
        ["+trainer.overfit_batches=7", "trainer.max_steps=63"],
        lambda job, _: job.trainer.current_epoch == 9,
    ),
    "limit_val_batches": (["+trainer.limit_val_batches=0"], lambda job, _: "loss/validation" not in metrics(job)),
    "limit_train_batches": (
        ["+trainer.limit_train_batches=7", "+trainer.max_epochs=3", "module.warmup_steps=0"],
        lambda job, _: (
            job.trainer.global_step == 21 and job.trainer.lr_scheduler_configs[0].scheduler.get_last_lr() == [0]
        ),
    ),
    "check_val_every_n_epoch": (
        ["+trainer.check_val_every_n_epoch=2"],
        lambda job, _: logged(folder_of(job), "score_error") == [60],
    ),
    "val_check_interval": (
        ["+trainer.val_check_interval=50", "+trainer.check_val_every_n_epoch=null"],
        lambda job, _: logged(folder_of(job), "score_error") == [50],
    ),
    "log_every_n_steps": (
        ["trainer.log_every_n_steps=5"],
        lambda job, _: logged(folder_of(job), "loss/train") == [*range(4, 60, 5)],
    ),
    "log_every_n_steps=0": (["trainer.log_every_n_steps=0"], lambda job, _: losses(job) == []),
    "enable_progress_bar": (
        ["trainer.enable_progress_bar=false"],
        lambda job, _: job.trainer.progress_bar_callback is None,
    ),
    "detect_anomaly": (["+trainer.detect_anomaly=true"], lambda _, notes: notes.anomalies),
    "deterministic": (["+trainer.deterministic=true"], lambda _, notes: notes.deterministic),
    "profiler": (
        ["+trainer.profiler=simple"],
        lambda job, _: len(job.trainer.profiler.recorded_durations["run_training_batch"]) == 60,
    ),
    "num_sanity_val_steps": (["+trainer.num_sanity_val_steps=1"], lambda _, notes: notes.sanity_checks == 1),
    "StochasticWeightAveraging": (
        [
            f"+callbacks.swa._target_={LIGHTNINGS}.StochasticWeightAveraging",
            *("+callbacks.swa.swa_lrs=0.001", "+trainer.max_epochs=3", "trainer.max_steps=-1"),
        ],
        lambda job, _: job.trainer.lr_scheduler_configs[0].scheduler.__class__.__name__ == "SWALR",
    ),
    "EMAWeightAveraging": (
        [f"+callbacks.ema._target_={LIGHTNINGS}.EMAWeightAveraging", "+callbacks.ema.decay=1.0"],
        lambda job, notes: notes.way(job.module) < 1e-3,  # the average of the first step's weights alone
    ),
    "EarlyStopping": (
        [
            *(f"+callbacks.stop._target_={LIGHTNINGS}.EarlyStopping", "+callbacks.stop.monitor=score_error"),
            *("+callbacks.stop.patience=1", "+callbacks.stop.min_delta=1e9", ENDLESS),
        ],
        lambda job, _: job.trainer.global_step == 60,
    ),
    "Timer": (
        [f"+callbacks.timer._target_={LIGHTNINGS}.Timer", "+callbacks.timer.duration={seconds:1}", ENDLESS],
        lambda job, _: 0 < job.trainer.global_step < 1e7,
    ),
    "RichProgressBar": (
        [f"+callbacks.rich._target_={LIGHTNINGS}.RichProgressBar"],
        lambda job, _: type(job.trainer.progress_bar_callback).__name__ == "RichProgressBar",
    ),
    "GradientAccumulationScheduler": (
        [
            f"+callbacks.schedule._target_={LIGHTNINGS}.GradientAccumulationScheduler",
            "+callbacks.schedule.scheduling={0:4,1:1}",
        ],
        lambda job, _: taken(job) == 4 * 30 + 30 and max(losses(job)) < 4 * min(losses(job)),
    ),
    "ModelCheckpoint": (
        [
            f"+callbacks.mine._target_={LIGHTNINGS}.ModelCheckpoint",
            *("+callbacks.mine.dirpath=${paths.folder}/mine", "+callbacks.mine.every_n_train_steps=20"),
        ],
        lambda job, _: [path.stem[-7:] for path in (folder_of(job) / "mine").iterdir()] == ["step=60"],
    ),
}
ELSEWHERE = {"LambdaCallback", "ThroughputMonitor", "DeviceStatsMonitor"}
"""Rows of the page that tests/test_loops.py is about."""


def folder_of(job):
    return Path(job.record.config["paths"]["folder"])


def taken(job):
    return job.trainer.fit_loop.total_batch_idx + 1


def metrics(job):
    return (folder_of(job) / "metrics.csv").read_text()


def losses(job):
    with open(folder_of(job) / "metrics.csv", newline="") as file:
        return [float(row["loss/train"]) for row in csv.DictReader(file) if row.get("loss/train")]


def test_the_page_has_a_row_for_each_flag_and_each_row_is_tested():
    rows = {row.partition("=")[0] for row in re.findall(r"^\| `([^`]+)`", PAGE, flags=re.MULTILINE)}
    tested = {name.partition("=")[0] for name in WORKS} | {key for key, _, _ in REFUSED} | ELSEWHERE
    assert rows == tested


@pytest.fixture
def as_torch_was():
    yield
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)


@pytest.mark.usefixtures("as_torch_was")
@pytest.mark.filterwarnings(
    "ignore:.*validation_step|.*smaller than the logging|.*could not find the monitored|.*Anomaly Detection",
    "ignore:.*SWA is currently only|.*You have turned on `Trainer|.*val_dataloader|.*swa_lrs|.*overwriting",
    "ignore:.*Detected call of `lr_scheduler",
)
@pytest.mark.parametrize(("overrides", "holds"), WORKS.values(), ids=WORKS)
def test_a_flag_of_lightnings_finishes_a_run_and_means_what_it_does(overrides, holds, configure, tmp_path):
    notes = Notes()
    job = lifecycle.build(configure(*LEAN, *overrides), overrides=overrides, callbacks=[notes])
    lifecycle.fit(job)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["steps"] == job.trainer.global_step > 0
    assert summary["metrics"]["score_error"] > 0
    assert all(bool(p.isfinite().all()) for p in job.module.parameters())
    assert holds(job, notes)


@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
def test_what_the_flags_mean(configure, tmp_path):
    """Steps are optimiser steps; shares and cadences are Lightning's."""
    folder = tmp_path / "run"
    assert fit(configure, "+trainer.max_epochs=1").trainer.global_step == 30
    assert logged(folder, "score_error") == [30]
    assert fit(configure, "+trainer.val_check_interval=10", folder="b").trainer.global_step == 60
    assert logged(tmp_path / "b", "score_error") == [10, 20, 30, 40, 50, 60]
    fit(configure, "+trainer.check_val_every_n_epoch=2", folder="c")
    assert logged(tmp_path / "c", "score_error") == [60]
    job = fit(configure, "+trainer.fast_dev_run=true", folder="d")
    assert job.trainer.global_step == 1
    assert not (tmp_path / "d/metrics.csv").exists()
    fit(configure, "trainer.log_every_n_steps=5", folder="e")
    assert logged(tmp_path / "e", "loss/train") == [*range(4, 60, 5)]


def test_accumulation_takes_the_streams_next_batches_and_counts_optimiser_steps(configure, tmp_path):
    """Twice half the batch is the whole: of one level a row the rows of two batches are those of the stream."""
    seen = []

    class Watching(StreamingDataModule):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            if self.trainer.training:
                seen.append(batch.x_noisy[0, 0, 0].item())
            return batch

    job = lifecycle.build(configure(*LEAN, "+trainer.accumulate_grad_batches=2"), overrides=[])
    job.data.__class__ = Watching
    lifecycle.fit(job)
    assert job.trainer.global_step == 60
    assert len(seen) == 120
    assert seen == [batch.x_noisy[0, 0, 0].item() for batch in job.data.train_dataloader().stream.batches(0, 120)]
    assert job.trainer.lr_scheduler_configs[0].scheduler.last_epoch == 60
    assert logged(tmp_path / "run", "score_error") == [30, 60]
    assert {int(state["step"]) for state in job.trainer.optimizers[0].state_dict()["state"].values()} == {60}


@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
def test_overfitting_repeats_the_first_batches(configure):
    seen = []

    class Watching(NCSN):
        def on_train_batch_start(self, batch, batch_idx):
            seen.append(batch.x_noisy[0, 0, 0].item())

    job = lifecycle.build(configure(*LEAN, "+trainer.overfit_batches=3", "trainer.max_steps=9"), overrides=[])
    job.module.__class__ = Watching
    lifecycle.fit(job)
    assert seen == seen[:3] * 3
    assert len(set(seen)) == 3


REFUSED = [
    ("precision", "64-true", "not tried here; use 32-true or bf16-mixed"),
    ("precision", "16-mixed", "not tried here; use 32-true or bf16-mixed"),
    ("barebones", "true", "not taken; it takes away what a run is for"),
    ("enable_checkpointing", "false", "not taken; leave out ~callbacks.best"),
    ("logger", "false", "not taken; choose logger="),
    ("default_root_dir", "x", "not taken; a run lies in hydra.run.dir"),
    ("inference_mode", "true", "not taken; a score that is an energy"),
    ("val_check_interval", "0.25", "a stream has no end to take a share of; give a number of batches"),
    ("limit_train_batches", "0.5", "a stream has no end"),
    ("val_check_interval", "31", "an epoch has 30 batches, for data.steps_per_epoch=30; raise that, or add"),
    ("overfit_batches", "0.1", "a stream has no end"),
]


@pytest.mark.parametrize(("key", "value", "words"), REFUSED)
def test_a_flag_without_a_meaning_here_is_refused_in_one_line(key, value, words, configure, tmp_path):
    with pytest.raises(Refusal) as refusal:
        lifecycle.build(configure(*LEAN, f"++trainer.{key}={value}"), overrides=[])
    (line,) = str(refusal.value).splitlines()
    assert line.lower().startswith(f"trainer.{key}={value}: ".lower())
    assert words in line
    assert not (tmp_path / "run").exists()


PARTS = [
    *(f"~callbacks.{name}" for name in ("best", "last", "score_error", "score_split", "figures", "guard")),
    *("~callbacks.learning_rate", "~callbacks", "~logger.csv", "~logger"),
    *(f"~evaluation.samples.metrics.{name}" for name in ("energy_distance", "sliced_wasserstein2", "density_tv")),
]


@pytest.mark.filterwarnings("ignore:.*Checkpoint directory", "ignore:.*enable_checkpointing", "ignore:.*no logger")
@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_left_out_alone(part, configure, tmp_path, caplog):
    few = [override for override in LEAN if override != "~callbacks.figures"]
    with caplog.at_level(logging.INFO):
        config = configure(*few, *([] if part == "~callbacks" else [part]))
        if part == "~callbacks":
            config["callbacks"] = None
        lifecycle.fit(lifecycle.build(config, overrides=[]))
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "finished"
    if part == "~callbacks.score_error":
        assert caplog.text.count("the callback score_error is left out") == 2
        assert not (tmp_path / "run/checkpoints/best.ckpt").exists()
        assert (tmp_path / "run/figures/samples.png").exists()


OWN = """
import lightning as L
import torch
from ncsn_lightning import Batch
class Plain(L.LightningModule):
    def __init__(self, *, optimizer, width: int = 16):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.SiLU(), torch.nn.Linear(width, 2))
        self.optimizer = optimizer
    def score(self, x, sigma):
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[:-1]).unsqueeze(-1)
        return self.net(torch.cat([x, sigma.log()], dim=-1)) / sigma
    def training_step(self, batch: Batch, batch_idx):
        error = self.score(batch.x_noisy, batch.sigma) - batch.target
        loss = (batch.sigma.unsqueeze(-1).square() * error.square()).mean()
        self.log("loss/train", loss)
        return loss
    def configure_optimizers(self):
        return self.optimizer(self.parameters())
class Scoreless(L.LightningModule):
    def training_step(self, batch, batch_idx):
        return None
class Greedy(Plain):
    def train_dataloader(self):
        return [1]
class Everything(Plain):
    def __init__(self, **arguments):
        super().__init__(optimizer=arguments["optimizer"])
        self.arguments = sorted(arguments)
class Data(L.LightningDataModule):
    pass
class Validating(Plain):
    def validation_step(self, batch, batch_idx):
        self.log("loss/validation", batch.x_noisy.mean())
"""


@pytest.fixture
def own(importable):
    (importable / "own.py").write_text(OWN)
    return importable


@pytest.mark.filterwarnings("ignore:.*validation_step", "ignore:.*could not find the monitored key")
@pytest.mark.parametrize("name", ["Plain", "Validating"])
@pytest.mark.parametrize("loop", ["fast", "standard"])
def test_a_module_of_ones_own_trains_on_the_stream_and_is_read_again(loop, name, own, configure, caplog):
    few = [override for override in LEAN if override != "~callbacks.figures"]
    overrides = [*few, f"module._target_=own.{name}", "+module.width=8", f"loop={loop}"]
    with caplog.at_level(logging.INFO):
        job = lifecycle.build(configure(*overrides), overrides=overrides)
        lifecycle.fit(job)
    dropped = "score, weighting, ema_decay, warmup_steps, decay, total_steps"
    assert f"left out, for the constructor of own.{name} does not name them: {dropped}" in caplog.text
    assert f"{loop} loop" in caplog.text
    summary = json.loads((own / "run/summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["metrics"]["score_error"] > 0
    drawn = {path.stem for path in (own / "run/figures").iterdir()}
    assert drawn == {"samples", "filmstrip", "annealing", "score_field", "score_error", "loss_levels", "score_split"}
    with pytest.raises(ValueError, match="trust=own if you trust"):
        load_run(own / "run")
    if name == "Validating":
        run = load_run(own / "run", trust=("own",))
        x = torch.randn(5, 2)
        assert torch.equal(run.score(x, 0.1), job.module.score(x, 0.1).detach())


def test_the_loops_train_a_module_of_ones_own_alike(own, configure):
    ends = [
        fit(configure, "module._target_=own.Validating", f"loop={loop}", folder=loop).module.state_dict()
        for loop in ("fast", "standard")
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["module._target_=own.Scoreless"], "module._target_=own.Scoreless: it has no property score"),
        (["module._target_=own.Greedy"], "its own train_dataloader would give way to StreamingDataModule"),
        (["module._target_=own.Plain", "module.ema_decay=0.5"], "module.ema_decay=0.5: no such argument"),
        (["module._target_=own.Plain", "compile=true", "optimizer=sgd"], "compile=true"),
        (["data._target_=own.Data", "compile=true"], "compile=true: a compiled step takes the stream's batches alone"),
        (
            ["module._target_=own.Plian"],
            "module._target_=own.Plian: module 'own' has no attribute 'Plian'; did you mean Plain?",
        ),
        (
            ["module._target_=nowhere.Mine"],
            "module._target_=nowhere.Mine: No module named 'nowhere'; give module.Class",
        ),
    ],
)
def test_a_module_that_cannot_serve_is_refused_in_one_line(overrides, words, own, configure):
    with pytest.raises(Refusal) as refusal:
        lifecycle.build(configure(*LEAN, *overrides), overrides=overrides)
    (line,) = str(refusal.value).splitlines()
    assert words in line


def test_a_module_that_takes_everything_gets_everything(own, configure):
    job = lifecycle.build(configure(*LEAN, "module._target_=own.Everything"), overrides=[])
    assert job.module.arguments == [
        *("decay", "ema_decay", "optimizer", "score", "total_steps", "warmup_steps", "weighting"),
    ]


def test_parts_made_with_the_other_lightning_are_refused_by_its_name(importable, configure):
    (importable / "elder.py").write_text(
        "import pytorch_lightning as pl\nclass Mine(pl.Callback): ...\nclass Module(pl.LightningModule): ...\n"
    )
    for override in ("+callbacks.mine._target_=elder.Mine", "module._target_=elder.Module"):
        with pytest.raises(Refusal, match="import lightning in place of pytorch_lightning"):
            lifecycle.build(configure(*LEAN, override), overrides=[])


def test_defaults_in_python_are_those_of_the_configuration(configure):
    from ncsn_lightning import Checkerboard, Geometric, LogUniform, Raw, SigmaPower
    from ncsn_lightning.config.plain import composed

    config = composed(folder="nowhere")
    target = Checkerboard()
    levels = LogUniform(schedule=Geometric(sigma_min=0.01, sigma_max=1.0), groups=64)
    data = StreamingDataModule(distribution=target, levels=levels)
    for key in ("batch_size", "steps_per_epoch", "validation_size", "train_size"):
        assert getattr(data, key) == config["data"][key]
    network = lifecycle.Builder(composed("experiment=primer", folder="nowhere")).build("network")
    module = NCSN(score=Raw(network=network))
    for key in ("warmup_steps", "decay", "total_steps"):
        assert getattr(module, key) == config["module"][key]
    assert module.average.decay == config["module"]["ema_decay"]
    assert isinstance(module.weighting, SigmaPower)
    assert float(module.weighting.power) == config["weighting"]["power"]
    given = {key: value for key, value in config["optimizer"].items() if not key.startswith("_")}
    optimizer = module.optimizer([{"params": [torch.zeros(1)]}])
    assert {key: list(v) if isinstance(v := optimizer.defaults[key], tuple) else v for key in given} == given


def test_a_checkpoint_of_plain_python_says_what_it_lacks(configure, tmp_path):
    job = fit(configure)
    path = tmp_path / "run/checkpoints/last.ckpt"
    again = NCSN.load_from_checkpoint(path, score=job.builder.build("score"))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), job.module.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"last\.ckpt: score: Missing required .*; give .*score=…\), or use load_run"):
        NCSN.load_from_checkpoint(path)
    with pytest.raises(ValueError, match=r"last\.ckpt: ema: Unexpected keyword argument; give what"):
        NCSN.load_from_checkpoint(path, score=job.builder.build("score"), ema=1)
    other = type(score := job.builder.build("score"))(network=score.network, sigma_data=1.0)
    other.network.last = torch.nn.Linear(5, 2)
    with pytest.raises(ValueError, match=r"last\.ckpt: size mismatch for .*; give what"):
        NCSN.load_from_checkpoint(path, score=other)
    bare = {key: value for key, value in torch.load(path, weights_only=True).items() if key not in ("config", "files")}
    torch.save(bare, tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="holds weights and no configuration"):
        load_run(tmp_path / "bare.ckpt")
