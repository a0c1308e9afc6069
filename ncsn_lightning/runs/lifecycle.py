"""Build a training from its configuration or refuse it, run it, resume it."""

from __future__ import annotations

import functools
import logging
import math
import os
import random
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
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
from torch import Tensor

from ..config.build import MODEL_TRUSTED, Builder, fill_automatic
from ..config.plain import Refusal, changed_files, config_hash, read_config, settings, write_config
from ..config.precheck import check_parts
from ..core.atomic_files import remove_parts, replacing, shown
from ..core.signals import is_first_rank, listening, training
from ..distributions.points import Points
from ..samplers.base import Sampler
from ..schedules import Schedule, broken_guidelines
from ..training.callbacks.saving import LastCheckpoint
from ..training.callbacks.score_error import ScoreError
from ..training.checkpoints import (
    AtomicCheckpointIO,
    Checkpoint,
    check_frame,
    latest_checkpoint,
    read_checkpoint,
    relocated,
)
from ..training.compiled_step import check_compilable
from ..training.internals import spawns_ranks
from ..training.loggers import MetricsCSV
from ..training.loops import FastLoop
from ..training.module import NCSN, HasScore
from .load import take_threads
from .record import RunRecord, original
from .trainer_options import make_trainer

log = logging.getLogger(__name__)

TRUSTED = (*MODEL_TRUSTED, "lightning")
"""Packages whose classes the configuration of a resumed run may name."""

PARTS: dict[str, type] = {
    "schedule": Schedule,
    "sampler": Sampler,
    "module": L.LightningModule,
    "data": L.LightningDataModule,
    "fast_loop": FastLoop,
}

NEED_LOGGERS = (LearningRateMonitor, DeviceStatsMonitor, ThroughputMonitor)
"""Callbacks that fail where there is no logger."""

EVERY_MACHINES = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
"""The trainer's options that every machine can fulfil."""


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
    """Build every object of a training, except the loggers, which would leave files and W&B runs behind.

    Args:
        config: the plain configuration.
        overrides: the command line, for the summary.
        trust: packages whose classes may be named, None for any.
        files: what the configuration's files held when the run began, by the path of the argument that names them.
        in_sweep: whether this is one of several jobs, whose progress is shown elsewhere.
        callbacks: further callbacks besides the configuration's.

    Raises:
        Refusal: names every wrong value, on a line each.
    """
    builder = Builder({"config_hash": config_hash(config), **config}, trust=trust, given=files)
    _prepare(builder, overrides)
    parts = {name: builder.build(name, kind) for name, kind in PARTS.items()}
    callbacks = [*builder.build_members("callbacks", L.Callback), *callbacks]
    _check_together(builder, parts)
    if builder.refused:
        make_trainer(builder, [], parts, in_sweep=in_sweep)  # so that the refusal names its wrong options too
    builder.check()
    distribution = builder.build("distribution")
    files = {f"distribution.{name}": content for name, content in distribution.files.items()}
    record = RunRecord(config=builder.settled(), files=files, overrides=overrides)
    last = [record, LastCheckpoint(folder=record.config["paths"]["folder"])]
    kept = _without_unmonitored(callbacks)
    trainer = make_trainer(builder, [parts["fast_loop"], *kept, *last], parts, in_sweep=in_sweep)
    builder.check()
    return Job(builder, parts["module"], parts["data"], trainer, record)


def _prepare(builder: Builder, overrides: list[str]) -> None:
    """Seed, set the threads, compute automatic values, and drop settings that the user's own classes do not take."""
    _seed(builder)
    _take_threads(builder)
    fill_automatic(builder)
    for path in ("module", "data"):
        if dropped := builder.drop_unnamed(path, given=overrides):
            name = builder.config[path]["_target_"]
            log.info("left out, for the constructor of %s does not name them: %s", name, ", ".join(dropped))


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
    """Build a job of a sweep to check it; it is not trained here and now.

    Args:
        config, overrides: as in `build`.
        here: whether it will train on this machine; if not, it may ask for devices that this machine does not have.

    Raises:
        Refusal: names every wrong value, on a line each.
    """
    if not here:
        config = {**config, "trainer": {**config["trainer"], **EVERY_MACHINES}}
    with _undisturbed():
        return build(config, overrides=overrides, in_sweep=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Take back what a build does to the process: its seeds, its number of threads, the warnings that it filters."""
    threads, environment = torch.get_num_threads(), os.environ.copy()
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_num_threads(threads)
        for name in os.environ.keys() - environment.keys():  # the seed, which Lightning hands to further processes
            del os.environ[name]


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
    """Refuse combinations of parts that do not fit together."""
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


def resume(folder: Path, *, loop: str | None = None, **options: Any) -> float:
    """Go on with an interrupted training in its folder, with its own configuration, to the end that it would have had.

    Args:
        folder: the run's folder.
        loop: the loop in which it goes on; None for its own.
        options: further arguments of `build`; `trust` names packages besides our own.
    """
    config, overrides = configuration_of(folder)
    config["loop"] = loop or config["loop"]
    options["trust"] = (*TRUSTED, *options.get("trust", ()))
    return go_on(config, overrides=overrides, begun=True, **options)


def configuration_of(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The plain configuration of the run in a folder and its command line; the folder may have been moved.

    Raises:
        Refusal: there is neither a `config.yaml` nor a whole checkpoint, or without one its file has changed.
    """
    if (folder / "config.yaml").is_file():
        config = read_config(folder, named=f"resume={folder}")
        if (changed := changed_files(config)) and latest_checkpoint(folder)[0] is None:
            raise Refusal("\n".join(f"{file}: has changed since the run began; train anew" for file in changed))
        config.pop("digests", None)
    else:
        checkpoint, torn = latest_checkpoint(folder)
        if checkpoint is None:
            raise Refusal("\n".join([f"resume={folder}: holds no whole checkpoint; give another run", *torn]))
        config = {**checkpoint.content["config"], "overrides": checkpoint.content.get("overrides", [])}
    overrides = config.pop("overrides", [])
    return {**config, "paths": {**config["paths"], "folder": str(folder)}}, overrides


def fork(source: Path, folder: Path, *, max_steps: int | None) -> None:
    """Make the folder of a new run that goes on from another run's furthest checkpoint.

    Args:
        source: the other run's folder, which stays as it is, or one of its checkpoints.
        folder: the new run's folder.
        max_steps: the new run's `trainer.max_steps`; None for the other run's own.

    Raises:
        Refusal: there is no whole checkpoint, or it has taken that many steps already.
    """
    try:
        latest = Checkpoint(source, read_checkpoint(source)) if source.is_file() else latest_checkpoint(source)[0]
    except ValueError as error:
        raise Refusal(f"resume={error}") from error
    if latest is None:
        raise Refusal(f"resume={source}: holds no whole checkpoint to go on from; give another run")
    config, overrides = latest.content["config"], latest.content.get("overrides", [])
    if max_steps is not None:
        if (taken := latest.content["global_step"]) >= max_steps:
            raise Refusal(f"trainer.max_steps={max_steps}: the run has taken {taken} steps; give more than that")
        config = {**config, "trainer": {**config["trainer"], "max_steps": max_steps}}
        overrides = [text for text in overrides if not text.startswith("trainer.max_steps=")]
        overrides.append(f"trainer.max_steps={max_steps}")
    config |= {"paths": {**config["paths"], "folder": str(folder)}, "run_id": "-".join(folder.parts[-2:])}
    config["config_hash"] = config_hash(config)
    for path in {latest.path, latest.path.with_name("best.ckpt")}:
        if path.is_file():
            content = relocated(read_checkpoint(path), folder) | {"config": config, "overrides": overrides}
            for state in content["lr_schedulers"]:
                if "lr_lambdas" in state:  # these depend on the old length
                    state["lr_lambdas"] = [None] * len(state["lr_lambdas"])
            AtomicCheckpointIO().save_checkpoint(content, folder / "checkpoints" / path.name)
    if (rows := latest.path.parents[1] / "metrics.csv").is_file() and not source.is_file():
        with replacing(folder / "metrics.csv") as copy:
            shutil.copyfile(rows, copy)
    write_config(folder, config, overrides)


def go_on(config: dict[str, Any], *, overrides: list[str], begun: bool = False, **options: Any) -> float:
    """Run one training to its end: from the furthest whole checkpoint in its folder, else from its first step.

    Args:
        config, overrides, options: the arguments of `build`.
        begun: whether a process has begun the training before.
    """
    folder = Path(config["paths"]["folder"])
    if is_first_rank():  # another rank might remove what the first one is just writing
        remove_parts(folder)
    checkpoint, torn = latest_checkpoint(folder)
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # a resumed run's does
    warnings.filterwarnings("ignore", ".*could not find the monitored key.*")  # the next validation logs it
    files = checkpoint.content.get("files") if checkpoint else None
    job = build(config, overrides=overrides, files=files, **options)
    if checkpoint:
        job.builder.attempt(
            f"{checkpoint.path}: ", lambda: check_frame(checkpoint.content, job.builder.build("distribution"))
        )
        job.builder.check()
    if job.trainer.is_global_zero:
        (folder / "summary.json").unlink(missing_ok=True)
        for line in torn:
            log.warning("%s", line)
        if begun:
            start = checkpoint.path if checkpoint else "the start: there is no whole checkpoint yet"
            log.info("resuming from %s", start)
    return fit(job, checkpoint=checkpoint)


def fit(job: Job, *, checkpoint: Checkpoint | None = None) -> float:
    """Train to the end, from the first step or from a checkpoint; return the score error, NaN where not measured.

    Raises:
        Preempted, Stopped: the process was asked to stop (`ncsn_lightning.core.signals`).
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
        write_config(folder, config, job.record.overrides)
    several = spawns_ranks(trainer) or trainer.world_size > 1  # if one rank ended at once, the others would hang
    with listening(), training(patient=several):
        _fit(job, checkpoint)
    for callback in trainer.callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and not callback.best_model_path:
            log.info("no %s.ckpt: nothing was validated", callback.filename)
    # The results of a spawned rank (ddp_spawn) stay in its process, but the last validation's metrics are handed back.
    measured = {**trainer.callback_metrics, **job.record.results(trainer)}
    error = float(measured.get("score_error", float("nan")))
    if trainer.is_global_zero:
        said = "score error not measured" if math.isnan(error) else f"score error {error:.4g}"
        log.info("%s; pictures and numbers in %s", said, shown(folder))
    return error


def _remark_on_bandwidth(points: Points) -> None:
    """Log the bandwidth of the kernels beside the spacing of the points; warn where it hides structure."""
    said = f"the bandwidth is {points.bandwidth:.4g}"
    if math.isfinite(points.spacing):
        said += f"; half of the points have a neighbour within {points.spacing:.4g}"
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
    """Make the loggers, train, and end the W&B run; raise what ended a spawned rank in place of its parent's error."""
    trainer: Any = job.trainer
    try:
        trainer.loggers = [DummyLogger()] if trainer.fast_dev_run else job.builder.build_members("logger", Logger)
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
    """Remove callbacks that need a logger where there is none."""
    for callback in [] if trainer.loggers else [c for c in trainer.callbacks if isinstance(c, NEED_LOGGERS)]:
        log.info("no %s: there is no logger", type(callback).__name__)
        trainer.callbacks.remove(callback)


def _finish(trainer: L.Trainer, *, exit_code: int) -> None:
    """End the W&B run; otherwise the next job of this process would go on in it."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        wandb.finish(exit_code=exit_code)
