"""Everything that this package uses though Lightning, torch or W&B do not promise it; each use with its reason.

An upgrade may take any of it away; `tests/test_internals.py` then says which.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch import callbacks as theirs
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loops.optimization.automatic import Closure, _AutomaticOptimization
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .block_callback import BlockCallback

Step = Callable[[Any, int], Tensor]
"""A whole optimiser step on a batch and its index; returns the loss."""


COUNT_THEIR_CALLS = (theirs.ThroughputMonitor, theirs.TQDMProgressBar, theirs.RichProgressBar)
"""Callbacks of Lightning's that count the calls of `on_train_batch_end`, and do nothing else that takes long."""


class BlockOptimization(_AutomaticOptimization):
    """Lightning's automatic optimisation, but one call takes a block of steps, and counts them as Lightning does.

    Lightning offers no hook for this: its loops are private, so their order of calls is repeated here. The epoch loop
    fetches a block's first batch and ends its last one; `_next_batch` does what lies between two steps of a block.

    Args:
        trainer: the trainer whose epoch loop makes the calls.
        periods: a block ends at every optimiser step that is a multiple of one of these numbers.
        step: takes a whole optimiser step; None for forward, backward and the optimiser's own update.
    """

    def __init__(self, trainer: Any, periods: Sequence[int], step: Step | None = None) -> None:
        super().__init__(trainer)
        self.periods, self.module, self.connector = periods, trainer.lightning_module, trainer._logger_connector
        self.optimizer, strategy, precision = trainer.optimizers[0], trainer.strategy, trainer.precision_plugin
        plain = strategy.model is self.module and type(precision) is Precision  # there is no context to enter
        self.training_step = self.module.training_step if plain else strategy.training_step
        self.update = unrecorded(self.optimizer)
        self.step: Callable[..., Tensor | None] = step or self._step
        self.convert, self.on_cpu = precision.convert_input, strategy.root_device.type == "cpu"
        self.schedulers = [config for config in trainer.lr_scheduler_configs if config.interval == "step"]
        look_at_start = (theirs.LearningRateMonitor, theirs.DeviceStatsMonitor)
        self.at_start = [c for c in trainer.callbacks if isinstance(c, look_at_start)]
        counting = [c for c in trainer.callbacks if isinstance(c, COUNT_THEIR_CALLS)]
        self.counting = [c for c in counting if not isinstance(c, BlockCallback)]

    def run(self, optimizer: torch.optim.Optimizer, batch_idx: int, kwargs: Any) -> dict[str, Tensor]:
        """Take a block of steps from the batch in `kwargs` on; returns the losses of all of them under `loss`."""
        trainer, batch, losses = self.trainer, kwargs["batch"], []
        fetcher: Any = trainer.fit_loop._data_fetcher
        progress, last = self.optim_progress.optimizer, batch_idx + self._steps(batch_idx) - 1
        with _logging_at_the_end(self.module):
            while True:
                progress.step.increment_ready()
                loss = self.step(*(batch, batch_idx)[: len(kwargs)])  # a training_step may take the batch alone
                progress.zero_grad.increment_by(1)
                progress.step.increment_completed()
                if loss is not None:
                    losses.append(loss.detach())
                for callback in self.counting:
                    callback.on_train_batch_end(trainer, self.module, {}, batch, batch_idx)
                if batch_idx == last or trainer.should_stop or fetcher.done:
                    break
                batch_idx += 1
                batch = self._next_batch(fetcher, batch_idx)
        for callback in self.counting:
            _leave_out_next_call(callback)
        return {"loss": torch.stack(losses)} if losses else {}

    def _steps(self, batch_idx: int) -> int:
        """How many steps a block has that begins with a batch; it ends at the next validation or the end at most."""
        trainer, step = self.trainer, self.trainer.global_step
        counts = [trainer.num_training_batches - batch_idx, *(period - step % period for period in self.periods)]
        if trainer.max_steps >= 0:
            counts.append(trainer.max_steps - step)
        if (period := trainer.val_check_batch) and period != math.inf:
            by_batches = trainer.check_val_every_n_epoch is None
            counts.append(period - (trainer.fit_loop.total_batch_idx if by_batches else batch_idx) % period)
        return int(max(1, min(counts)))

    def _step(self, *arguments: Any) -> Tensor | None:
        """Take an optimiser step as Lightning does, but without the hooks, none of which is overridden."""
        loss = one_number(self.module, self.training_step(*arguments))
        self.optimizer.zero_grad()
        if loss is not None:
            loss.backward()
        self.update()
        return loss

    def _next_batch(self, fetcher: Any, batch_idx: int) -> Any:
        """End a step as Lightning's epoch loop ends a batch, and fetch the next one as it does."""
        loop = self.trainer.fit_loop.epoch_loop
        progress = loop.batch_progress
        progress.increment_processed()
        for config in self.schedulers:
            if batch_idx % config.frequency == 0:
                loop.scheduler_progress.increment_ready()
                _advance(config.scheduler)
                loop.scheduler_progress.increment_completed()
        progress.increment_completed()
        loop._batches_that_stepped += 1
        batch = self.convert(_fetch(fetcher))
        progress.is_last_batch = fetcher.done
        if not self.on_cpu:
            batch = self.trainer.strategy.batch_to_device(batch)
        progress.increment_ready()
        progress.increment_started()
        self.connector.on_batch_start(batch)
        if self.at_start and self.connector.should_update_logs:
            for callback in self.at_start:
                callback.on_train_batch_start(self.trainer, self.module, batch, batch_idx)
        return batch


def _leave_out_next_call(callback: Any) -> None:
    """Have a callback ignore the epoch loop's call at the end of a block, which names the block's first batch."""

    def ignore(*_: Any) -> None:
        del callback.on_train_batch_end

    callback.on_train_batch_end = ignore


def _fetch(fetcher: Any) -> Any:
    """The next batch of a fetcher, taken from its loader directly where it has a single one of unknown length.

    `next(fetcher)` asks a profiler and unpacks a tree for every batch, which costs a thirtieth of a small step.
    """
    loaders = fetcher.combined_loader
    if not fetcher.batches or fetcher.length is not None or loaders.iterables is not loaders.flattened[0]:
        return next(fetcher)[0]
    batch, index, loader = fetcher.batches.pop()
    try:
        fetcher.batches.append((next(loaders._iterator.iterators[0]), index + 1, loader))
        fetcher.fetched += 1
    except StopIteration:
        fetcher.done = True
    return batch


def _advance(scheduler: Any) -> None:
    """Take a scheduler's step, for a `LambdaLR` without torch's bookkeeping."""
    if type(scheduler) is not LambdaLR:
        scheduler.step()
        return
    scheduler.last_epoch += 1
    scheduler._step_count += 1
    set_rates(scheduler)


def set_rates(scheduler: Any) -> None:
    """Give the optimiser of a `LambdaLR` the rates at the step that the scheduler has reached."""
    groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, base, factor in groups:
        group["lr"] = base * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def unrecorded(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """An optimiser's step and the hooks after it, without torch's record of it, which costs 5 % of a small step."""
    step: Any = type(optimizer).step
    own = vars(optimizer).get("step")
    if not getattr(step, "hooked", False) or not (own is None or hasattr(own, "_wrapped_by_lr_sched")):
        return optimizer.step
    return with_hooks(optimizer, step.__wrapped__)


def with_hooks(optimizer: torch.optim.Optimizer, step: Callable[[Any], Any]) -> Callable[[], None]:
    """Make one function of a step and an optimiser's hooks after it, which torch calls in its own `step` alone."""
    hooks = optimizer._optimizer_step_post_hooks

    def call() -> None:
        step(optimizer)
        for hook in hooks.values():
            hook(optimizer, (), {})

    optimizer._opt_called = True  # type: ignore[attr-defined]  # otherwise the scheduler warns that no step was taken
    return call


def is_watched(optimizer: torch.optim.Optimizer) -> bool:
    """Whether there is a hook before an optimiser's steps, or one around the steps of all optimisers."""
    hooks = optimizer._optimizer_step_pre_hooks, _global_optimizer_pre_hooks, _global_optimizer_post_hooks
    return any(hooks)


def adam_state(optimizer: Any, group: dict[str, Any]) -> list[Tensor]:
    """The count of steps and the moments of a group's only parameter, made anew before Adam's first step."""
    gathered: list[list[Tensor]] = [[] for _ in range(6)]
    optimizer._init_group(group, *gathered)
    _, _, first, second, largest, steps = gathered
    return [*steps, *first, *second, *largest]


def one_number(module: L.LightningModule, output: Any) -> Tensor | None:
    """The loss in what a `training_step` returned; None where it skips the step, as in Lightning."""
    name = f"{type(module).__name__}.training_step"
    if output is None:
        Closure.warning_cache.warn(f"{name} returned None: this optimiser step changes nothing")
        return None
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    if loss is None:
        raise ValueError(f"{name} returned a dict without a loss: return one number under the key 'loss'")
    shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise ValueError(f"{name} returned {shape}: return one number, such as the mean of it")


@contextmanager
def _logging_at_the_end(module: L.LightningModule) -> Iterator[None]:
    """Keep the last value of each name that `self.log` gets in a block, and log it when the block ends.

    Lightning, whose `log` takes half a millisecond, would overwrite all earlier values.
    """
    log, kept, before = module.log, {}, module._current_fx_name

    def keep(name: str, value: Any, *arguments: Any, **options: Any) -> None:
        if arguments or options.get("on_epoch") or not isinstance(value, Tensor | float | int):
            log(name, value, *arguments, **options)
        else:
            kept[name] = (value.detach().clone() if isinstance(value, Tensor) else value), options

    module.log, module._current_fx_name = keep, "training_step"  # type: ignore[method-assign]
    try:
        yield
        for name, (value, options) in kept.items():
            log(name, value, **options)
    finally:
        del module.log
        module._current_fx_name = before


def optimize_by(trainer: L.Trainer, blocks: BlockOptimization | None) -> None:
    """Have a trainer take blocks of steps, or Lightning's own single steps for None; its counters keep their values."""
    loop, optimization = trainer.fit_loop.epoch_loop, blocks or _AutomaticOptimization(trainer)
    optimization.optim_progress = loop.automatic_optimization.optim_progress
    loop.automatic_optimization = optimization


@contextmanager
def before_the_batch(trainer: Any) -> Iterator[None]:
    """Count the batch that is about to begin as not fetched yet, so that a checkpoint lies between two batches."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    for counts in (progress.current, progress.total):
        counts.ready -= 1
    try:
        yield
    finally:
        for counts in (progress.current, progress.total):
            counts.ready += 1


def count_steps_logged(trainer: Any) -> None:
    """Correct the count of steps by which Lightning decides when to log; after a resumption it may be one too high."""
    if trainer.lightning_module.automatic_optimization:
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
    trainer._logger_connector._callback_metrics.pop("step", None)  # a validation's, which would name checkpoints


def batches_taken(trainer: Any) -> int:
    """How many batches a run has trained on, resumptions included; one whose step raised an error does not count."""
    taken: int = trainer.fit_loop.epoch_loop.batch_progress.total.processed
    return taken


def every_n_train_steps(checkpoint: theirs.ModelCheckpoint) -> int:
    """The period in steps with which a ModelCheckpoint saves, 0 for none; it is a private attribute."""
    return checkpoint._every_n_train_steps


class SignalsLeftAlone(_SignalConnector):
    """Replaces Lightning's signal handlers, which save, broadcast and requeue wherever a signal finds the program."""

    def register_signal_handlers(self) -> None:
        """Register nothing: `core/signals.py` answers signals."""


def leave_signals_alone(trainer: L.Trainer) -> None:
    """Keep a trainer from answering signals; it has no option for that."""
    trainer._signal_connector = SignalsLeftAlone(trainer)


def relaunches_the_command(trainer: L.Trainer) -> bool:
    """Whether Lightning starts each rank by this program's command line; only the launcher's class says it."""
    return isinstance(getattr(trainer.strategy, "launcher", None), _SubprocessScriptLauncher)


def raised_in_rank(error: BaseException) -> tuple[str, str]:
    """The full name and the message of the exception that ended a spawned rank, from the text that its parent gets."""
    lines = str(error).strip().splitlines() if isinstance(error, ProcessRaisedException) else [""]
    name, _, message = lines[-1].partition(": ")
    return name, message


class KeepingWriter(ExperimentWriter):
    """Lightning's writer of `metrics.csv`, except that it keeps the file which an earlier process left."""

    def _check_log_dir_exists(self) -> None:
        """Remove nothing."""

    def learn_columns(self) -> bool:
        """Add the names of what was logged to the columns; returns whether any of them is new."""
        return bool(self._record_new_keys())


def forget_wandb_service() -> None:
    """Have W&B start another service process: the one inherited from the parent process holds the run's id."""
    os.environ.pop("WANDB_SERVICE", None)


def spawns_ranks(trainer: L.Trainer) -> bool:
    """Whether all ranks are child processes of this one."""
    return isinstance(getattr(trainer.strategy, "launcher", None), _MultiProcessingLauncher)


def compile_graph(function: Callable[..., Any], example: list[Tensor]) -> Any:
    """Compile a function of tensors for tensors like those of `example`.

    It is traced without Dynamo, whose guards and wrappers would cost a tenth of every step, and then given to the
    compiler behind `torch.compile`; neither of the two is public.
    """
    graph = make_fx(lambda *given: function(*given), tracing_mode="fake")(*example)
    on_cpu = all(tensor.device.type == "cpu" for tensor in example)  # where a kernel's call costs as much as its work
    return torch._inductor.compile(graph, [*example], options={"cpp_wrapper": on_cpu})


class _Untraceable:
    """Stands for a value that changes from step to step while one step is traced for all; reading it is an error."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _refuse(self, *_: Any) -> Any:
        raise ValueError(
            f"compile=true: training_step reads {self.name}, which a compiled step cannot; use compile=false"
        )

    __getattr__ = __bool__ = __index__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __floordiv__ = __mod__ = _refuse
    __float__ = __int__ = __hash__ = _refuse


@contextmanager
def traced(module: L.LightningModule) -> Iterator[tuple[Any, list[tuple[str, Any, dict[str, Any]]]]]:
    """Separate a module from its trainer and its loggers while its step is traced.

    Yields an index of the batch that refuses to be read, and a list of the calls of `self.log`: name, value, options.
    """
    logged: list[tuple[str, Any, dict[str, Any]]] = []
    trainer, log = module._trainer, module.__dict__.pop("log", None)
    module._trainer = _Untraceable("self.trainer")  # type: ignore[assignment]
    module.log = lambda name, value, **options: logged.append((name, value, options))  # type: ignore[method-assign]
    try:
        yield _Untraceable("batch_idx"), logged
    finally:
        module._trainer = trainer
        del module.log
        if log is not None:
            module.log = log  # type: ignore[method-assign]
