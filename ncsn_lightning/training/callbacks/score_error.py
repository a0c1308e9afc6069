"""The error of the score at each noise level, against the exact one, at every validation."""

from __future__ import annotations

import lightning as L
import torch

from ...core.validation import strict
from ...metrics.score_error import ScoreErrors, ScoreTest
from ..loggers import log_table
from .measuring import MeasuringCallback, measured


class ScoreError(MeasuringCallback):
    """Log E‖s_θ − s‖² / E‖s‖² at each level, and its mean, `score_error`.

    Args:
        test: the points and levels, which are the same at every validation and for every schedule.
    """

    @strict
    def __init__(self, *, test: ScoreTest) -> None:
        super().__init__()
        self.test = test
        self._latest: tuple[int, ScoreErrors] | None = None

    def errors(self, module: L.LightningModule) -> ScoreErrors:
        """The errors of the module's score with its present weights, measured once for each step."""
        step = module.global_step
        if self._latest is None or self._latest[0] != step:
            with measured(module) as score:
                self._latest = step, self.test.to(module.device)(score)
        return self._latest[1]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the results and the errors of another training's weights."""
        super().on_fit_start(trainer, pl_module)
        self._latest = None

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the error at each level and their mean."""
        errors = self.errors(pl_module)
        relative = {
            f"score_error/{sigma:.3g}": value
            for sigma, value in zip(errors.sigmas.tolist(), errors.relative.float(), strict=True)
        }
        pl_module.log_dict({**relative, "step": float(trainer.global_step)})  # the x axis of a validation
        pl_module.log("score_error", errors.relative.mean().float(), prog_bar=True)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the errors for the summary, and give the loggers a table of them."""
        errors = self.errors(pl_module)
        self.results["score_error"] = float(errors.relative.mean())
        self.results["score_error_per_level"] = errors.per_level
        self.results["fisher_error"] = float(errors.error.mean())
        rows = torch.stack([errors.sigmas, errors.relative], dim=-1).tolist()
        for logger in trainer.loggers:
            log_table(logger, "score_error_per_level", ["sigma", "relative_error"], rows, trainer.global_step)
