"""What the commands do, once their configuration is known: train, evaluate, sample."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from . import plotting
from .building import Builder, Refusal, fill_automatic
from .callbacks import RunSummary
from .checkpoints import AtomicCheckpointIO, latest_checkpoint, read_checkpoint, remove_parts, replacing
from .configuration import config_hash
from .data import StreamingDataModule
from .loggers import MetricsCSV
from .metrics import ScoreTest, off_support
from .module import NCSN
from .randomness import keyed_generator
from .runs import TRUSTED, Run, load_run
from .samplers import Sampler
from .schedules import broken_guidelines

log = logging.getLogger(__name__)


@dataclass
class Job:
    """The objects of one training."""

    builder: Builder
    module: NCSN
    data: StreamingDataModule
    trainer: L.Trainer


def build(config: dict[str, Any], *, overrides: list[str], trust: tuple[str, ...] | None = None) -> Job:
    """Build every object of a training, except the loggers, which would leave traces.

    Raises:
        Refusal: naming every wrong value, a line each.
    """
    builder = Builder(config, trust=trust)
    if not isinstance(config.get("seed"), int) or not 0 <= config["seed"] < 2**32:
        builder.refuse(f"seed={config.get('seed')!r}: give a whole number from 0 to 4294967295")
        builder.check()
    L.seed_everything(config["seed"], verbose=False)
    fill_automatic(builder)
    parts = {name: builder.build(name) for name in ("schedule", "sampler", "module", "data", "callbacks")}
    _check_trainer(builder)
    builder.check()
    try:
        parts["sampler"].check(parts["schedule"].sigmas)
    except ValueError as error:
        builder.refuse(f"sampler.{error}")
    if parts["module"].compiles and not issubclass(parts["module"].optimizer.func, torch.optim.Adam):
        builder.refuse("compile=true: it knows the update of Adam and AdamW alone; choose optimizer=adam or adamw")
    builder.check()
    settled = OmegaConf.to_container(builder.config, resolve=False)
    assert isinstance(settled, dict)
    parts["module"].config = settled
    summary = RunSummary(
        folder=settled["paths"]["folder"],
        seed=settled["seed"],
        overrides=overrides,
        config_hash=config_hash(settled),
    )
    trainer = _trainer(builder, [*parts["callbacks"].values(), summary])
    builder.check()
    return Job(builder, parts["module"], parts["data"], trainer)


def _check_trainer(builder: Builder) -> None:
    trainer = builder.config.trainer
    if trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        builder.refuse(f"trainer.accelerator={trainer.accelerator}: no GPU is visible here; use trainer=cpu")
    if trainer.get("precision") in ("16-mixed", "16"):
        builder.refuse(f"trainer.precision={trainer.precision}: losses are not rescaled here; use bf16-mixed or 32-true")


def _trainer(builder: Builder, callbacks: list[L.Callback]) -> Any:
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the stream is made in this process, faster
    warnings.filterwarnings("ignore", ".*LeafSpec.*deprecated.*")  # of lightning's own use of torch
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    options = OmegaConf.to_container(builder.config.trainer, resolve=True)
    assert isinstance(options, dict)
    try:
        return L.Trainer(
            **{str(key): value for key, value in options.items()},
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            logger=False,
            max_epochs=-1,
            log_every_n_steps=1,  # Lightning counts blocks here; the module keeps the cadence in optimiser steps
            num_sanity_val_steps=0,
            inference_mode=False,  # a score that is an energy differentiates while it samples
            enable_model_summary=False,
            default_root_dir=builder.config.paths.folder,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        builder.refuse(f"trainer: {str(error).splitlines()[0]}")
        return None


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
    remove_parts(folder)
    checkpoint, torn = latest_checkpoint(folder)
    for line in torn:
        log.warning("%s", line)
    log.info("resuming from %s", checkpoint or "the start: there is no whole checkpoint yet")
    return fit(build(plain, overrides=overrides, trust=(*TRUSTED, *trust)), checkpoint=checkpoint)


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
        trainer.loggers = list(job.builder.build("logger").values())
        job.builder.check()
        for logger in trainer.loggers:
            logger.log_hyperparams(config)
            if isinstance(logger, MetricsCSV):
                logger.rewind(read_checkpoint(checkpoint)["metrics_rows"] if checkpoint else 0)
        trainer.fit(module, datamodule=job.data, ckpt_path=checkpoint)
    finally:
        if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            wandb.finish()
    error = float(module.results.get("score_error", float("nan")))
    if trainer.is_global_zero:
        log.info("score error %.4g; pictures and numbers in %s", error, folder)
    return error


def _summary(trainer: Any) -> RunSummary:
    return next(callback for callback in trainer.callbacks if isinstance(callback, RunSummary))


def _sampler(run: Run, config: dict[str, Any]) -> Sampler:
    """The run's sampler, or the one the command line names."""
    if "sampler" not in config:
        return run.sampler
    builder = Builder(config)
    sampler: Sampler = builder.build("sampler")
    builder.check()
    try:
        sampler.check(run.schedule.sigmas)
    except ValueError as error:
        raise Refusal(f"sampler.{error}") from error
    return sampler


def _draw(run: Run, sampler: Sampler, score: Any, *, n: int, seed: int) -> Tensor:
    x = sampler.start(n, run.distribution, float(run.schedule.sigmas[0]), generator=keyed_generator(seed, "start"))
    return sampler(score, x, run.schedule.sigmas, generator=keyed_generator(seed, "samples"))


def _check_counts(config: dict[str, Any], *names: str) -> None:
    wrong = [f"{name}={config[name]!r}: give a whole number of at least 1" for name in names if not _is_count(config[name])]
    if not isinstance(config["seed"], int) or config["seed"] < 0:
        wrong.append(f"seed={config['seed']!r}: give a whole number of at least 0")
    if wrong:
        raise Refusal("\n".join(wrong))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def sample(config: dict[str, Any]) -> Path:
    """Draw samples from a run into `out` (.npz with key `x`, or .csv), and a picture beside it."""
    _check_counts(config, "n")
    out = Path(config["out"])
    if out.suffix not in (".npz", ".csv"):
        raise Refusal(f"out={out}: give a name that ends in .npz or .csv")
    run = load_run(config["run"], trust=tuple(config["trust"]))
    sampler = _sampler(run, config)
    x = _draw(run, sampler, run.score, n=config["n"], seed=config["seed"])
    with replacing(out) as path:
        if out.suffix == ".npz":
            np.savez(path, x=x.numpy())
        else:
            np.savetxt(path, x.numpy(), delimiter=",", header="x1,x2", comments="")
    with replacing(out.with_suffix(".png")) as path:
        path.write_bytes(plotting.png(plotting.plot_samples(run.distribution, x)))
    log.info("%d samples in %s, a picture in %s", len(x), out, out.with_suffix(".png"))
    return out


def evaluate(config: dict[str, Any]) -> dict[str, Any]:
    """Print how wrong a run's score is at each level, and its samples beside those of the exact score."""
    _check_counts(config, "n", "num_levels")
    run = load_run(config["run"], trust=tuple(config["trust"]))
    sampler = _sampler(run, config)
    grid = run.config["score_test"]
    ends = {end: config[end] if config[end] is not None else grid[end] for end in ("sigma_min", "sigma_max")}
    test = ScoreTest(distribution=run.distribution, num_levels=config["num_levels"], num_points=10000, **ends)
    errors = test(run.score)
    numbers: dict[str, Any] = {
        "score_error": float(errors.relative.mean()),
        "score_error_per_level": dict(
            zip((f"{s:.4g}" for s in errors.sigmas.tolist()), errors.relative.tolist(), strict=True)
        ),
        "off_support": {
            name: off_support(run.distribution, _draw(run, sampler, score, n=config["n"], seed=config["seed"]))
            for name, score in (("network", run.score), ("exact score", run.distribution.score))
        },
    }
    _print(numbers)
    if config["out"] is not None:
        with replacing(config["out"]) as path:
            path.write_text(json.dumps(numbers, indent=2) + "\n")
    return numbers


def _print(numbers: dict[str, Any]) -> None:
    console = Console()
    table = Table("σ (data units)", "E‖s_θ−s‖² / E‖s‖²", title="relative score error")
    for sigma, error in numbers["score_error_per_level"].items():
        table.add_row(sigma, f"{error:.3g}")
    table.add_section()
    table.add_row("mean", f"{numbers['score_error']:.3g}")
    console.print(table)
    for name, share in numbers["off_support"].items():
        console.print(f"samples off the support, {name} with this sampler: {share:.2%}")
