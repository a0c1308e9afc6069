"""A training, once its configuration is known: built, refused, run, resumed."""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import wandb
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ThroughputMonitor,
)
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from omegaconf import OmegaConf
from torch import Tensor

from .building import MODEL_TRUSTED, Builder, fill_automatic
from .callbacks import PreemptionCheckpoint, RunRecord, ScoreError
from .callbacks.spawned import original
from .checkpoints import Checkpoint, check_frame, latest_checkpoint
from .compiled import check_compilable
from .configuration import config_hash, read_config, settings
from .distributions import Points
from .files import remove_parts, replacing, shown
from .loggers import MetricsCSV
from .loops import FastLoop
from .module import NCSN, HasScore
from .precheck import check_parts
from .preemption import is_first_rank, listening
from .runs import take_threads
from .samplers import Sampler
from .schedules import Schedule, broken_guidelines
from .trainer_options import make_trainer

log = logging.getLogger(__name__)

TRUSTED = (*MODEL_TRUSTED, "lightning")
"""Packages whose classes a run that is resumed may name."""

PARTS: dict[str, type] = {
    "schedule": Schedule,
    "sampler": Sampler,
    "module": L.LightningModule,
    "data": L.LightningDataModule,
    "fast_loop": FastLoop,
}

NEED_LOGGERS = (LearningRateMonitor, DeviceStatsMonitor, ThroughputMonitor)
"""Callbacks that fail where nothing is logged."""

ANYWHERE = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
"""What every machine has."""


@dataclass
class Job:
    """The objects of one training."""

    builder: Builder
    module: L.LightningModule
    data: L.LightningDataModule
    trainer: L.Trainer
    record: RunRecord


def build(
    config: dict[str, Any],
    *,
    overrides: list[str],
    trust: tuple[str, ...] | None = None,
    files: dict[str, Tensor | None] | None = None,
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
    for path in ("module", "data"):
        if dropped := builder.drop_unnamed(path, given=overrides):
            name = builder.config[path]["_target_"]
            log.info("left out, for the constructor of %s does not name them: %s", name, ", ".join(dropped))
    parts = {name: builder.build(name, kind) for name, kind in PARTS.items()}
    callbacks = [*builder.build_members("callbacks", L.Callback), *callbacks]
    _check_together(builder, parts)
    if builder.refused:
        make_trainer(builder, [], parts, in_sweep=in_sweep)  # for what it would refuse besides
    builder.check()
    distribution = builder.build("distribution")
    files = {f"distribution.{name}": content for name, content in distribution.files.items()}
    record = RunRecord(config=builder.settled(), files=files, overrides=overrides)
    last = [record, PreemptionCheckpoint(folder=record.config["paths"]["folder"])]
    kept = _without_unmonitored(callbacks)
    trainer = make_trainer(builder, [parts["fast_loop"], *kept, *last], parts, in_sweep=in_sweep)
    builder.check()
    return Job(builder, parts["module"], parts["data"], trainer, record)


def _without_unmonitored(callbacks: Sequence[L.Callback]) -> list[L.Callback]:
    """Leave out callbacks that wait for the score error where nothing measures it."""
    if any(isinstance(callback, ScoreError) for callback in callbacks):
        return [*callbacks]
    waiting = [c for c in callbacks if isinstance(c, ModelCheckpoint | EarlyStopping) and c.monitor == "score_error"]
    for callback in waiting:
        name = f"{callback.filename}.ckpt" if isinstance(callback, ModelCheckpoint) else type(callback).__name__
        log.info("no %s: the callback score_error is left out", name)
    return [callback for callback in callbacks if callback not in waiting]


def check(config: dict[str, Any], *, overrides: list[str], here: bool) -> Job:
    """Build a job of a sweep that is not trained here and now.

    Args:
        config, overrides: of `build`.
        here: whether it will train on this machine; else what this machine has is not asked.

    Raises:
        Refusal: naming every wrong value, a line each.
    """
    if not here:
        config = {**config, "trainer": {**config["trainer"], **ANYWHERE}}
    return build(config, overrides=overrides, in_sweep=True)


def _seed(builder: Builder) -> None:
    seed = builder.config.get("seed")
    if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32:
        L.seed_everything(seed, verbose=False)
    else:
        builder.refuse(f"seed={seed!r}: give a whole number from 0 to {2**32 - 1}", broken="seed")


def _take_threads(builder: Builder) -> None:
    try:
        take_threads(builder.config.get("threads"))
    except ValueError as error:
        builder.refuse(str(error), broken="threads")


def _check_together(builder: Builder, parts: dict[str, Any]) -> None:
    """Refuse what is right by itself and wrong beside something else."""
    sampler, module, data = (parts[name] for name in ("sampler", "module", "data"))
    optimizer = builder.build("optimizer", functools.partial)
    check_parts(builder)
    if isinstance(module, L.LightningModule):
        name = builder.config.module._target_
        if not isinstance(module, HasScore):
            builder.refuse(
                f"module._target_={name}: it has no property score; it should be a callable (x, sigma) -> [*batch, 2] "
                "for samplers, metrics and pictures"
            )
        elif isinstance(sampler, Sampler):
            builder.attempt("sampler: ", lambda: sampler.check_score(module.score))
        trainer = builder.config.trainer
        ends = trainer.get("max_steps") != -1 or trainer.get("max_epochs") not in (None, -1)
        if isinstance(module, NCSN) and not (ends or module.total_steps or module.decay == "constant"):
            builder.refuse(
                "module.total_steps=null: the learning rate decays to an end that trainer.max_time does not tell; "
                "give module.total_steps=…, or module.decay=constant"
            )
        if type(module).train_dataloader is not L.LightningModule.train_dataloader:
            builder.refuse(
                f"module._target_={name}: its own train_dataloader would give way to {type(data).__name__}; take it "
                "out, or put it into a data module of your own, data._target_=…"
            )
    compiled = builder.config.get("compile") is True and "optimizer" in builder.config.module
    if compiled and isinstance(optimizer, functools.partial):
        builder.attempt("", lambda: check_compilable(optimizer.func))


def train(config: dict[str, Any], *, overrides: list[str]) -> float:
    """Run one training from its first step and return its score error."""
    return fit(build(config, overrides=overrides))


def resume(folder: Path, *, trust: tuple[str, ...] = ()) -> float:
    """Go on with an interrupted training in its folder, with its own configuration, to the end it would have had."""
    plain = read_config(folder, named=f"resume={folder}")
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
    if checkpoint:
        job.builder.attempt(
            f"{checkpoint.path}: ", lambda: check_frame(checkpoint.content, job.builder.build("distribution"))
        )
        job.builder.check()
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
    config = job.record.config
    trainer: Any = job.trainer
    folder = Path(config["paths"]["folder"])
    if trainer.is_global_zero:
        if broken := broken_guidelines(job.builder.build("schedule"), job.builder.target):
            log.warning("the primer's guidelines are broken:\n  %s", "\n  ".join(broken))
        distribution = job.builder.build("distribution")
        for note in distribution.notes:
            log.info("%s", note)
        if isinstance(distribution, Points):
            _remark_on_bandwidth(distribution)
        with replacing(folder / "config.yaml") as path:
            OmegaConf.save(OmegaConf.create({**config, "overrides": job.record.overrides}), path)
    with listening():
        _fit(job, checkpoint)
    for callback in trainer.callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and not callback.best_model_path:
            log.info("no %s.ckpt: nothing was validated", callback.filename)
    # A rank of another process (ddp_spawn) keeps its results to itself, and the last validation's are handed back.
    measured = {**trainer.callback_metrics, **job.record.results(trainer)}
    error = float(measured.get("score_error", float("nan")))
    if trainer.is_global_zero:
        said = "score error not measured" if math.isnan(error) else f"score error {error:.4g}"
        log.info("%s; pictures and numbers in %s", said, shown(folder))
    return error


def _remark_on_bandwidth(points: Points) -> None:
    """Say how wide the kernels are beside the spacing of the points, and warn where they blur what the points show."""
    said = f"the bandwidth is {points.bandwidth:.4g}; half of the points have a neighbour within {points.spacing:.4g}"
    if points.hides_structure:
        log.warning(
            "%s. It hides structure, and a small score error is then no merit: kernels a quarter as wide make a point "
            "%.2g nats more likely; try distribution.bandwidth=likelihood, or a smaller number",
            said,
            points.hidden,
        )
    else:
        log.info("%s", said)


def _fit(job: Job, checkpoint: Checkpoint | None) -> None:
    trainer: Any = job.trainer
    try:
        unlogged = trainer.fast_dev_run  # as Lightning means it
        trainer.loggers = [DummyLogger()] if unlogged else job.builder.build_members("logger", Logger)
        job.builder.check()
        _leave_out_unlogged(trainer)
        for logger in trainer.loggers:
            logger.log_hyperparams(settings(job.record.config, job.record.overrides))
            if isinstance(logger, MetricsCSV):
                logger.rewind(checkpoint.content["metrics_rows"] if checkpoint else 0)
        trainer.fit(job.module, datamodule=job.data, ckpt_path=checkpoint.path if checkpoint else None)
    except BaseException as error:
        _finish(trainer, exit_code=1)
        if original(error) is not error:
            raise original(error) from error
        raise
    _finish(trainer, exit_code=0)


def _leave_out_unlogged(trainer: Any) -> None:
    """Take out callbacks that need a logger where there is none."""
    for callback in [] if trainer.loggers else [c for c in trainer.callbacks if isinstance(c, NEED_LOGGERS)]:
        log.info("no %s: there is no logger", type(callback).__name__)
        trainer.callbacks.remove(callback)


def _finish(trainer: L.Trainer, *, exit_code: int) -> None:
    """End the W&B run, or the next job of this process would go on in it."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        wandb.finish(exit_code=exit_code)
