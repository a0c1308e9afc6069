"""Which loop trains: Lightning's own, one step a call, or the fast one, a block of steps a call; the numbers agree."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import lightning as L
from lightning.pytorch import callbacks as theirs
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from ..core.validation import Count, strict
from .block_callback import BlockCallback
from .compiled_step import CompiledStep
from .data import StreamingDataModule
from .internals import BlockOptimization, count_steps_logged, every_n_train_steps, is_watched, optimize_by
from .module import NCSN

log = logging.getLogger(__name__)

Loop = Literal["auto", "fast", "standard"]

BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end")
STEP_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
MODULE_HOOKS = ("backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step")
PRECISIONS = (Precision, MixedPrecision, DoublePrecision, HalfPrecision)
STRATEGIES = (SingleDeviceStrategy, DDPStrategy)
COST = "the fast loop would take some 80 % of its time"

ANY_BLOCK_WILL_DO = (
    *(theirs.LearningRateMonitor, theirs.DeviceStatsMonitor, theirs.ThroughputMonitor, theirs.Timer),
    *(theirs.TQDMProgressBar, theirs.RichProgressBar, NCSN),
)
BLOCK_PERIODS: dict[type, Callable[[Any], int]] = {
    BlockCallback: lambda callback: callback.every_n_steps,
    theirs.ModelCheckpoint: every_n_train_steps,
    **dict.fromkeys(ANY_BLOCK_WILL_DO, lambda part: 0),
}
"""Classes whose batch hooks may be called once a block, and the period in steps at which each needs a block to end.

A block also ends wherever Lightning logs, validates or stops.
"""


class FastLoop(BlockCallback):
    """Chooses the fast loop, which takes a block of optimiser steps at every call of Lightning's, where it can run.

    It can run where nothing needs to see every step; elsewhere Lightning's own loop runs, with the same numbers. A line
    of the log says which one runs, and why.

    Args:
        loop: "auto" chooses; "fast" refuses to train where something needs to see every step; "standard" is
            Lightning's own loop.
        block_size: optimiser steps of a block at most.
        compile: compile the whole step, which pays after some 20 thousand steps.
    """

    @strict
    def __init__(self, *, loop: Loop = "auto", block_size: Count = 50, compile: bool = False) -> None:
        self.loop, self.block_size, self.compile = loop, block_size, compile

    def reasons(self, trainer: Any, module: L.LightningModule, data: Any = None) -> str:
        """Why the standard loop runs; empty where the fast one does.

        Raises:
            ValueError: the fast loop or a compiled step is asked for, and would leave something out.
        """
        reasons = ", ".join(["loop=standard"] if self.loop == "standard" else asking(trainer, module, data))
        if self.compile and trainer.world_size > 1:
            raise ValueError(
                f"compile=true: a compiled step shares no gradients among {trainer.world_size} ranks; use compile=false"
            )
        if self.compile and not isinstance(data or trainer.datamodule, StreamingDataModule):
            raise ValueError("compile=true: a compiled step takes the stream's batches alone; use compile=false")
        if reasons and self.compile:
            raise ValueError(f"compile=true: only the fast loop compiles, and {reasons} asks for the standard one")
        if reasons and self.loop == "fast":
            raise ValueError(f"loop=fast: the fast loop would leave out {reasons}; use loop=auto")
        return reasons

    def on_train_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        """Choose the loop, now that the optimiser and all callbacks are there to be asked, and log which one runs."""
        if reasons := self.reasons(trainer, pl_module):
            optimize_by(trainer, None)
            _say(trainer, "standard loop, one optimiser step a call, for %s; %s", reasons, COST)
            return
        wanted = [period(c) for c in trainer.callbacks for kind, period in BLOCK_PERIODS.items() if isinstance(c, kind)]
        periods = [period for period in (self.block_size, trainer.log_every_n_steps, *wanted) if period]
        step = CompiledStep(trainer) if self.compile else None
        optimize_by(trainer, BlockOptimization(trainer, periods, step))
        _say(trainer, "fast loop, up to %d optimiser steps a call%s", self.block_size, ", compiled" if step else "")

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Set right, before each block, the step at which Lightning takes what is logged to happen."""
        count_steps_logged(trainer)


def _say(trainer: Any, line: str, *values: object) -> None:
    """Log a line on the first rank alone."""
    if trainer.is_global_zero:
        log.info(line, *values)


def asking(trainer: Any, module: L.LightningModule, data: Any = None) -> Iterator[str]:
    """What needs to see every step, each thing in a few words: overridden hooks, options, plugins, optimisers."""
    for callback in trainer.callbacks:
        blockwise = isinstance(callback, BlockCallback)
        yield from _overridden(callback, L.Callback, STEP_HOOKS if blockwise else (*BATCH_HOOKS, *STEP_HOOKS))
        if isinstance(callback, theirs.GradientAccumulationScheduler | theirs.StochasticWeightAveraging):
            yield type(callback).__name__
    yield from _overridden(module, L.LightningModule, (*BATCH_HOOKS, *STEP_HOOKS, *MODULE_HOOKS, *TRANSFER_HOOKS))
    if data := data or trainer.datamodule:
        yield from _overridden(data, L.LightningDataModule, TRANSFER_HOOKS)
    flags = {
        "gradient_clip_val": trainer.gradient_clip_val,
        "accumulate_grad_batches": trainer.accumulate_grad_batches != 1,
        "profiler": type(trainer.profiler) is not PassThroughProfiler,
        "manual optimisation": not module.automatic_optimization,
        "a training_step that takes an iterator": "dataloader_iter"
        in inspect.signature(module.training_step).parameters,
    }
    yield from (flag for flag, asks in flags.items() if asks)
    for part, kinds in ((trainer.precision_plugin, PRECISIONS), (trainer.strategy, STRATEGIES)):
        if type(part) not in kinds or getattr(part, "scaler", None) is not None:
            yield type(part).__name__
    if any(config.reduce_on_plateau and config.interval == "step" for config in trainer.lr_scheduler_configs):
        yield "a rate that follows a metric at every step"
    factory: Any = module.optimizer if isinstance(module, NCSN) else None
    planned = [factory.func] if isinstance(factory, partial) else []
    for kind in [*map(type, trainer.optimizers)] or planned:
        if not _takes_torchs_step(kind):
            yield f"{kind.__name__}, whose step may call for the loss itself"
    yield from ("a hook of the optimiser's steps" for optimizer in trainer.optimizers if is_watched(optimizer))


def _takes_torchs_step(kind: Any) -> bool:
    """Whether an optimiser's step is one of torch's own, and does without a closure."""
    closure = inspect.signature(kind.step).parameters.get("closure")
    own = inspect.unwrap(kind.step).__module__.startswith("torch.optim.")
    return own and closure is not None and closure.default is None


def _overridden(part: Any, base: type, hooks: tuple[str, ...]) -> Iterator[str]:
    """The hooks that are neither `base`'s nor of a class in `BLOCK_PERIODS`; one that is no method counts as well."""
    kinds = [base, *(kind for kind in BLOCK_PERIODS if isinstance(part, kind))]
    for hook in hooks:
        function = getattr(getattr(part, hook), "__func__", None)
        if function is None or all(function is not getattr(kind, hook, None) for kind in kinds):
            yield f"{type(part).__name__}.{hook}"
