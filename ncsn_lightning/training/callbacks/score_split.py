"""Which part of the score's error moves the marginals, at some validations and at the end."""

from __future__ import annotations

import lightning as L

from ...core.validation import Count, strict
from ...metrics.split import ScoreShares, ScoreSplit
from .measuring import MeasuringCallback, measured


class ScoreErrorParts(MeasuringCallback):
    """Log the gradient and the divergence-free part of the relative score error, means over the levels that resolve.

    Args:
        split: levels and grids, the same at every validation.
        every_n_epochs: validations from one measurement to the next.
    """

    @strict
    def __init__(self, *, split: ScoreSplit, every_n_epochs: Count) -> None:
        super().__init__()
        self.split, self.every_n_epochs = split, every_n_epochs

    def shares(self, module: L.LightningModule) -> ScoreShares:
        """The parts of the error of the module's score with its present weights."""
        with measured(module, on_cpu=True) as score:
            return self.split(score)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the mean of each part, every `every_n_epochs` epochs."""
        if not trainer.sanity_checking and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            means = {f"score_error/{name}": value for name, value in self.shares(pl_module).means.items()}
            pl_module.log_dict({**means, "step": float(trainer.global_step)})

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the parts, per level and as means, for the summary."""
        shares = self.shares(pl_module)
        for name, value in shares.means.items():
            self.results[f"score_error_{name}"] = value
        self.results["score_error_gradient_per_level"] = shares.gradient_per_level
        self.results["score_error_divergence_free_per_level"] = shares.divergence_free_per_level
