"""The commands `ncsn-train`, `ncsn-evaluate` and `ncsn-sample`: arguments in, one clear line out where they are wrong.

Torch is imported only once a configuration stands, so that help and refusals answer at once.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .configuration import Refusal, config_folder, packages, plain
from .overrides import refused_overrides
from .preemption import Preempted, is_first_rank, listening

log = logging.getLogger(__name__)

Task = Callable[[DictConfig], Any]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a file system that takes no more."""


def train() -> None:
    """Train a network: `ncsn-train group=option key=value …`, `-m` for a sweep, `resume=FOLDER` to go on."""
    if any(argument.startswith("resume=") for argument in sys.argv[1:]):
        _guarded("train", lambda: _resume(sys.argv[1:]))
    else:
        _run("train", _train)


def evaluate() -> None:
    """Measure a run against the truth: `ncsn-evaluate run=FOLDER`."""
    _run("evaluate", _evaluate)


def sample() -> None:
    """Draw from a run: `ncsn-sample run=FOLDER n=10000 out=samples.npz`."""
    _run("sample", _sample)


def _train(cfg: DictConfig) -> float:
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    with listening(), _last_word(folder):
        from . import jobs

        config, in_sweep = plain(cfg), settings.mode == RunMode.MULTIRUN
        config["run_id"] = "-".join(folder.parts[-2:])
        if in_sweep:
            config["group"] = config["group"] or Path(settings.sweep.dir).name
        return jobs.train(config, overrides=list(settings.overrides.task), in_sweep=in_sweep)


def _evaluate(cfg: DictConfig) -> None:
    from . import evaluation

    evaluation.evaluate(plain(cfg))


def _sample(cfg: DictConfig) -> None:
    from . import evaluation

    evaluation.sample(plain(cfg))


def _resume(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments if argument.startswith(("resume=", "trust=")))
    if others := [argument for argument in arguments if argument.partition("=")[0] not in given]:
        raise Refusal(f"{' '.join(others)}: a resumed run has its own configuration; leave this out")
    folder = Path(given["resume"]).absolute()
    if not (folder / "config.yaml").is_file():
        raise Refusal(f"resume={given['resume']}: no run's folder, for it has no config.yaml; give one of outputs/runs")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "train.log")]
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s] %(message)s", handlers=handlers)
    with listening(), _last_word(folder):
        from . import jobs

        jobs.resume(folder, trust=packages(given.get("trust", "")))


def _run(command: str, task: Task) -> None:
    """Hand the command line to Hydra, and take back whatever it refuses."""

    def quiet(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # whose other jobs run on
                log.error("%s", _one_line(error))
                raise
            _exit(error)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors come here, not to its own printer
    main = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)(quiet)
    try:
        _guarded(command, main)
    finally:
        FoldersBefore.tidy()


def _guarded(command: str, action: Callable[[], Any]) -> None:
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, is no second error
    try:
        action()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except Refusal as error:
        sys.exit(str(error))
    except (HydraException, ValueError) as error:
        sys.exit("\n".join(refused_overrides(command, sys.argv[1:])) or _one_line(error))
    except Exception as error:
        _exit(error)


def _exit(error: Exception) -> NoReturn:
    if isinstance(error, Preempted) and not is_first_rank():
        sys.exit(0)  # a rank that fails would take the first one with it, before that is done
    sys.exit(_one_line(error))


def _one_line(error: BaseException) -> str:
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


@contextmanager
def _last_word(folder: Path) -> Iterator[None]:
    """Where a job ends badly: no folder if it was refused, else the traceback in its log."""
    try:
        yield
    except Refusal:
        FoldersBefore.forget(folder)
        raise
    except Preempted as end:
        _log_in_files(str(end))
        raise
    except BaseException as error:
        _log_in_files("this job failed", with_traceback=True)
        error.add_note(f"the traceback is in {folder / 'train.log'}")
        if isinstance(error, OSError) and error.errno in FULL:
            raise OSError(f"{folder}: {error.strerror}; make room, then go on with resume={folder}") from error
        raise


def _log_in_files(message: str, *, with_traceback: bool = False) -> None:
    """Into the files alone: the console has its one line."""
    error = sys.exc_info() if with_traceback else None
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), error)
    for handler in _log_files():
        handler.handle(record)


def _log_files() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]


class FoldersBefore(Callback):
    """Hydra's callback that notes what there was before it made a run's folder: a refused run leaves nothing else."""

    found: ClassVar[set[Path]] = set()
    sweep: ClassVar[Path | None] = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        HydraConfig.instance().set_config(config)  # of which the folder's name is made; Hydra does it a moment later
        self._note(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        FoldersBefore.sweep = self._note(config, "hydra.sweep.dir")

    @staticmethod
    def _note(config: DictConfig, key: str) -> Path | None:
        try:
            folder = Path(OmegaConf.select(config, key)).absolute()
        except OmegaConfBaseException:  # Hydra is about to refuse this name itself
            return None
        FoldersBefore.found = {path for path in (folder, *folder.parents, *folder.glob("*")) if path.exists()}
        return folder

    @classmethod
    def forget(cls, folder: Path) -> None:
        """Remove a folder and the parents that this leaves empty, as far as they are new."""
        if folder in cls.found or not cls.found or not is_first_rank():
            return
        for handler in _log_files():
            handler.close()
            logging.getLogger().removeHandler(handler)
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents:
            if parent in cls.found or any(parent.iterdir()):
                return
            parent.rmdir()

    @classmethod
    def tidy(cls) -> None:
        """Remove the folder of a sweep that holds no job."""
        if cls.sweep and cls.sweep.is_dir() and [path.name for path in cls.sweep.iterdir()] == ["multirun.yaml"]:
            cls.forget(cls.sweep)
