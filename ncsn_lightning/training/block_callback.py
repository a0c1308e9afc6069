"""A callback that need not see every optimiser step."""

from __future__ import annotations

import lightning as L


class BlockCallback(L.Callback):
    """A callback whose batch hooks need only be called once a block, so that the fast loop may run.

    In `on_train_batch_end`, `outputs["loss"]` holds the losses of all steps of the block.

    Attributes:
        every_n_steps: a block must end at every multiple of this number of optimiser steps; 0 for no such wish.
    """

    every_n_steps: int = 0
