"""The trainer of a run: which of Lightning's options it takes, and what is said about the others."""

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
from ..core.signals import later_ranks, started_by_torchrun
from ..training.callbacks.progress import StepProgressBar
from ..training.checkpoints import AtomicCheckpointIO
from ..training.data import StreamingDataModule
from ..training.internals import leave_signals_alone, relaunches_the_command
from ..training.loops import FastLoop

OURS = {"max_epochs": -1, "num_sanity_val_steps": 0, "enable_model_summary": False}
"""What a trainer is told unless the configuration says otherwise."""

INSTEAD = {
    "barebones": "it takes away what a run is for; leave out parts by ~callbacks.NAME and ~logger, or use plain Python",
    "callbacks": "give each a name, +callbacks.NAME._target_=…",
    "default_root_dir": "a run lies in hydra.run.dir=…",
    "enable_checkpointing": "leave out ~callbacks.best and ~callbacks.last",
    "inference_mode": "a score that is an energy differentiates while it samples; leave it out",
    "logger": "choose logger=…, add +logger.NAME._target_=…, or leave all out by ~logger",
}
"""Options of Lightning's trainer that have another name here, or none."""

PRECISIONS = ("None", "32", "32-true", "bf16-mixed")
"""What the numbers were tried in; for others Lightning changes torch's default type, in which the stream is drawn."""

WHOLE = ("limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval")
"""Options that may be shares of an epoch in Lightning, which an infinite stream does not have."""


def make_trainer(builder: Builder, callbacks: list[L.Callback], parts: dict[str, Any], *, in_sweep: bool) -> Any:
    """Build the trainer of a run from the configuration's options; what is wrong with them is noted.

    Args:
        builder: of the configuration.
        callbacks: all of the run's.
        parts: the module, the data module and the loop that it is for.
        in_sweep: whether this is one of several jobs, whose progress is shown elsewhere.

    Returns:
        None where something was refused.
    """
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the stream is made in this process, faster
    warnings.filterwarnings("ignore", ".*LeafSpec.*deprecated.*")  # of lightning's own use of torch
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # every rank validates on the same points
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")  # a run on the login node is no mistake
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # a report is what one asks them for
    options = builder.build("trainer", dict)
    if not _sound(builder, options, parts["data"]):
        return None
    settings = ", ".join(f"{key}={value}" for key, value in options.items())
    if in_sweep or options.get("enable_progress_bar") is False:
        options = _without_bar(options, callbacks)
    if sum(isinstance(callback, ProgressBar) for callback in callbacks) > 1:  # one of the user's own
        callbacks = [callback for callback in callbacks if not isinstance(callback, StepProgressBar)]
    given = options.pop("plugins", [])
    plugins = given if isinstance(given, list) else [given]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, AtomicCheckpointIO()]
    trainer = builder.attempt(
        f"trainer, of {settings}: ",
        lambda: L.Trainer(
            **{**OURS, **options},
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


def _check_loop(builder: Builder, trainer: L.Trainer, parts: dict[str, Any]) -> None:
    """Refuse a loop that would leave something out."""
    loop, module, data = parts["fast_loop"], parts["module"], parts["data"]
    if isinstance(loop, FastLoop) and isinstance(module, L.LightningModule) and isinstance(data, L.LightningDataModule):
        builder.attempt("", lambda: loop.reasons(trainer, module, data))


def _without_bar(options: dict[str, Any], callbacks: Sequence[L.Callback]) -> dict[str, Any]:
    """Lightning's options for a training that draws no bar; its own callback then writes lines into the log."""
    bars = [callback for callback in callbacks if isinstance(callback, ProgressBar)]
    for bar in bars:
        bar.disable()
    rest = {key: value for key, value in options.items() if key != "enable_progress_bar"}
    return rest if bars else {"enable_progress_bar": False, **rest}


def _sound(builder: Builder, options: Any, data: Any) -> bool:
    """Whether Lightning should see these options; what is wrong with some is better said here."""
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
    for key, instead in INSTEAD.items():
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
    for key in WHOLE if streams else ():
        if isinstance(value := options.get(key), float) and value not in (0.0, 1.0):
            builder.refuse(f"trainer.{key}={value}: a stream has no end to take a share of; give a number of batches")
    return not any(line.startswith("trainer") for line in builder.refused)


def _check_ranks(builder: Builder, trainer: L.Trainer, parts: dict[str, Any], *, in_sweep: bool) -> None:
    data, ranks = parts["data"], trainer.num_nodes * trainer.num_devices
    if ranks == 1 and (later := later_ranks() or started_by_torchrun()):
        builder.refuse(
            f"trainer.devices=1: {', '.join(later)} says that this is one of several processes, each of which would "
            "train the whole run; use trainer=ddp trainer.devices=N for N processes, or start one"
        )
    if isinstance(data, StreamingDataModule):
        builder.attempt("", lambda: data.check_ranks(ranks))
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy) or not isinstance(strategy.cluster_environment, LightningEnvironment):
        return  # one process, or something else than Lightning starts the ranks
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
