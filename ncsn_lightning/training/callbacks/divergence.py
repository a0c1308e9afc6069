"""Stop a run that diverges, before a checkpoint holds its weights."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
from torch import Tensor

from ...core.validation import Positive, strict
from ..block_callback import BlockCallback

EARLY = 500
"""The first steps, whose largest loss counts as usual."""

REMEDY = "lower the learning rate (optimizer.lr), or give small σ less weight (weighting=inverse_variance)"


class Diverged(RuntimeError):  # noqa: N818  (it names the status of a run)
    """The loss or the weights are not finite, or the loss has run away."""


class DivergenceGuard(BlockCallback):
    """End the run with `Diverged` at the first non-finite or runaway loss, or before non-finite weights are saved.

    Args:
        factor: a loss is runaway beyond this many times the largest loss of the first `EARLY` steps (at least 1).
    """

    @strict
    def __init__(self, *, factor: Positive) -> None:
        self.factor = factor
        self.usual: float | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Raise `Diverged` at the first loss of the block that is not finite or runaway."""
        losses = _losses(outputs)
        for step, loss in enumerate(losses, trainer.global_step - len(losses) + 1):
            if self.usual is None:  # depending on the weighting, losses of any size are usual
                self.usual = max(1.0, abs(loss))
            if not math.isfinite(loss) or abs(loss) > self.factor * self.usual:
                raise Diverged(f"diverged at step {step}: loss {loss:.3g}, usual {self.usual:.3g}; {REMEDY}")
            if step <= EARLY:
                self.usual = max(self.usual, abs(loss))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raise `Diverged` instead of saving weights that are not finite."""
        self._check_weights(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raise `Diverged` where the last step has made weights that are not finite."""
        self._check_weights(trainer, pl_module)

    def _check_weights(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in module.parameters()):
            raise Diverged(f"diverged by step {trainer.global_step}: weights are not finite; {REMEDY}")

    def state_dict(self) -> dict[str, Any]:
        """The usual loss, so that a resumed run judges as this one does."""
        return {"usual": self.usual}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the usual loss of the run that is resumed."""
        self.usual = state_dict["usual"]


def _losses(outputs: Any) -> list[float]:
    """The losses in the `outputs` of `on_train_batch_end`: of one optimiser step or of all steps of a block."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    losses: list[float] = loss.detach().reshape(-1).tolist() if isinstance(loss, Tensor) else []
    return losses
