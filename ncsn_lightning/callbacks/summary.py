"""The last word of a run: `summary.json`, whatever its end."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

import lightning as L

from ..arguments import Index, strict
from ..loggers import summarize
from ..module import NCSN
from ..results import Status, write_summary
from .divergence import Diverged
from .lease import LeaseLost
from .preemption import Preempted
from .spawned import original


class RunSummary(L.Callback):
    """Write `summary.json` when the run ends, by its steps or by an exception.

    Keys: status, seed, steps, wall_time and training_time (seconds, over all resumptions), metrics, overrides,
    config_hash, versions, revision, error.

    Args:
        folder: the run's folder.
        seed: of the run.
        overrides: its command line.
        config_hash: names what can change its result.
    """

    @strict
    def __init__(self, *, folder: str, seed: Index, overrides: list[str], config_hash: str) -> None:
        self.folder = Path(folder)
        self.facts = {"seed": seed, "overrides": overrides, "config_hash": config_hash}
        self.started = time.perf_counter()
        self.train_started: float | None = None
        self.earlier = 0.0
        self.training_time = 0.0
        self.losses: dict[str, float] = {}

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
        checkpoint["losses"] = self._losses(trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.losses = checkpoint["losses"]

    def _losses(self, trainer: L.Trainer) -> dict[str, float]:
        """The last ones logged, by this process or before it."""
        return self.losses | {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("loss/")}

    def _wall_time(self) -> float:
        return self.earlier + time.perf_counter() - self.started

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, pl_module, "finished", None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, LeaseLost):
            return
        status = status_of(original(exception))
        error = str(original(exception)) if status == "preempted" else "".join(traceback.format_exception(exception))
        self._write(trainer, pl_module, status, error)

    def _write(self, trainer: L.Trainer, module: L.LightningModule, status: Status, error: str | None) -> None:
        assert isinstance(module, NCSN)
        if not trainer.is_global_zero:
            return
        self._clock()
        metrics = {**self._losses(trainer), "training_time": self.training_time, **module.results}
        for logger in trainer.loggers:
            summarize(logger, {k: v for k, v in metrics.items() if isinstance(v, float)}, trainer.global_step)
        write_summary(
            self.folder,
            status=status,
            steps=trainer.global_step,
            wall_time=self._wall_time(),
            metrics=metrics,
            **self.facts,
            error=error,
        )


def status_of(exception: BaseException) -> Status:
    """How a run ended that an exception ended; `preempted` means that someone stopped it."""
    if isinstance(exception, Diverged):
        return "diverged"
    return "preempted" if isinstance(exception, Preempted | KeyboardInterrupt) else "failed"
