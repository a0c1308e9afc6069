"""Stop a run whose loss has left all bounds, before a checkpoint can hold it."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch

from ..arguments import Positive, strict
from ..module import NCSN


class Diverged(RuntimeError):  # noqa: N818  (it names the status of a run)
    """The loss or the weights are not finite, or the loss has run away."""


class DivergenceGuard(L.Callback):
    """End the run with `Diverged` at the first block with a non-finite or runaway loss, or non-finite weights.

    Checkpoints are written after this callback, so the last one is good.

    Args:
        factor: how many times the largest loss of the first ten blocks (at least 1) is a runaway.
    """

    @strict
    def __init__(self, *, factor: Positive) -> None:
        self.factor = factor
        self.seen = 0
        self.usual = 1.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, NCSN)
        loss = abs(float(outputs["loss"]))
        if not self.seen:  # a weighting may make any size of loss usual
            self.usual = max(self.usual, loss)
        if not math.isfinite(loss) or loss > self.factor * self.usual or not _finite(pl_module):
            raise Diverged(
                f"diverged by step {trainer.global_step}: loss {loss:.3g}, usual {self.usual:.3g}; "
                "lower optimizer.lr, or give small σ less weight (weighting=inverse_variance)"
            )
        if self.seen < 10:
            self.seen, self.usual = self.seen + 1, max(self.usual, loss)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "usual": self.usual}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.usual = state_dict["seen"], state_dict["usual"]


def _finite(module: NCSN) -> bool:
    norms = torch._foreach_norm([p.detach() for p in module.parameters()])
    return bool(torch.stack(list(norms)).isfinite().all())
