"""The callback that need not see every optimiser step."""

from __future__ import annotations

import lightning as L


class BlockCallback(L.Callback):
    """A callback whose batch hooks need not see every step: once a block is enough, and so the fast loop may run.

    In `on_train_batch_end`, `outputs["loss"]` holds the losses of all steps of the block.

    Attributes:
        every_n_steps: optimiser steps at whose multiples a block must end; 0 where any will do.
    """

    every_n_steps: int = 0
