"""Training with Lightning: the module, the data module, the two loops, callbacks, loggers and checkpoints.

Names are loaded on first use, for the optimisers need no Lightning, whose import takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .block_callback import BlockCallback
    from .data import Batch, StreamingDataModule
    from .flat_adam import FlatAdam, FlatAdamW
    from .loops import FastLoop
    from .module import NCSN, HasScore

_HOME_OF = {
    **dict.fromkeys(("NCSN", "HasScore"), "module"),
    **dict.fromkeys(("Batch", "StreamingDataModule"), "data"),
    **dict.fromkeys(("FlatAdam", "FlatAdamW"), "flat_adam"),
    "BlockCallback": "block_callback",
    "FastLoop": "loops",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
