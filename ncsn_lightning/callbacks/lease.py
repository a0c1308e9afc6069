"""Stop a run whose folder has become another process's."""

from __future__ import annotations

from typing import Any

from ..lease import Lease, LeaseLost, follows
from ..loops import BlockCallback


class LeaseGuard(BlockCallback):
    """End the run with `LeaseLost` at the first block after it was taken over; a holder in doubt waits until it knows.

    A spawned rank has no lease, but its parent's number to look at; the parent keeps that alive.

    Args:
        lease: of the run.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease: Lease | None = lease
        self.path = lease.path

    def __getstate__(self) -> dict[str, Any]:
        return {"lease": None, "path": self.path}

    def on_train_batch_start(self, *_: object) -> None:
        if self.lease:
            self.lease.demand()
        elif follows(self.path):
            raise LeaseLost("another process has taken the run over")
