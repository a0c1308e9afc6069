"""The last word of a run: `summary.json`, whatever its end."""

from __future__ import annotations

import json
import platform
import subprocess
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import lightning as L

from ..arguments import Index, strict
from ..checkpoints import replacing
from ..loggers import summarize
from ..module import NCSN
from .divergence import Diverged
from .preemption import Preempted
from .spawned import original

Status = Literal["finished", "failed", "diverged", "preempted"]


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
        status = _status(original(exception))
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
        summary = {
            "status": status,
            "steps": trainer.global_step,
            "wall_time": self._wall_time(),
            "metrics": metrics,
            **self.facts,
            "versions": versions(),
            "revision": revision(),
            "error": error,
        }
        with replacing(self.folder / "summary.json") as path:
            path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def _status(exception: BaseException) -> Status:
    if isinstance(exception, Diverged):
        return "diverged"
    return "preempted" if isinstance(exception, Preempted) else "failed"


def versions() -> dict[str, str]:
    """Versions of Python and of what the numbers depend on."""
    packages = ("ncsn-lightning", "torch", "lightning", "hydra-core", "omegaconf", "wandb", "matplotlib")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def revision() -> str | None:
    """Git revision of a checkout, with `-dirty` where it was changed; None for an installed copy."""
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file():
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
