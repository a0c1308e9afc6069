"""The commands `ncsn-train`, `ncsn-evaluate` and `ncsn-sample`: arguments in, one clear line out where they are wrong.

Torch is imported only once a configuration stands, so that help and refusals answer at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
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
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from .configuration import Refusal, config_folder, config_hash, packages, plain, read_config
from .errors import FULL, log_error, log_files, one_line
from .evaluation import request
from .help import help_text
from .overrides import as_text, at_home, check_launcher, check_single, refused_overrides
from .preemption import Preempted, is_first_rank, listening
from .results import read_summary, said_version
from .sweeps import job
from .sweeps.lease import take

log = logging.getLogger(__name__)

Task = Callable[[DictConfig], Any]


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


def _train(cfg: DictConfig) -> float | str:
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    overrides: Any = OmegaConf.to_container(settings.overrides.task, resolve=False)

    def compose() -> dict[str, Any]:
        return {**plain(cfg), "run_id": "-".join(folder.parts[-2:])}

    if settings.runtime.choices["hydra/sweeper"] == "resuming" and settings.mode == RunMode.MULTIRUN:
        return job.run(lambda: job.named(compose(), folder), overrides=overrides, folder=folder)
    with listening(), _last_word(folder):
        if sweep := settings.runtime.choices.get("sweep"):
            raise Refusal(f"sweep={sweep}: this runs one job; add -m for all of the sweep")
        config = compose()
        if (folder / "config.yaml").is_file():  # a job that Slurm has started again goes on in its folder
            _check_same(folder, config)
            if (error := _finished_before(folder)) is not None:
                return error
        from . import precheck

        if lines := precheck.refused(config, overrides=overrides):
            raise Refusal("\n".join(lines))
        from . import jobs

        return jobs.go_on(config, overrides=overrides)


def _finished_before(folder: Path) -> float | None:
    """The score error of the finished run in a folder; None where it has not finished."""
    summary = read_summary(folder)
    if summary.get("status") != "finished":
        return None
    log.info("finished before; all that it left is in %s", folder)
    return float(summary["metrics"].get("score_error", "nan"))


def _check_same(folder: Path, config: dict[str, Any]) -> None:
    """Raise Refusal where the run in a folder has another configuration."""
    named = f"hydra.run.dir={folder}"
    if read_config(folder, named=named)["config_hash"] != config_hash(config):
        raise Refusal(f"{named}: holds a run of another configuration; choose another folder")


def _evaluate(cfg: DictConfig) -> None:
    config = plain(cfg)
    request.check(config, **request.EVALUATE)
    from .evaluation import commands

    commands.evaluate(config)


def _sample(cfg: DictConfig) -> None:
    config = plain(cfg)
    request.check(config, **request.SAMPLE)
    from .evaluation import commands

    commands.sample(config)


def _resume(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments if argument.startswith(("resume=", "trust=")))
    if others := [argument for argument in arguments if argument.partition("=")[0] not in given]:
        raise Refusal(f"{' '.join(others)}: a resumed run has its own configuration; leave this out")
    folder = Path(as_text(given["resume"])).expanduser().absolute()
    if (folder / "sweep.json").is_file():
        raise Refusal(f"resume={given['resume']}: a sweep; give the command that began it again, and it goes on")
    if not (folder / "config.yaml").is_file():
        raise Refusal(f"resume={given['resume']}: no run's folder, for it has no config.yaml; give one of outputs/runs")
    read_config(folder, named=f"resume={given['resume']}")
    FoldersBefore.found = {folder}  # which a refusal leaves
    with listening(), _held(folder, given["resume"]), _last_word(folder):
        handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "train.log")]
        as_hydra = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"
        logging.basicConfig(level=logging.INFO, format=as_hydra, handlers=handlers)
        if _finished_before(folder) is not None:
            return
        from . import jobs

        jobs.resume(folder, trust=packages(given.get("trust", "")))


@contextmanager
def _held(folder: Path, named: str) -> Iterator[None]:
    """Take a job of a sweep from whoever else might train it; the folder of a single run is nobody else's."""
    if not (folder / "lease").is_dir():
        yield
    elif lease := take(folder):
        with lease:
            yield
    else:
        raise Refusal(f"resume={named}: another process trains this job; leave it to that one")


def _run(command: str, task: Task) -> None:
    """Hand the command line to Hydra, and take back whatever it refuses."""

    def quiet(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # whose other jobs run on
                raise
            _exit(error)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors come here, not to its own printer
    main = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)(quiet)

    def checked() -> None:
        arguments = map(at_home, sys.argv[1:])
        sys.argv[1:] = sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))  # as argparse needs
        check_launcher(sys.argv[1:])
        check_single(command, sys.argv[1:])
        main()

    if "--version" in sys.argv[1:]:
        print(said_version())
    elif {"--help", "-h"} & set(sys.argv[1:]):
        program = Path(sys.argv[0]).name
        overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        _guarded(command, lambda: print(help_text(command, program, overrides)))
    else:
        _guarded(command, checked)


def _guarded(command: str, action: Callable[[], Any]) -> None:
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, is no second error
    try:
        action()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the interpreter's last flush succeeds
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except Refusal as error:
        sys.exit(str(error))
    except (HydraException, ValueError) as error:
        sys.exit("\n".join(refused_overrides(command, sys.argv[1:])) or one_line(error))
    except Exception as error:
        _exit(error)


def _exit(error: Exception) -> NoReturn:
    if isinstance(error, Preempted) and not is_first_rank():
        sys.exit(0)  # a rank that fails would take the first one with it, before that is done
    sys.exit(one_line(error))


@contextmanager
def _last_word(folder: Path) -> Iterator[None]:
    """Where a job ends badly: no folder if it was refused, else the traceback in its log."""
    try:
        yield
    except Refusal:
        FoldersBefore.forget(folder)
        raise
    except BaseException as error:
        log_error()
        error.add_note(f"the traceback is in {folder / 'train.log'}")
        if isinstance(error, OSError) and error.errno in FULL:
            raise OSError(f"{folder}: {error.strerror}; make room, then go on with resume={folder}") from error
        raise


class FoldersBefore(Callback):
    """Hydra's callback that notes what there was before it made a run's folder: a refused run leaves nothing else."""

    found: ClassVar[set[Path]] = set()

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        HydraConfig.instance().set_config(config)  # of which the folder's name is made; Hydra does it a moment later
        try:
            given = str(OmegaConf.select(config, "hydra.run.dir"))
        except OmegaConfBaseException:  # Hydra is about to refuse this name itself
            return
        folder = Path(given).expanduser().absolute()
        if given.startswith("~"):  # which Hydra would take for the name of a folder
            with read_write(config.hydra):
                config.hydra.run.dir = str(folder)
        FoldersBefore.found = {path for path in (folder, *folder.parents, *folder.glob("*")) if path.exists()}

    @classmethod
    def forget(cls, folder: Path) -> None:
        """Remove a folder and the parents that this leaves empty, as far as they are new."""
        if folder in cls.found or not cls.found or not is_first_rank():
            return
        for handler in log_files():
            handler.close()
            logging.getLogger().removeHandler(handler)
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents:
            if parent in cls.found or any(parent.iterdir()):
                return
            parent.rmdir()
