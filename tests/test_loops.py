"""Two loops, one set of numbers: which one runs, and that nobody can tell from what it leaves."""

import csv
import logging

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks as theirs
from lightning.pytorch.loops.optimization.automatic import Closure

from ncsn_lightning import NCSN, BlockCallback, FastLoop
from ncsn_lightning.config.plain import Refusal
from ncsn_lightning.runs import lifecycle
from ncsn_lightning.training.checkpoints import Checkpoint, latest_checkpoint, read_checkpoint
from ncsn_lightning.training.loops import asking

LEAN = ["~callbacks.figures", "data.steps_per_epoch=30", "trainer.log_every_n_steps=10", "trainer.max_steps=70"]


def fit(configure, *overrides, folder="run", callbacks=()):
    job = lifecycle.build(configure(*LEAN, *overrides, folder=folder), overrides=[], callbacks=callbacks)
    lifecycle.fit(job)
    return job


def plain(value, path=""):
    """Every number and tensor of a checkpoint by its place, but for the clocks."""
    if isinstance(value, dict):
        items = {f"{path}/{key}": item for key, item in value.items() if key not in ("wall_time", "training_time")}
    elif isinstance(value, list | tuple):
        items = {f"{path}/{index}": item for index, item in enumerate(value)}
    else:
        return {path: value}
    return {place: leaf for key, item in items.items() for place, leaf in plain(item, key).items()}


PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "losses", "global_step")


def assert_same_checkpoint(*paths, parts=PARTS):
    """The same numbers; those of a ModelCheckpoint are names of files."""
    ends = []
    for path in paths:
        end = torch.load(path, weights_only=True)
        end["callbacks"] = {n: state for n, state in end["callbacks"].items() if not n.startswith("ModelCheckpoint")}
        ends.append(plain({part: end[part] for part in parts}))
    first, second = ends
    assert first.keys() == second.keys()
    tensors = {name for name, value in first.items() if isinstance(value, torch.Tensor)}
    assert [name for name in tensors if not torch.equal(first[name], second[name])] == []
    assert [name for name in first.keys() - tensors if first[name] != second[name]] == []


def logged(folder):
    with open(folder / "metrics.csv", newline="") as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [{key: value for key, value in row.items() if key != "steps_per_second"} for row in rows]


RECIPES = {
    "default": ["experiment=default"],
    "primer": ["experiment=primer", "module.ema_decay=0.9"],
    "learned": ["weighting=learned", "optimizer=adamw"],
    "sgd": ["optimizer=sgd", "weighting=learned"],
    "torch's Adam": ["optimizer._target_=torch.optim.Adam", "+callbacks.last.every_n_train_steps=7"],
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_loops_leave_the_same_bits(recipe, configure, tmp_path):
    """Weights, averages, optimiser and scheduler states, counters, and all that was logged, with its steps."""
    for loop in ("fast", "standard"):
        fit(configure, *recipe, f"loop={loop}", folder=loop)
    for name in ("last", "best"):
        assert_same_checkpoint(*(tmp_path / loop / f"checkpoints/{name}.ckpt" for loop in ("fast", "standard")))
    fast, standard = (logged(tmp_path / loop) for loop in ("fast", "standard"))
    assert fast == standard
    assert [int(row["step"]) for row in fast if "loss/train" in row] == [9, 19, 29, 39, 49, 59, 69]


@pytest.mark.parametrize("loops", [("fast", "standard"), ("standard", "fast")])
def test_a_run_is_resumed_in_the_other_loop(loops, configure, tmp_path):
    class Stop(BlockCallback):
        every_n_steps = 45

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 45:
                trainer.save_checkpoint(tmp_path / "b/checkpoints/stopped.ckpt")
                raise InterruptedError

    fit(configure, "weighting=learned", folder="a")
    with pytest.raises(InterruptedError):
        fit(configure, "weighting=learned", f"loop={loops[0]}", folder="b", callbacks=[Stop()])
    job = lifecycle.build(configure(*LEAN, "weighting=learned", f"loop={loops[1]}", folder="b"), overrides=[])
    with pytest.warns(UserWarning, match="Checkpoint directory .* exists"):
        lifecycle.fit(job, checkpoint=latest_checkpoint(tmp_path / "b")[0])
    ends = [tmp_path / name / "checkpoints/last.ckpt" for name in "ab"]
    assert_same_checkpoint(*ends, parts=("state_dict", "optimizer_states", "lr_schedulers", "global_step"))
    assert logged(tmp_path / "a") == logged(tmp_path / "b")


HOOKS = [
    *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
    *("on_train_batch_start", "on_train_batch_end"),
]

NOT_ASKING = {
    "nothing": [],
    "ModelCheckpoint": [theirs.ModelCheckpoint(every_n_train_steps=7)],
    "Timer": [theirs.Timer(duration={"hours": 1})],
    "EarlyStopping": [theirs.EarlyStopping("score_error", patience=99)],
    "ThroughputMonitor": [theirs.ThroughputMonitor(batch_size_fn=lambda batch: 64)],
    "DeviceStatsMonitor": [theirs.DeviceStatsMonitor(cpu_stats=False)],
    "TQDMProgressBar": [theirs.TQDMProgressBar()],
    "RichProgressBar": [theirs.RichProgressBar()],
    "BlockCallback": [BlockCallback()],
}


@pytest.mark.filterwarnings("ignore:.*flops_per_batch", "ignore:.*exists and is not empty")
@pytest.mark.parametrize("callbacks", NOT_ASKING.values(), ids=NOT_ASKING)
def test_what_does_not_ask_keeps_the_fast_loop(callbacks, configure, caplog, tmp_path):
    for callback in callbacks:
        if isinstance(callback, theirs.ModelCheckpoint):
            callback.dirpath = str(tmp_path)
    with caplog.at_level(logging.INFO):
        fit(configure, callbacks=callbacks)
    assert "fast loop, up to 50 optimiser steps a call" in caplog.text
    assert "standard loop" not in caplog.text


def test_an_end_in_time_keeps_the_fast_loop(configure, caplog):
    with caplog.at_level(logging.INFO):
        fit(configure, "+trainer.max_time={hours:1}")
    assert "fast loop, up to 50 optimiser steps a call" in caplog.text


@pytest.mark.parametrize("kind", [theirs.TQDMProgressBar, theirs.RichProgressBar])
def test_lightnings_bars_stand_at_the_step_that_was_taken(kind, configure, monkeypatch):
    """They count the calls of their hook, a batch each, at every refresh."""
    seen, hook = [], kind.on_train_batch_end

    def spy(self, trainer, module, outputs, batch, batch_idx):
        seen.append(batch_idx)
        hook(self, trainer, module, outputs, batch, batch_idx)

    monkeypatch.setattr(kind, "on_train_batch_end", spy)
    fit(configure, callbacks=[kind(refresh_rate=7)])
    assert seen == [step % 30 for step in range(70)]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_of_a_callback_sees_every_step(hook, configure, caplog):
    calls = []
    watcher = type("Watcher", (L.Callback,), {hook: lambda self, *_, **__: calls.append(1)})()
    with caplog.at_level(logging.INFO):
        fit(configure, callbacks=[watcher])
    assert len(calls) == 70
    assert f"standard loop, one optimiser step a call, for Watcher.{hook};" in caplog.text


def test_a_hook_that_cannot_be_inspected_counts_as_overridden(configure):
    calls = []
    fit(configure, callbacks=[theirs.LambdaCallback(on_train_batch_end=lambda *_: calls.append(1))])
    assert len(calls) == 70
    job = lifecycle.build(configure(*LEAN), overrides=[], callbacks=[theirs.LambdaCallback(on_train_batch_end=print)])
    assert [*asking(job.trainer, job.module)] == ["LambdaCallback.on_train_batch_end"]


ASKING = {
    "gradient_clip_val": ["+trainer.gradient_clip_val=1.0"],
    "accumulate_grad_batches": ["+trainer.accumulate_grad_batches=2"],
    "profiler": ["+trainer.profiler=simple"],
    "EMAWeightAveraging.on_train_batch_end": [
        "+callbacks.mine._target_=lightning.pytorch.callbacks.EMAWeightAveraging"
    ],
}


@pytest.mark.parametrize(("words", "overrides"), ASKING.items(), ids=ASKING)
def test_forcing_the_fast_loop_or_compiling_beside_what_asks_is_refused(words, overrides, configure):
    for forced, said in (("loop=fast", "loop=fast: the fast loop would leave out"), ("compile=true", "compile=true: ")):
        with pytest.raises(Refusal) as refusal:
            lifecycle.build(configure(*LEAN, *overrides, forced), overrides=[])
        (line,) = str(refusal.value).splitlines()
        assert line.startswith(said)
        assert words in line


def test_compiling_in_the_standard_loop_is_refused(configure):
    with pytest.raises(Refusal, match=r"^compile=true: only the fast loop compiles, and loop=standard asks"):
        lifecycle.build(configure(*LEAN, "compile=true", "loop=standard"), overrides=[])


@pytest.mark.parametrize(
    "hook",
    [
        *("backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step"),
        *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer", *HOOKS),
    ],
)
def test_a_hook_of_the_module_asks_for_every_step(hook, configure):
    job = lifecycle.build(configure(*LEAN), overrides=[])
    base = getattr(NCSN, hook)
    module = type("Mine", (NCSN,), {hook: lambda self, *args, **named: base(self, *args, **named)})
    job.module.__class__ = module
    assert [*asking(job.trainer, job.module)] == [f"Mine.{hook}"]


@pytest.mark.parametrize("loop", ["fast", "standard"])
def test_inside_a_training_step_all_means_the_same(loop, configure, importable, tmp_path):
    """`batch_idx`, `self.global_step` and `self.log`, of a step and of an epoch."""
    (importable / "watching.py").write_text(
        "from ncsn_lightning import NCSN\n"
        "class Watching(NCSN):\n"
        "    seen = []\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        self.seen.append((batch_idx, self.global_step, self.trainer.global_step))\n"
        "        loss = super().training_step(batch, batch_idx)\n"
        "        self.log('a', loss)\n"
        "        self.log('b', loss, on_step=False, on_epoch=True)\n"
        "        if batch_idx % 3 == 0:\n"
        "            self.log('c', float(batch_idx))\n"
        "        return {'loss': loss, 'more': 1}\n"
    )
    job = fit(configure, "module._target_=watching.Watching", f"loop={loop}", folder=loop)
    steps = [step % 30 for step in range(70)]
    assert job.module.seen == [(index, step, step) for step, index in enumerate(steps)]
    rows = logged(tmp_path / loop)
    last = [float(row["a"]) for row in rows if "a" in row]
    assert len(last) == 7
    assert [float(row["c"]) for row in rows if "c" in row] == [9, 18, 27, 9, 18, 27, 9]
    means = [float(row["b"]) for row in rows if "b" in row]
    train = [float(row["loss/train"]) for row in rows if "loss/train" in row]
    assert means == pytest.approx([sum(train[:3]) / 3, sum(train[3:6]) / 3, train[6]], rel=1e-5)


def test_a_stop_inside_a_block_ends_it(configure, importable):
    (importable / "stopping_module.py").write_text(
        "from ncsn_lightning import NCSN\n"
        "class Stopping(NCSN):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        self.trainer.should_stop = self.global_step == 16\n"
        "        return super().training_step(batch, batch_idx)\n"
    )
    for loop in ("fast", "standard"):
        job = fit(configure, "module._target_=stopping_module.Stopping", f"loop={loop}", folder=loop)
        assert job.trainer.global_step == 17


def test_the_throughput_is_of_all_steps(configure):
    monitors = {loop: theirs.ThroughputMonitor(batch_size_fn=lambda batch: 64) for loop in ("fast", "standard")}
    for loop, monitor in monitors.items():
        with pytest.warns(UserWarning, match="flops_per_batch"):
            fit(configure, f"loop={loop}", folder=loop, callbacks=[monitor])
    counts = [dict(monitor._batches) for monitor in monitors.values()]
    assert counts[0] == counts[1]
    assert 70 in counts[0].values()


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
def test_a_fast_loop_serves_a_second_training_as_it_is_asked(configure, caplog):
    job = lifecycle.build(configure(*LEAN, "trainer.max_steps=20"), overrides=[])
    lifecycle.fit(job)
    fast = next(callback for callback in job.trainer.callbacks if isinstance(callback, FastLoop))
    fast.loop = "standard"
    job.trainer.fit_loop.epoch_loop.max_steps = 40
    with caplog.at_level(logging.INFO):
        job.trainer.fit(job.module, datamodule=job.data)
    assert "standard loop" in caplog.text
    assert job.trainer.global_step == 40


def test_a_loss_of_several_numbers_is_refused(configure, importable):
    (importable / "many.py").write_text(
        "from ncsn_lightning import NCSN\n"
        "class Many(NCSN):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return self.loss(self.model, batch)\n"
    )
    with pytest.raises(
        ValueError, match=r"Many\.training_step returned a tensor of shape \(64, 1\): return one number"
    ):
        fit(configure, "module._target_=many.Many")


@pytest.mark.parametrize("loop", ["fast", "standard"])
def test_a_dict_without_a_loss_ends_the_run(loop, configure, importable):
    (importable / "misspelt.py").write_text(
        "from ncsn_lightning import NCSN\n"
        "class Misspelt(NCSN):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return {'los': super().training_step(batch, batch_idx)}\n"
    )
    with pytest.raises(Exception, match=r"'loss'"):
        fit(configure, "module._target_=misspelt.Misspelt", f"loop={loop}")


SCHEDULED = """
import torch
from ncsn_lightning import NCSN
class Scheduled(NCSN):
    rates = []
    def training_step(self, batch, batch_idx):
        self.rates.append(self.lr_schedulers().get_last_lr())
        return super().training_step(batch, batch_idx)
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 3}}
"""


def test_a_scheduler_of_ones_own_steps_and_says_the_same_in_both_loops(configure, importable, tmp_path):
    (importable / "scheduled.py").write_text(SCHEDULED)
    rates = []
    for loop in ("fast", "standard"):
        job = fit(configure, "module._target_=scheduled.Scheduled", f"loop={loop}", folder=loop)
        rates.append([*job.module.rates])
        job.module.rates.clear()
    assert rates[0] == rates[1]
    assert len({rate for (rate,) in rates[0]}) > 20
    assert_same_checkpoint(*(tmp_path / loop / "checkpoints/last.ckpt" for loop in ("fast", "standard")))


@pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists", "ignore:.*was called without a model|.*no last checkpoint"
)
@pytest.mark.parametrize("loop", ["fast", "standard"])
def test_a_run_that_an_error_ended_goes_on_with_the_batch_that_it_did_not_take(loop, configure, importable, tmp_path):
    (importable / "failing.py").write_text(
        "from ncsn_lightning import NCSN\n"
        "class Failing(NCSN):\n"
        "    at = 37\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        if self.global_step == self.at:\n"
        "            raise InterruptedError\n"
        "        return super().training_step(batch, batch_idx)\n"
    )
    import failing

    undisturbed = fit(configure, "loop=standard", folder="whole")
    saves = theirs.OnExceptionCheckpoint(tmp_path, "error")
    common = [*LEAN, "module._target_=failing.Failing", f"loop={loop}"]
    with pytest.raises(InterruptedError):
        lifecycle.fit(lifecycle.build(configure(*common, folder="cut"), overrides=[], callbacks=[saves]))
    failing.Failing.at = -1
    job = lifecycle.build(configure(*common, folder="cut"), overrides=[])
    checkpoint = Checkpoint(tmp_path / "error.ckpt", read_checkpoint(tmp_path / "error.ckpt"))
    lifecycle.fit(job, checkpoint=checkpoint)
    ends, whole = job.module.state_dict(), undisturbed.module.state_dict()
    assert [name for name in whole if not torch.equal(whole[name], ends[name])] == []


HOOKED = """
import torch
from ncsn_lightning import NCSN
class Hooked(NCSN):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)
        optimizer.register_step_pre_hook(lambda *_: None)
        return optimizer
class Closing(torch.optim.SGD):
    def step(self, closure=None):
        loss = closure()
        super().step()
        return loss
"""


@pytest.mark.parametrize(
    ("override", "asks"),
    [
        ("module._target_=hooked.Hooked", "a hook of the optimiser's steps"),
        ("optimizer._target_=hooked.Closing", "Closing, whose step may call for the loss itself"),
        ("optimizer._target_=torch.optim.LBFGS", "LBFGS, whose step may call for the loss itself"),
    ],
)
def test_an_optimiser_whose_step_is_watched_or_its_own_asks_for_every_step(
    override, asks, configure, importable, caplog
):
    (importable / "hooked.py").write_text(HOOKED)
    rest = ["~optimizer.betas", "~optimizer.fused", "~optimizer.weight_decay"] if "optim" in override else []
    with caplog.at_level(logging.INFO):
        fit(configure, "trainer.max_steps=3", override, *rest)
    assert f"standard loop, one optimiser step a call, for {asks};" in caplog.text


@pytest.mark.parametrize("loop", ["fast", "standard"])
def test_steps_that_return_nothing_are_skipped_as_lightning_does(loop, configure, importable):
    (importable / "odd.py").write_text(
        "from ncsn_lightning import NCSN\n"
        "class Odd(NCSN):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return super().training_step(batch, batch_idx) if batch_idx % 2 else None\n"
    )
    Closure.warning_cache.clear()  # each is given once a process
    with pytest.warns(UserWarning, match="returned `?None"):
        job = fit(configure, "module._target_=odd.Odd", f"loop={loop}")
    assert job.trainer.global_step == 70
    assert {int(state["step"]) for state in job.trainer.optimizers[0].state_dict()["state"].values()} == {35}


@pytest.mark.filterwarnings("ignore:.*call of `lr_scheduler.step", "ignore:Checkpoint directory .* exists")
def test_a_training_that_makes_no_progress_ends(configure, importable):
    (importable / "idle.py").write_text(
        "from ncsn_lightning import NCSN\n"
        "class Idle(NCSN):\n"
        "    def __init__(self, **arguments):\n"
        "        super().__init__(**arguments)\n"
        "        self.automatic_optimization = False\n"
        "class Skipping(NCSN):\n"
        "    def on_train_batch_start(self, batch, batch_idx):\n"
        "        return -1\n"
    )
    with pytest.raises(RuntimeError, match=r"ended at step 0, where it began: Idle optimises by hand"):
        fit(configure, "module._target_=idle.Idle")
    with pytest.raises(RuntimeError, match=r"look at Skipping\.on_train_batch_start"):
        fit(configure, "module._target_=idle.Skipping", folder="skipping")
