"""The record of a run: its configuration goes into its checkpoints, its results into `summary.json`."""

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
    """Puts the configuration of a run into its checkpoints, and writes `summary.json` when it ends, in whatever way.

    Keys of the summary: status, seed, steps, wall_time and training_time (seconds, over all resumptions), metrics,
    overrides, config_hash, versions, revision, error. Metrics are the last losses and the results of callbacks.

    Args:
        config: the plain configuration, with `seed`, `config_hash` and `paths.folder`.
        files: the contents of the files that the configuration names; with them a checkpoint can be used alone.
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
        """The results of the trainer's callbacks."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        found = (callback.results for callback in callbacks if isinstance(callback, MeasuringCallback))
        return {name: value for results in found for name, value in results.items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the training time."""
        self.train_started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of the training time."""
        self._clock()
        self.train_started = None

    def _clock(self) -> None:
        """Add the time since the last call to the training time, while the training runs."""
        if self.train_started is not None:
            now = time.perf_counter()
            self.training_time += now - self.train_started
            self.train_started = now

    def state_dict(self) -> dict[str, Any]:
        """The seconds that the run has taken so far, for the checkpoint."""
        self._clock()
        return {"wall_time": self._wall_time(), "training_time": self.training_time}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the seconds of the run that is resumed."""
        self.earlier, self.training_time = state_dict["wall_time"], state_dict["training_time"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the configuration, the last losses and the length of `metrics.csv` to a checkpoint."""
        checkpoint |= {"config": self.config, "files": self.files, "overrides": self.overrides, "centred": True}
        checkpoint["losses"] = self._losses(trainer)
        for logger in trainer.loggers:  # the logs on disk must reach as far as the checkpoint
            logger.save()
        checkpoint["metrics_rows"] = sum(logger.rows for logger in trainer.loggers if isinstance(logger, MetricsCSV))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the last losses of the run that is resumed."""
        self.losses = checkpoint["losses"]

    def _losses(self, trainer: L.Trainer) -> dict[str, float]:
        """The losses that were logged last, by this process or by one before it."""
        return self.losses | {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("loss/")}

    def _wall_time(self) -> float:
        return self.earlier + time.perf_counter() - self.started

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the summary of a finished run."""
        self._write(trainer, "finished", None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the summary of a run that an exception ended, unless another process has the run."""
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
    """The status of a run that an exception ended; `preempted` means that it was asked to stop."""
    if isinstance(exception, Diverged):
        return "diverged"
    stopped = isinstance(exception, Preempted | Stopped | KeyboardInterrupt) or has_stopped()
    return "preempted" if stopped else "failed"


ENDS_OF_RANKS = (Diverged, Preempted, LeaseLost)
"""The exceptions of our own that may end a rank."""


def original(error: BaseException) -> BaseException:
    """The exception among `ENDS_OF_RANKS` that ended a rank, where `error` is its parent's; else `error` itself."""
    name, message = raised_in_rank(error)
    return next((kind(message) for kind in ENDS_OF_RANKS if name == f"{kind.__module__}.{kind.__name__}"), error)
