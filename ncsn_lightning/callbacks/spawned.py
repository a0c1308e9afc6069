"""What a rank that was a spawned process (`ddp_spawn`) died of: its parent is left with a traceback, as text."""

from __future__ import annotations

from ..internals import raised_in_rank
from ..lease import LeaseLost
from ..signals import Preempted
from .divergence import Diverged

KINDS = (Diverged, Preempted, LeaseLost)


def original(error: BaseException) -> BaseException:
    """The one of `KINDS` that a rank ended with, where `error` is its parent's; else `error` itself."""
    name, message = raised_in_rank(error)
    return next((kind(message) for kind in KINDS if name == f"{kind.__module__}.{kind.__name__}"), error)
