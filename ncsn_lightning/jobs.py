"""A training, once its configuration is known: built, refused, run, resumed."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from omegaconf import OmegaConf
from torch import Tensor

from .building import Builder, fill_automatic
from .callbacks import PreemptionCheckpoint, RunSummary
from .callbacks.preemption import SignalsLeftAlone
from .callbacks.spawned import original
from .checkpoints import AtomicCheckpointIO, Checkpoint, latest_checkpoint
from .compiled import check_compilable
from .configuration import config_hash
from .data import StreamingDataModule
from .distributions import Distribution
from .files import remove_parts, replacing
from .loggers import MetricsCSV
from .module import NCSN
from .preemption import is_first_rank, listening
from .samplers import Sampler
from .schedules import Schedule, broken_guidelines
from .scores import ScoreModel

log = logging.getLogger(__name__)

TRUSTED = ("ncsn_lightning", "torch.optim", "lightning")
"""Packages whose classes a run that is resumed may name."""

PARTS: dict[str, type] = {
    "score": ScoreModel,
    "schedule": Schedule,
    "sampler": Sampler,
    "module": NCSN,
    "data": StreamingDataModule,
}


ANYWHERE = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
"""What every machine has."""


@dataclass
class Job:
    """The objects of one training."""

    builder: Builder
    module: NCSN
    data: StreamingDataModule
    trainer: L.Trainer


def build(
    config: dict[str, Any],
    *,
    overrides: list[str],
    trust: tuple[str, ...] | None = None,
    files: dict[str, Tensor] | None = None,
    in_sweep: bool = False,
    callbacks: Sequence[L.Callback] = (),
) -> Job:
    """Build every object of a training, except the loggers, which would leave traces.

    Args:
        config: the plain configuration.
        overrides: the command line, for the summary.
        trust: packages whose classes may be named, None for any.
        files: what the configuration's files held when the run began, by the path of the argument that names them.
        in_sweep: whether this is one of several jobs, whose progress is shown elsewhere.
        callbacks: besides the configuration's.

    Raises:
        Refusal: naming every wrong value, a line each.
    """
    builder = Builder({"config_hash": config_hash(config), **config}, trust=trust, given=files)
    _seed(builder)
    _take_threads(builder)
    fill_automatic(builder)
    parts = {name: builder.build(name, kind) for name, kind in PARTS.items()}
    callbacks = [*builder.build_members("callbacks", L.Callback), *callbacks]
    _check_together(builder, parts)
    if builder.refused:
        _trainer(builder, [], parts, in_sweep=in_sweep)  # for what it would refuse besides
    builder.check()
    module, distribution = parts["module"], builder.build("distribution")
    module.config = builder.settled()
    module.files = {f"distribution.{name}": content for name, content in distribution.files.items()}
    folder = module.config["paths"]["folder"]
    summary = RunSummary(
        folder=folder,
        seed=module.config["seed"],
        overrides=overrides,
        config_hash=module.config["config_hash"],
    )
    last = [summary, PreemptionCheckpoint(folder=folder)]
    trainer = _trainer(builder, [*callbacks, *last], parts, in_sweep=in_sweep)
    builder.check()
    return Job(builder, module, parts["data"], trainer)


def check(config: dict[str, Any], *, here: bool) -> None:
    """Build a job of a sweep, and forget it.

    Args:
        config: the plain configuration.
        here: whether it will train on this machine; else what this machine has is not asked.

    Raises:
        Refusal: naming every wrong value, a line each.
    """
    if not here:
        config = {**config, "trainer": {**config["trainer"], **ANYWHERE}}
    build(config, overrides=[], in_sweep=True)


def _seed(builder: Builder) -> None:
    seed = builder.config.get("seed")
    if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32:
        L.seed_everything(seed, verbose=False)
    else:
        builder.refuse(f"seed={seed!r}: give a whole number from 0 to {2**32 - 1}", broken="seed")


def _take_threads(builder: Builder) -> None:
    threads = builder.config.get("threads")
    if isinstance(threads, int) and not isinstance(threads, bool) and threads >= 1:
        torch.set_num_threads(threads)
    else:
        builder.refuse(f"threads={threads!r}: give a whole number of at least 1", broken="threads")


def _check_together(builder: Builder, parts: dict[str, Any]) -> None:
    """Refuse what is right by itself and wrong beside something else."""
    sampler, schedule, module = parts["sampler"], parts["schedule"], parts["module"]
    target = builder.build("distribution")
    optimizer = builder.build("optimizer", functools.partial)
    if isinstance(sampler, Sampler) and isinstance(schedule, Schedule):
        builder.attempt("sampler.", lambda: sampler.check(schedule.sigmas))
        if isinstance(target, Distribution):
            builder.attempt("sampler.", lambda: sampler.check_target(target, schedule.sigmas))
        if isinstance(parts["score"], ScoreModel):
            builder.attempt("sampler: ", lambda: sampler.check_score(parts["score"]))
    if isinstance(optimizer, functools.partial):
        settings = ", ".join(f"{key}={value}" for key, value in optimizer.keywords.items())
        builder.attempt(f"optimizer, of {settings}: ", lambda: optimizer([{"params": [torch.zeros(1)]}]))
        if isinstance(module, NCSN) and module.compiles:
            builder.attempt("", lambda: check_compilable(optimizer.func))


def _trainer(builder: Builder, callbacks: list[L.Callback], parts: dict[str, Any], *, in_sweep: bool) -> Any:
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the stream is made in this process, faster
    warnings.filterwarnings("ignore", ".*LeafSpec.*deprecated.*")  # of lightning's own use of torch
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # every rank validates on the same points
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")  # a run on the login node is no mistake
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    options = builder.build("trainer", dict)
    if not _sound(builder, options):
        return None
    settings = ", ".join(f"{key}={value}" for key, value in options.items())
    if in_sweep:
        options = _without_bar(options, callbacks)
    trainer = builder.attempt(
        f"trainer, of {settings}: ",
        lambda: L.Trainer(
            **options,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            logger=False,
            max_epochs=-1,
            log_every_n_steps=1,  # Lightning counts blocks here; the module keeps the cadence in optimiser steps
            num_sanity_val_steps=0,
            inference_mode=False,  # a score that is an energy differentiates while it samples
            enable_model_summary=False,
            default_root_dir=builder.config.paths.folder,
        ),
    )
    if trainer is not None:
        trainer._signal_connector = SignalsLeftAlone(trainer)
        _check_ranks(builder, trainer, parts, in_sweep=in_sweep)
    return trainer


def _without_bar(options: dict[str, Any], callbacks: Sequence[L.Callback]) -> dict[str, Any]:
    """Lightning's options for a training that draws no bar; its own callback then writes lines into the log."""
    bars = [callback for callback in callbacks if isinstance(callback, ProgressBar)]
    for bar in bars:
        bar.disable()
    return options if bars else {"enable_progress_bar": False, **options}


def _sound(builder: Builder, options: Any) -> bool:
    """Whether Lightning should see these options; what is wrong with some is better said here."""
    if not isinstance(options, dict):
        return False
    accelerator, precision = options.get("accelerator"), str(options.get("precision"))
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        builder.refuse(f"trainer.accelerator={accelerator}: no GPU is visible here; use trainer=cpu")
    if precision.startswith("16"):
        builder.refuse(f"trainer.precision={precision}: losses are not rescaled here; use bf16-mixed or 32-true")
    return not any(line.startswith("trainer") for line in builder.refused)


def _check_ranks(builder: Builder, trainer: L.Trainer, parts: dict[str, Any], *, in_sweep: bool) -> None:
    data, module, ranks = parts["data"], parts["module"], trainer.num_nodes * trainer.num_devices
    if isinstance(data, StreamingDataModule):
        builder.attempt("", lambda: data.check_ranks(ranks))
    if isinstance(module, NCSN) and module.compiles and ranks > 1:
        builder.refuse(f"compile=true: a compiled step shares no gradients among {ranks} ranks; use compile=false")
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy) or not isinstance(strategy.cluster_environment, LightningEnvironment):
        return  # one process, or something else than Lightning starts the ranks
    if in_sweep and isinstance(strategy.launcher, _SubprocessScriptLauncher):
        builder.refuse(
            f"trainer.strategy={builder.config.trainer.get('strategy', 'auto')}: every rank would start the whole "
            "sweep anew; use trainer.strategy=ddp_spawn, or hydra/launcher=slurm, where Slurm starts the ranks"
        )
    if trainer.num_nodes > 1 and "NODE_RANK" not in os.environ and "GROUP_RANK" not in os.environ:
        builder.refuse(
            f"trainer.num_nodes={trainer.num_nodes}: nothing has started this on other nodes; "
            "use hydra/launcher=slurm, sbatch scripts/slurm/train.sbatch, or torchrun"
        )


def train(config: dict[str, Any], *, overrides: list[str]) -> float:
    """Run one training from its first step and return its score error."""
    return fit(build(config, overrides=overrides))


def resume(folder: Path, *, trust: tuple[str, ...] = ()) -> float:
    """Go on with an interrupted training in its folder, with its own configuration, to the end it would have had."""
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False)
    assert isinstance(config, dict)
    plain = {str(key): value for key, value in config.items()}
    plain["paths"] = {**plain["paths"], "folder": str(folder)}
    overrides = plain.pop("overrides", [])
    return go_on(plain, overrides=overrides, trust=(*TRUSTED, *trust))


def go_on(config: dict[str, Any], *, overrides: list[str], **options: Any) -> float:
    """Run one training to its end: from the furthest whole checkpoint in its folder, else from its first step.

    Args:
        config, overrides, options: of `build`.
    """
    folder = Path(config["paths"]["folder"])
    if is_first_rank():  # others may find it writing already
        remove_parts(folder)
        (folder / "summary.json").unlink(missing_ok=True)
    checkpoint, torn = latest_checkpoint(folder)
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # as it should
    warnings.filterwarnings("ignore", ".*could not find the monitored key.*")  # until the next validation
    files = checkpoint.content.get("files") if checkpoint else None
    job = build(config, overrides=overrides, files=files, **options)
    if job.trainer.is_global_zero:
        for line in torn:
            log.warning("%s", line)
        if (folder / "config.yaml").exists():
            start = checkpoint.path if checkpoint else "the start: there is no whole checkpoint yet"
            log.info("resuming from %s", start)
    return fit(job, checkpoint=checkpoint)


def fit(job: Job, *, checkpoint: Checkpoint | None = None) -> float:
    """Train from the first step or from a checkpoint to the end, log, and return the score error.

    Raises:
        Preempted: the process was asked to stop (`ncsn_lightning.preemption`).
    """
    config, trainer, module = job.module.config, job.trainer, job.module
    folder = Path(config["paths"]["folder"])
    distribution, schedule = job.builder.build("distribution"), job.builder.build("schedule")
    if trainer.is_global_zero:
        if broken := broken_guidelines(schedule, distribution):
            log.warning("the primer's guidelines are broken: %s", "; ".join(broken))
        with replacing(folder / "config.yaml") as path:
            OmegaConf.save(OmegaConf.create({**config, "overrides": _summary(trainer).facts["overrides"]}), path)
    with listening():
        _fit(job, checkpoint)
    # A rank of another process (ddp_spawn) keeps its results to itself, and the last validation's are handed back.
    error = float(module.results.get("score_error", trainer.callback_metrics.get("score_error", float("nan"))))
    if trainer.is_global_zero:
        log.info("score error %.4g; pictures and numbers in %s", error, folder)
    return error


def _fit(job: Job, checkpoint: Checkpoint | None) -> None:
    trainer = job.trainer
    try:
        trainer.loggers = job.builder.build_members("logger", Logger)
        job.builder.check()
        for logger in trainer.loggers:
            logger.log_hyperparams(job.module.config)
            if isinstance(logger, MetricsCSV):
                logger.rewind(checkpoint.content["metrics_rows"] if checkpoint else 0)
        trainer.fit(job.module, datamodule=job.data, ckpt_path=checkpoint.path if checkpoint else None)
    except BaseException as error:
        _finish(trainer, exit_code=1)
        if original(error) is not error:
            raise original(error) from error
        raise
    _finish(trainer, exit_code=0)


def _finish(trainer: L.Trainer, *, exit_code: int) -> None:
    """End the W&B run, or the next job of this process would go on in it."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        wandb.finish(exit_code=exit_code)


def _summary(trainer: Any) -> RunSummary:
    return next(callback for callback in trainer.callbacks if isinstance(callback, RunSummary))
