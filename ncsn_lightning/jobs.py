"""A training, once its configuration is known: built, refused, run, resumed."""

from __future__ import annotations

import functools
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from omegaconf import OmegaConf
from torch import Tensor

from .building import Builder, fill_automatic
from .callbacks import RunSummary
from .checkpoints import AtomicCheckpointIO, latest_checkpoint, read_checkpoint, remove_parts, replacing
from .compiled import check_compilable
from .configuration import config_hash
from .data import StreamingDataModule
from .loggers import MetricsCSV
from .module import NCSN
from .samplers import Sampler
from .schedules import Schedule, broken_guidelines

log = logging.getLogger(__name__)

TRUSTED = ("ncsn_lightning", "torch.optim", "lightning")
"""Packages whose classes a run that is resumed may name."""

PARTS: dict[str, type] = {"schedule": Schedule, "sampler": Sampler, "module": NCSN, "data": StreamingDataModule}


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
) -> Job:
    """Build every object of a training, except the loggers, which would leave traces.

    Args:
        config: the plain configuration.
        overrides: the command line, for the summary.
        trust: packages whose classes may be named, None for any.
        files: what the configuration's files held when the run began, by the path of the argument that names them.
        in_sweep: whether this process runs several jobs.

    Raises:
        Refusal: naming every wrong value, a line each.
    """
    builder = Builder(config, trust=trust, given=files)
    _seed(builder)
    _take_threads(builder)
    fill_automatic(builder)
    parts = {name: builder.build(name, kind) for name, kind in PARTS.items()}
    callbacks = builder.build_members("callbacks", L.Callback)
    _check_together(builder, parts)
    if builder.refused:
        _trainer(builder, [], parts, in_sweep=in_sweep)  # for what it would refuse besides
    builder.check()
    module, distribution = parts["module"], builder.build("distribution")
    module.config = builder.settled()
    module.files = {f"distribution.{name}": content for name, content in distribution.files.items()}
    summary = RunSummary(
        folder=module.config["paths"]["folder"],
        seed=module.config["seed"],
        overrides=overrides,
        config_hash=config_hash(module.config),
    )
    trainer = _trainer(builder, [*callbacks, summary], parts, in_sweep=in_sweep)
    builder.check()
    return Job(builder, module, parts["data"], trainer)


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
    optimizer = builder.build("optimizer", functools.partial)
    if isinstance(sampler, Sampler) and isinstance(schedule, Schedule):
        builder.attempt("sampler.", lambda: sampler.check(schedule.sigmas))
    if isinstance(optimizer, functools.partial):
        settings = ", ".join(f"{key}={value}" for key, value in optimizer.keywords.items())
        builder.attempt(f"optimizer, of {settings}: ", lambda: optimizer([{"params": [torch.zeros(1)]}]))
        if isinstance(module, NCSN) and module.compiles:
            builder.attempt("", lambda: check_compilable(optimizer.func))


def _trainer(builder: Builder, callbacks: list[L.Callback], parts: dict[str, Any], *, in_sweep: bool) -> Any:
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the stream is made in this process, faster
    warnings.filterwarnings("ignore", ".*LeafSpec.*deprecated.*")  # of lightning's own use of torch
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # every rank validates on the same points
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    options = builder.build("trainer", dict)
    if not _sound(builder, options):
        return None
    settings = ", ".join(f"{key}={value}" for key, value in options.items())
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
        _check_ranks(builder, trainer, parts, in_sweep=in_sweep)
    return trainer


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
    if in_sweep and isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        builder.refuse(
            f"trainer.strategy={builder.config.trainer.get('strategy', 'auto')}: every rank would start the whole "
            "sweep anew; use trainer.strategy=ddp_spawn, or a Slurm launcher with trainer.devices tasks on a node"
        )


def train(config: dict[str, Any], *, overrides: list[str], in_sweep: bool = False) -> float:
    """Run one training from its first step and return its score error."""
    return fit(build(config, overrides=overrides, in_sweep=in_sweep))


def resume(folder: Path, *, trust: tuple[str, ...] = ()) -> float:
    """Go on with an interrupted training in its folder, with its own configuration, to the end it would have had."""
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False)
    assert isinstance(config, dict)
    plain = {str(key): value for key, value in config.items()}
    plain["paths"] = {**plain["paths"], "folder": str(folder)}
    overrides = plain.pop("overrides", [])
    remove_parts(folder)
    checkpoint, torn = latest_checkpoint(folder)
    for line in torn:
        log.warning("%s", line)
    log.info("resuming from %s", checkpoint or "the start: there is no whole checkpoint yet")
    files = read_checkpoint(checkpoint).get("files") if checkpoint else None
    return fit(build(plain, overrides=overrides, trust=(*TRUSTED, *trust), files=files), checkpoint=checkpoint)


def fit(job: Job, *, checkpoint: Path | None = None) -> float:
    """Train from the first step or from a checkpoint to the end, log, and return the score error."""
    config, trainer, module = job.module.config, job.trainer, job.module
    folder = Path(config["paths"]["folder"])
    distribution, schedule = job.builder.build("distribution"), job.builder.build("schedule")
    if broken := broken_guidelines(schedule, distribution):
        log.warning("the primer's guidelines are broken: %s", "; ".join(broken))
    if trainer.is_global_zero:
        with replacing(folder / "config.yaml") as path:
            OmegaConf.save(OmegaConf.create({**config, "overrides": _summary(trainer).facts["overrides"]}), path)
    try:
        trainer.loggers = job.builder.build_members("logger", Logger)
        job.builder.check()
        for logger in trainer.loggers:
            logger.log_hyperparams(config)
            if isinstance(logger, MetricsCSV):
                logger.rewind(read_checkpoint(checkpoint)["metrics_rows"] if checkpoint else 0)
        trainer.fit(module, datamodule=job.data, ckpt_path=checkpoint)
    except BaseException:
        _finish(trainer, exit_code=1)
        raise
    _finish(trainer, exit_code=0)
    # A rank of another process (ddp_spawn) keeps its results to itself, and the last validation's are handed back.
    error = float(module.results.get("score_error", trainer.callback_metrics.get("score_error", float("nan"))))
    if trainer.is_global_zero:
        log.info("score error %.4g; pictures and numbers in %s", error, folder)
    return error


def _finish(trainer: L.Trainer, *, exit_code: int) -> None:
    """End the W&B run, or the next job of this process would go on in it."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        wandb.finish(exit_code=exit_code)


def _summary(trainer: Any) -> RunSummary:
    return next(callback for callback in trainer.callbacks if isinstance(callback, RunSummary))
