"""Messages about errors: one line for the user, the traceback for the log. Imports nothing slow."""

from __future__ import annotations

import errno
import logging
import sys
import traceback

from omegaconf.errors import OmegaConfBaseException

from ..core.signals import Preempted, is_first_rank
from .plain import Refusal

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a file system that is full."""


def one_line(error: BaseException) -> str:
    """The message of an error for the user: one line, or for a Refusal one line for each wrong value.

    The type of the error is left out where its message was written for users: by this package, or as a ValueError or
    OSError without notes.
    """
    if isinstance(error, Refusal):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return _system_line(error)
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    line = " ".join(str(error).split())
    notes = getattr(error, "__notes__", [])
    for_users = isinstance(error, ValueError | OSError) and (not notes or _raised_here(error))
    if line and (for_users or type(error).__module__.startswith("ncsn_lightning.")):
        return line
    name = type(error).__name__
    return "; ".join([f"{name}: {line}" if line else name, *notes])


def _raised_here(error: BaseException) -> bool:
    """Whether the statement that raised an error is in this package, whose messages are meant for users."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).startswith("ncsn_lightning.")


def _system_line(error: OSError) -> str:
    if error.errno in FULL:
        return f"{error.filename or 'a file'}: {error.strerror}; make room"
    places = ("paths.root=", "hydra.run.dir=", "hydra.sweep.dir=", "resume=", "out=")
    place = next((argument for argument in sys.argv[1:] if argument.startswith(places)), error.filename)
    return f"{place}: cannot be used ({error.strerror}: {error.filename}); choose another place"


def log_error() -> None:
    """Write the error that is being handled, with its traceback, into the log files; the console shows one line."""
    failure = sys.exc_info()
    if stop := _stopped_by(failure[1]):
        record = log.makeRecord(log.name, logging.INFO, __file__, 0, stop, (), None)
    else:
        record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "this job failed", (), failure)
    for handler in log_files() if is_first_rank() or not stop else []:
        handler.handle(record)


def _stopped_by(error: BaseException | None) -> str:
    """A line that says why a job was stopped; empty for an error.

    Submitit raises SystemExit once it has requeued a job, and Ctrl-C raises what is no `Exception`.
    """
    if isinstance(error, SystemExit):
        return _stopped_by(error.__context__) or "requeued before it could begin"
    if isinstance(error, Preempted):
        return str(error)
    return "" if error is None or isinstance(error, Exception) else "stopped before its end"


def log_files() -> list[logging.Handler]:
    """The handlers that write the log into files."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
