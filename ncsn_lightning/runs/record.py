"""The facts of a run: what it was made of, in its checkpoints; what became of it, in `summary.json`."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from ..core.lease import LeaseLost
from ..core.signals import Preempted, Stopped, has_stopped
from ..training.callbacks.divergence import Diverged
from ..training.callbacks.measuring import MeasuringCallback
from ..training.internals import raised_in_rank
from ..training.loggers import MetricsCSV, summarize
from .summary import Status, write_summary


class RunRecord(L.Callback):
    """Owns the facts of a run, puts them into its checkpoints, and writes `summary.json` when it ends, in whatever way.

    Keys of the summary: status, seed, steps, wall_time and training_time (seconds, over all resumptions), metrics,
    overrides, config_hash, versions, revision, error. Metrics are the last losses and what callbacks have found.

    Args:
        config: the plain configuration, with `seed`, `config_hash` and `paths.folder`, kept in checkpoints.
        files: contents of the files that it names, kept likewise, so that a checkpoint alone suffices.
        overrides: the command line.
    """

    def __init__(self, *, config: dict[str, Any], files: dict[str, Tensor | None], overrides: list[str]) -> None:
        self.config, self.files, self.overrides = config, files, overrides
        self.folder = Path(config["paths"]["folder"])
        self.started = time.perf_counter()
        self.train_started: float | None = None
        self.earlier = 0.0
        self.training_time = 0.0
        self.losses: dict[str, float] = {}

    def results(self, trainer: L.Trainer) -> dict[str, Any]:
        """What the trainer's callbacks have found."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        found = (callback.results for callback in callbacks if isinstance(callback, MeasuringCallback))
        return {name: value for results in found for name, value in results.items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.train_started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._clock()
        self.train_started = None

    def _clock(self) -> None:
        if self.train_started is not None:
            now = time.perf_counter()
            self.training_time += now - self.train_started
            self.train_started = now

    def state_dict(self) -> dict[str, Any]:
        self._clock()
        return {"wall_time": self._wall_time(), "training_time": self.training_time}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier, self.training_time = state_dict["wall_time"], state_dict["training_time"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        told = {"config": self.config, "files": self.files, "overrides": self.overrides}
        checkpoint |= {**told, "centred": True}
        checkpoint["losses"] = self._losses(trainer)
        for logger in trainer.loggers:  # what is on disk goes as far as the checkpoint
            logger.save()
        checkpoint["metrics_rows"] = sum(logger.rows for logger in trainer.loggers if isinstance(logger, MetricsCSV))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.losses = checkpoint["losses"]

    def _losses(self, trainer: L.Trainer) -> dict[str, float]:
        """The last ones logged, by this process or before it."""
        return self.losses | {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("loss/")}

    def _wall_time(self) -> float:
        return self.earlier + time.perf_counter() - self.started

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, "finished", None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(original(exception), LeaseLost):
            return
        status = status_of(original(exception))
        error = str(original(exception)) if status == "preempted" else "".join(traceback.format_exception(exception))
        self._write(trainer, status, error)

    def _write(self, trainer: L.Trainer, status: Status, error: str | None) -> None:
        if not trainer.is_global_zero:
            return
        self._clock()
        metrics = {**self._losses(trainer), "training_time": self.training_time, **self.results(trainer)}
        for logger in trainer.loggers:
            summarize(logger, {k: v for k, v in metrics.items() if isinstance(v, float)}, trainer.global_step)
        write_summary(
            self.folder,
            status=status,
            steps=trainer.global_step,
            wall_time=self._wall_time(),
            metrics=metrics,
            seed=self.config["seed"],
            overrides=self.overrides,
            config_hash=self.config["config_hash"],
            error=error,
        )


def status_of(exception: BaseException) -> Status:
    """How a run ended that an exception ended; `preempted` means that someone stopped it."""
    if isinstance(exception, Diverged):
        return "diverged"
    stopped = isinstance(exception, Preempted | Stopped | KeyboardInterrupt) or has_stopped()
    return "preempted" if stopped else "failed"


ENDS_OF_RANKS = (Diverged, Preempted, LeaseLost)


def original(error: BaseException) -> BaseException:
    """The one of `ENDS_OF_RANKS` that a rank ended with, where `error` is its parent's; else `error` itself."""
    name, message = raised_in_rank(error)
    return next((kind(message) for kind in ENDS_OF_RANKS if name == f"{kind.__module__}.{kind.__name__}"), error)
