"""Stop a run whose folder has become another process's."""

from __future__ import annotations

import os
from typing import Any

from ...core.lease import Lease, LeaseLost, holder
from ..block_callback import BlockCallback


class LeaseGuard(BlockCallback):
    """End the run with `LeaseLost` at the first block after it was taken over; a holder in doubt waits until it knows.

    A spawned rank has no lease, but its parent's numbers to look at; the parent keeps them alive.

    Args:
        lease: of the run.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease: Lease | None = lease
        self.folder, self.pid = lease.path.parents[1], os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lease": None}

    def on_train_batch_start(self, *_: object) -> None:
        if self.lease:
            self.lease.demand()
        elif (last := holder(self.folder)) and last.pid != self.pid:
            raise LeaseLost("another process has taken the run over")
