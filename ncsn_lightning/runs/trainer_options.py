"""Make the trainer of a run: check Lightning's options, and refuse those that a run cannot take."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import ParallelStrategy

from ..config.build import Builder
from ..config.plain import nearest
from ..core.signals import later_ranks, started_by_others
from ..training.callbacks.progress import StepProgressBar
from ..training.checkpoints import AtomicCheckpointIO
from ..training.data import StreamingDataModule
from ..training.internals import leave_signals_alone, relaunches_the_command
from ..training.loops import FastLoop

DEFAULTS = {"max_epochs": -1, "num_sanity_val_steps": 0, "enable_model_summary": False}
"""Options of every trainer, unless the configuration gives others."""

REFUSED = {
    "barebones": "it takes away what a run is for; leave out parts by ~callbacks.NAME and ~logger, or use plain Python",
    "callbacks": "give each a name, +callbacks.NAME._target_=…",
    "default_root_dir": "a run lies in hydra.run.dir=…",
    "enable_checkpointing": "leave out ~callbacks.best and ~callbacks.last",
    "inference_mode": "a score that is an energy differentiates while it samples; leave it out",
    "logger": "choose logger=…, add +logger.NAME._target_=…, or leave all out by ~logger",
}
"""Options of Lightning's trainer that a run does not take, and what to do instead."""

PRECISIONS = ("None", "32", "32-true", "bf16-mixed")
"""Precisions that were tried; for others Lightning changes torch's default type, in which the stream is drawn."""

COUNTS = ("limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval")
"""Options that must be numbers of batches here; Lightning also takes shares of an epoch, but a stream has no end."""


def make_trainer(builder: Builder, callbacks: list[L.Callback], parts: dict[str, Any], *, in_sweep: bool) -> Any:
    """Build the trainer of a run from the configuration's options, and note in `builder` what is wrong with them.

    Args:
        builder: the builder of the configuration.
        callbacks: all callbacks of the run.
        parts: the module, the data module and the loop that it is for.
        in_sweep: whether this is one of several jobs, whose progress is shown elsewhere.

    Returns:
        The trainer; None where something was refused.
    """
    _quieten_lightning()
    options = builder.build("trainer", dict)
    if not _check_options(builder, options, parts["data"]):
        return None
    settings = ", ".join(f"{key}={value}" for key, value in options.items())
    plugins = _with_checkpoint_io(options.pop("plugins", []))
    if in_sweep or options.get("enable_progress_bar") is False:
        options = _without_bar(options, callbacks)
    if sum(isinstance(callback, ProgressBar) for callback in callbacks) > 1:  # the user has another one
        callbacks = [callback for callback in callbacks if not isinstance(callback, StepProgressBar)]
    if options.get("devices") in (1, "1") and options.get("num_nodes", 1) == 1 and not _alone(builder):
        return None  # Lightning's own message would be about Slurm
    trainer = builder.attempt(
        f"trainer, of {settings}: ",
        lambda: L.Trainer(
            **{**DEFAULTS, **options},
            callbacks=callbacks,
            plugins=plugins,
            logger=False,
            inference_mode=False,  # a score that is an energy differentiates while it samples
            default_root_dir=builder.config.paths.folder,
        ),
    )
    if trainer is not None:
        leave_signals_alone(trainer)
        _check_ranks(builder, trainer, parts, in_sweep=in_sweep)
        _check_loop(builder, trainer, parts)
    return trainer


def _quieten_lightning() -> None:
    """Leave out Lightning's warnings that do not apply to our runs, and what it logs about itself."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the stream is made in this process, faster
    warnings.filterwarnings("ignore", ".*LeafSpec.*deprecated.*")  # Lightning itself uses it
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # every rank validates on the same points
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")  # a run on the login node is no mistake
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # their reports are logged


def _with_checkpoint_io(given: Any) -> list[Any]:
    """The trainer's plugins: those of the configuration, and ours for checkpoints where they have none."""
    plugins = given if isinstance(given, list) else [given]
    return plugins if any(isinstance(plugin, CheckpointIO) for plugin in plugins) else [*plugins, AtomicCheckpointIO()]


def _check_loop(builder: Builder, trainer: L.Trainer, parts: dict[str, Any]) -> None:
    """Refuse a loop that would leave something out."""
    loop, module, data = parts["fast_loop"], parts["module"], parts["data"]
    if isinstance(loop, FastLoop) and isinstance(module, L.LightningModule) and isinstance(data, L.LightningDataModule):
        builder.attempt("", lambda: loop.reasons(trainer, module, data))


def _without_bar(options: dict[str, Any], callbacks: Sequence[L.Callback]) -> dict[str, Any]:
    """The options for a training that draws no bar; a bar among the callbacks is disabled, and logs lines instead."""
    bars = [callback for callback in callbacks if isinstance(callback, ProgressBar)]
    for bar in bars:
        bar.disable()
    rest = {key: value for key, value in options.items() if key != "enable_progress_bar"}
    return rest if bars else {"enable_progress_bar": False, **rest}


def _check_options(builder: Builder, options: Any, data: Any) -> bool:
    """Refuse options about which our messages say more than Lightning's; returns whether Lightning may have them."""
    if not isinstance(options, dict):
        return False
    accelerator, precision = options.get("accelerator"), str(options.get("precision"))
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        builder.refuse(f"trainer.accelerator={accelerator}: no GPU is visible here; use trainer=cpu")
    if precision not in PRECISIONS:
        builder.refuse(f"trainer.precision={precision}: not tried here; use 32-true or bf16-mixed")
    known = [*inspect.signature(L.Trainer).parameters]
    for key in options.keys() - known:
        builder.refuse(f"trainer.{key}={options[key]}: Lightning's Trainer has no such option; {nearest(key, known)}")
    for key, instead in REFUSED.items():
        if key in options:
            builder.refuse(f"trainer.{key}={options[key]}: not taken; {instead}")
    steps = options.get("max_steps")
    ends = any(options.get(key) not in (None, -1) for key in ("max_epochs", "max_time"))
    if not isinstance(steps, int) or isinstance(steps, bool):
        builder.refuse(f"trainer.max_steps={steps}: give a whole number of at least 1")
    elif steps < 1 and not (steps == -1 and ends):
        beside = ", beside trainer.max_epochs or trainer.max_time" if steps == -1 else ""
        builder.refuse(f"trainer.max_steps={steps}: should be greater than or equal to 1{beside}")
    interval, streams = options.get("val_check_interval"), isinstance(data, StreamingDataModule)
    if streams and isinstance(interval, int) and options.get("check_val_every_n_epoch", 1) is not None:
        batches = data.steps_per_epoch * options.get("accumulate_grad_batches", 1)
        if interval > batches:
            builder.refuse(
                f"trainer.val_check_interval={interval}: an epoch has {batches} batches, for data.steps_per_epoch="
                f"{data.steps_per_epoch}; raise that, or add +trainer.check_val_every_n_epoch=null to count over epochs"
            )
    for key in COUNTS if streams else ():
        if isinstance(value := options.get(key), float) and value not in (0.0, 1.0):
            builder.refuse(f"trainer.{key}={value}: a stream has no end to take a share of; give a number of batches")
    return not any(line.startswith("trainer") for line in builder.refused)


def _alone(builder: Builder) -> bool:
    """Whether this process alone runs the command, as far as the environment says; refuses the trainer if not."""
    if others := later_ranks() or started_by_others():
        builder.refuse(
            f"trainer.devices=1: {', '.join(others)} says that this is one of several processes, each of which would "
            "train the whole run; use trainer=ddp trainer.devices=N for N processes, or start one"
        )
    return not others


def _check_ranks(builder: Builder, trainer: L.Trainer, parts: dict[str, Any], *, in_sweep: bool) -> None:
    """Refuse numbers of ranks that do not fit the data, the environment, or the way in which ranks are started."""
    data, ranks = parts["data"], trainer.num_nodes * trainer.num_devices
    if ranks == 1:
        _alone(builder)
    if isinstance(data, StreamingDataModule):
        builder.attempt("", lambda: data.check_ranks(ranks))
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy) or not isinstance(strategy.cluster_environment, LightningEnvironment):
        return  # there is one process, or something else than Lightning starts the ranks
    if in_sweep and relaunches_the_command(trainer):
        builder.refuse(
            f"trainer.strategy={builder.config.trainer.get('strategy', 'auto')}: every rank would start the whole "
            "sweep anew; use trainer.strategy=ddp_spawn, or hydra/launcher=slurm, where Slurm starts the ranks"
        )
    if trainer.num_nodes > 1 and "NODE_RANK" not in os.environ and "GROUP_RANK" not in os.environ:
        builder.refuse(
            f"trainer.num_nodes={trainer.num_nodes}: nothing has started this on other nodes; "
            "use hydra/launcher=slurm, sbatch scripts/slurm/train.sbatch, or torchrun"
        )
