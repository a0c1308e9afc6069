"""Training with Lightning: the module, the data module, the two loops, callbacks, loggers and checkpoints.

Names are loaded on first use, for an optimiser is asked about its settings before Lightning is imported.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "block_callback": "BlockCallback",
    "data": "Batch StreamingDataModule",
    "flat_adam": "FlatAdam FlatAdamW",
    "loops": "FastLoop",
    "module": "NCSN HasScore",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
