"""Stop a run whose folder has become another process's."""

from __future__ import annotations

from pathlib import Path

from ..loops import BlockCallback


class LeaseLost(RuntimeError):  # noqa: N818  (it names what happened)
    """Another process has taken the run over, and has the last word about it."""


class LeaseGuard(BlockCallback):
    """End the run with `LeaseLost` at the first block after it was taken over.

    Args:
        successor: a file that exists once it was.
    """

    def __init__(self, successor: Path) -> None:
        self.successor = successor

    def on_train_batch_start(self, *_: object) -> None:
        if self.successor.exists():
            raise LeaseLost("this process slept for too long; another one has taken the job over")
