"""Stop a run whose folder another process has taken over."""

from __future__ import annotations

import os
from typing import Any

from ...core.lease import Lease, LeaseLost, holder
from ..block_callback import BlockCallback


class LeaseGuard(BlockCallback):
    """End the run with `LeaseLost` at the first block after another process has taken it over.

    A process that does not know whether it still holds the lease waits until it knows (`core/lease.py`). A spawned rank
    has no lease; it reads the files of its parent's, which the parent keeps alive.

    Args:
        lease: the run's.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease: Lease | None = lease
        self.folder, self.pid = lease.path.parents[1], os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lease": None}

    def on_train_batch_start(self, *_: object) -> None:
        """Raise `LeaseLost` where another process has the run."""
        if self.lease:
            self.lease.demand()
        elif (last := holder(self.folder)) and last.pid != self.pid:
            raise LeaseLost("another process has taken the run over")
