"""Training with Lightning: the module, the data module, the two loops, callbacks, loggers and checkpoints."""

from .block_callback import BlockCallback
from .data import Batch, StreamingDataModule
from .flat_adam import FlatAdam, FlatAdamW
from .loops import FastLoop
from .module import NCSN, HasScore

__all__ = [
    "NCSN",
    "Batch",
    "BlockCallback",
    "FastLoop",
    "FlatAdam",
    "FlatAdamW",
    "HasScore",
    "StreamingDataModule",
]
