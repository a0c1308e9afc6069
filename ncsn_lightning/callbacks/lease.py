"""Stop a run whose folder has become another process's."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L


class LeaseLost(RuntimeError):  # noqa: N818  (it names what happened)
    """Another process has taken the run over, and has the last word about it."""


class LeaseGuard(L.Callback):
    """End the run with `LeaseLost` at the first block after it was taken over.

    Args:
        lost: whether it was.
    """

    def __init__(self, lost: Callable[[], bool]) -> None:
        self.lost = lost

    def on_train_batch_start(self, *_: object) -> None:
        if self.lost():
            raise LeaseLost("this process slept for too long; another one has taken the job over")
