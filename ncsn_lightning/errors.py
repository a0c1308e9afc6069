"""What is said about an error: one line to the user, the traceback to the log. Imports nothing slow."""

from __future__ import annotations

import errno
import logging
import sys

from omegaconf.errors import OmegaConfBaseException

from .configuration import Refusal
from .preemption import Preempted, is_first_rank

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a file system that takes no more."""


def one_line(error: BaseException) -> str:
    """What was wrong, for the user: a line for each wrong value."""
    if isinstance(error, Refusal):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return _system_line(error)
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    line = " ".join(str(error).split())
    ours = isinstance(error, ValueError | OSError) or type(error).__module__.startswith(f"{__package__}.")
    return line if ours and line else "; ".join([f"{type(error).__name__}: {line}", *getattr(error, "__notes__", ())])


def _system_line(error: OSError) -> str:
    if error.errno in FULL:
        return f"{error.filename or 'a file'}: {error.strerror}; make room"
    places = ("paths.root=", "hydra.run.dir=", "hydra.sweep.dir=", "resume=", "out=")
    place = next((argument for argument in sys.argv[1:] if argument.startswith(places)), error.filename)
    return f"{place}: cannot be used ({error.strerror}: {error.filename}); choose another place"


def log_error() -> None:
    """The error being handled, with its traceback, into the files of the log alone: the console has its one line."""
    error = sys.exc_info()
    if isinstance(error[1], Preempted):
        if not is_first_rank():
            return
        record = log.makeRecord(log.name, logging.INFO, __file__, 0, str(error[1]), (), None)
    else:
        record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "this job failed", (), error)
    for handler in log_files():
        handler.handle(record)


def log_files() -> list[logging.Handler]:
    """The handlers that write the log into files."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
