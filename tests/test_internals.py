"""What Lightning, torch and W&B do not promise is still there; each line names what an upgrade took away."""

import inspect
import signal

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks as theirs
from lightning.pytorch.loops.fetchers import _PrefetchDataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector

from ncsn_lightning.training import internals

pytestmark = pytest.mark.filterwarnings("ignore:.*`srun` command is available")


@pytest.fixture
def trainer():
    return L.Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu", devices=1)


def test_the_loops_that_are_repeated_here_are_those_of_lightning(trainer):
    """A step's order of calls, as `BlockOptimization` repeats it, by the names in Lightning's own source."""
    source = inspect.getsource(_TrainingEpochLoop.advance)
    order = [
        *("next(data_fetcher)", "is_last_batch = data_fetcher.done", "convert_input", '"batch_to_device"'),
        *("increment_ready()", "on_batch_start(batch)", '"on_train_batch_start"', "increment_started()"),
        *(
            "automatic_optimization.run(",
            "increment_processed()",
            'update_lr_schedulers("step"',
            '"on_train_batch_end"',
        ),
        *("on_batch_end()", "increment_completed()", "update_train_step_metrics()"),
    ]
    places = [source.index(word) for word in order]
    assert places == sorted(places)
    loop = trainer.fit_loop.epoch_loop
    for name in ("batch_progress", "scheduler_progress", "automatic_optimization", "_batches_that_stepped"):
        assert name in vars(loop), name
    progress = loop.automatic_optimization.optim_progress.optimizer
    assert progress.step.total.completed == progress.zero_grad.total.completed == 0
    assert "_data_fetcher" in vars(trainer.fit_loop)
    assert "_signal_connector" in vars(trainer)
    assert "_callback_metrics" in vars(trainer._logger_connector)
    for name in ("on_batch_start", "on_batch_end", "update_train_step_metrics", "should_update_logs"):
        assert name in dir(_LoggerConnector), name


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated")
def test_the_next_batch_is_the_fetchers_own():
    """With and without the way around the fetcher, one loader and two, with a length and without."""
    from lightning.pytorch.utilities.combined_loader import CombinedLoader

    class Endless:
        def __iter__(self):
            return iter(range(7))

    for loaders in (Endless(), [Endless()], {"a": Endless()}, [Endless(), Endless()], list(range(7))):
        ways = []
        for fetch in (internals._fetch, lambda fetcher: next(fetcher)[0]):
            loader = CombinedLoader(loaders, "max_size_cycle")
            fetcher = _PrefetchDataFetcher()
            fetcher.setup(loader)
            iter(fetcher)
            seen = []
            while not fetcher.done:
                seen.append((fetch(fetcher), fetcher.done, fetcher.fetched))
            ways.append(seen)
        assert ways[0] == ways[1]


def test_a_scheduler_advanced_without_bookkeeping_is_where_its_own_step_leads():
    ends = []
    for advance in (internals._advance, lambda scheduler: scheduler.step()):
        optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 3.0}], lr=1.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        for _ in range(5):
            optimizer.step()
            advance(scheduler)
        scheduler.step()
        ends.append((scheduler.state_dict(), [group["lr"] for group in optimizer.param_groups]))
    assert ends[0] == ends[1]


def test_an_unrecorded_step_is_the_step_with_its_hooks():
    parameter, calls = torch.nn.Parameter(torch.ones(1)), []
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    parameter.grad = torch.ones(1)
    step = internals.unrecorded(optimizer)
    assert step != optimizer.step
    step()
    assert (parameter.item(), calls) == (0.5, ["after"])


def test_a_checkpoint_callback_tells_its_steps():
    assert internals.every_n_train_steps(theirs.ModelCheckpoint(every_n_train_steps=7)) == 7
    assert internals.every_n_train_steps(theirs.ModelCheckpoint()) == 0


def test_signals_are_left_alone(trainer):
    internals.leave_signals_alone(trainer)
    before = signal.getsignal(signal.SIGTERM)
    trainer._signal_connector.register_signal_handlers()
    assert signal.getsignal(signal.SIGTERM) is before
    assert "register_signal_handlers" in vars(internals._SignalConnector)


def test_only_some_strategies_relaunch_the_command():
    options = {"accelerator": "cpu", "devices": 2, "logger": False, "enable_progress_bar": False}
    relaunching = {s: internals.relaunches_the_command(L.Trainer(strategy=s, **options)) for s in ("ddp", "ddp_spawn")}
    assert relaunching == {"ddp": True, "ddp_spawn": False}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_a_graph_is_compiled_with_its_mutations(unchecked):
    def function(x, y):
        x.add_(y)
        return [x.sum()]

    given = [torch.zeros(3), torch.ones(3)]
    run = internals.compile_graph(function, given)
    assert float(run(*given)[0]) == 3.0
    assert given[0].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "reads", ["self.global_step", "batch_idx + 1", "batch_idx % 2 == 0", "int(batch_idx)", "self.trainer.max_steps"]
)
def test_what_changes_from_step_to_step_is_not_traced(reads):
    module = L.LightningModule()
    with internals.traced(module) as (batch_idx, logged):
        module.log("a", torch.ones(1), prog_bar=True)
        with pytest.raises(ValueError, match=r"compile=true: training_step reads (self\.trainer|batch_idx)"):
            eval(reads, {"self": module, "batch_idx": batch_idx})
    assert [(name, options) for name, _, options in logged] == [("a", {"prog_bar": True})]
    assert "log" not in vars(module)


def test_the_writer_keeps_the_file_that_lightnings_own_removes(tmp_path):
    from lightning.pytorch.loggers.csv_logs import ExperimentWriter

    (tmp_path / "metrics.csv").write_text("step,loss\n0,1.0\n")
    internals.KeepingWriter(log_dir=str(tmp_path))
    assert (tmp_path / "metrics.csv").read_text().endswith("0,1.0\n")
    with pytest.warns(UserWarning, match="will be deleted"):
        ExperimentWriter(log_dir=str(tmp_path))
    assert not (tmp_path / "metrics.csv").exists()


def _raise_in_rank(rank):
    raise InterruptedError(f"rank {rank}: stopped")


def test_a_parent_reads_what_a_spawned_rank_raised():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException) as caught:
        torch.multiprocessing.spawn(_raise_in_rank, nprocs=1)
    assert internals.raised_in_rank(caught.value) == ("InterruptedError", "rank 0: stopped")
    assert internals.raised_in_rank(ValueError("name: message")) == ("", "")


def test_a_step_with_hooks_is_said_to_the_scheduler(recwarn):
    """Torch's scheduler warns unless the optimiser's own `step` was called, which a step of ours does not."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    internals.with_hooks(optimizer, lambda _: None)()
    scheduler.step()
    assert not recwarn.list


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adams_state_is_there_before_its_first_step(amsgrad):
    weight = torch.nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    optimizer = torch.optim.Adam([weight], amsgrad=amsgrad)
    step, *moments = internals.adam_state(optimizer, optimizer.param_groups[0])
    optimizer.step()
    assert int(step) == 1
    assert len(moments) == 2 + amsgrad
    assert all((moment > 0).all() for moment in moments)
