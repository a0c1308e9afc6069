"""The commands `ncsn-train`, `ncsn-evaluate` and `ncsn-sample`, which end with one clear line if an argument is wrong.

Torch is imported only once a configuration has been composed, so that help and refusals appear at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.util import _run_finalizers  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from .config.help import help_text
from .config.messages import FULL, log_files, one_line
from .config.overrides import (
    as_text,
    check_choices,
    check_launcher,
    check_no_sweep,
    expand_home,
    options_first,
    refused_overrides,
    refused_settings,
)
from .config.plain import Refusal, config_folder, config_hash, packages, plain, read_config, write_config
from .core import signals
from .core.lease import STALE, WATCH, Holder, Lease, holder, take
from .core.signals import Preempted, Stopped, is_first_rank
from .evaluation import precheck
from .runs.failure import write_summary_on_failure
from .runs.summary import read_summary, said_version
from .sweeps import job

log = logging.getLogger(__name__)

Task = Callable[[DictConfig], Any]


def train() -> None:
    """Train a network: `ncsn-train group=option key=value …`, `-m` for a sweep, `resume=FOLDER` to go on."""
    if any(argument.lstrip("+").startswith("resume=") for argument in sys.argv[1:]):
        _guarded("train", lambda: _resume([argument.lstrip("+") for argument in sys.argv[1:]]))
    else:
        _run("train", _train)


def evaluate() -> None:
    """Measure a run against the truth: `ncsn-evaluate run=FOLDER`."""
    _run("evaluate", _evaluate)


def sample() -> None:
    """Draw from a run: `ncsn-sample run=FOLDER n=10000 out=samples.npz`."""
    _run("sample", _sample)


def _train(cfg: DictConfig) -> float | str:
    """Train one run, or one job of a sweep, and return its score error.

    A run writes its `config.yaml` before torch is imported, because from then on it can be resumed.
    """
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    overrides: Any = OmegaConf.to_container(settings.overrides.task, resolve=False)

    def compose() -> dict[str, Any]:
        return {**plain(cfg), "run_id": "-".join(folder.parts[-2:])}

    if settings.runtime.choices["hydra/sweeper"] == "resuming" and settings.mode == RunMode.MULTIRUN:
        return job.run(lambda: job.with_names(compose(), folder), overrides=overrides, folder=folder)
    with _removing_if_refused(folder):
        if sweep := settings.runtime.choices.get("sweep"):
            raise Refusal(f"sweep={sweep}: this runs one job; add -m for all of the sweep")
        config = compose()
        if begun := (folder / "config.yaml").is_file():  # a job that Slurm has started again is resumed in its folder
            _check_same(folder, config)
        if (error := _finished_before(folder)) is not None:
            return error
        with _held(folder, f"hydra.run.dir={folder}", overrides) as guards:
            if not begun and is_first_rank():
                write_config(folder, {"config_hash": config_hash(config), **config}, overrides)
            try:
                from .config.precheck import refused

                if lines := refused(config, overrides=overrides):
                    raise Refusal("\n".join(lines))
                from .runs import lifecycle

                return lifecycle.go_on(config, overrides=overrides, begun=begun, callbacks=guards())
            except Refusal:
                if not begun and is_first_rank():
                    (folder / "config.yaml").unlink(missing_ok=True)
                raise


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
    precheck.check(config, **precheck.EVALUATE)
    from .evaluation import commands

    commands.evaluate(config)


def _sample(cfg: DictConfig) -> None:
    config = plain(cfg)
    precheck.check(config, **precheck.SAMPLE)
    from .evaluation import commands

    commands.sample(config)


def _resume(arguments: list[str]) -> None:
    """Go on with a run in its own folder, or with more steps in a new folder beside it."""
    known = ("resume=", "trust=", "loop=", "trainer.max_steps=", "hydra.run.dir=")
    given = dict(argument.split("=", 1) for argument in arguments if argument.startswith(known))
    if others := [argument for argument in arguments if argument.partition("=")[0] not in given]:
        raise Refusal(
            f"{' '.join(others)}: a resumed run has its own configuration, but for trainer.max_steps and loop; "
            "leave this out"
        )
    source, folder = _places(given)
    new = source != folder
    FoldersBefore.found = {path for path in (folder, *folder.parents) if path.exists()}  # a refusal keeps these
    with _removing_if_refused(folder):
        if read_summary(folder).get("status") == "finished":  # then there is nothing to train
            _log_as_hydra(folder / "train.log")
            _finished_before(folder)
            return
        with _held(folder, f"resume={given['resume']}", [f"resume={given['resume']}"]) as guards:
            from .runs import lifecycle

            if new and not (folder / "config.yaml").is_file():
                lifecycle.fork(source, folder, max_steps=_steps(given))
            _log_as_hydra(folder / "train.log")
            lifecycle.resume(folder, loop=given.get("loop"), trust=packages(given.get("trust", "")), callbacks=guards())


def _log_as_hydra(path: Path) -> None:
    """Write the log to the console and into a file."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(path)):
        handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
        root.addHandler(handler)


def _places(given: dict[str, str]) -> tuple[Path, Path]:
    """The place from which a run is resumed, a folder or a checkpoint, and the folder in which it goes on.

    A run goes on in its own folder unless `trainer.max_steps` gives it another number of steps.

    Raises:
        Refusal: there is no run, or another folder is named without another number of steps.
    """
    named, path = f"resume={given['resume']}", Path(as_text(given["resume"])).expanduser().absolute()
    if (path / "sweep.json").is_file():
        raise Refusal(f"{named}: a sweep; give the command that began it again, and it goes on")
    if path.is_file() and path.parent.name == "checkpoints":
        path = path.parents[1]  # the run ends the same from any of its checkpoints, so the furthest is as good
    if not path.is_file() and not (path / "config.yaml").is_file() and not [*path.glob("checkpoints/*.ckpt")]:
        raise Refusal(f"{named}: no run's folder, nor a checkpoint; give one of outputs/runs")
    steps = _steps(given)
    own = path.with_suffix("") if path.is_file() else path
    if steps is not None:
        own = own.with_name(f"{own.name}-{steps}")
    if "hydra.run.dir" in given:
        if steps is None and not path.is_file():
            raise Refusal(
                "hydra.run.dir: a resumed run goes on in its folder; leave this out, or give trainer.max_steps"
            )
        own = Path(given["hydra.run.dir"]).expanduser().absolute()
    held = read_config(own, named=named) if (own / "config.yaml").is_file() else None
    if own != path and held and steps is not None and held["trainer"].get("max_steps") != steps:
        raise Refusal(f"hydra.run.dir={own}: holds a run of another configuration; choose another folder")
    if own != path and own.exists() and held is None:
        raise Refusal(f"{own}: is there already, and holds no run; give another folder, hydra.run.dir=…")
    return path, own


def _steps(given: dict[str, str]) -> int | None:
    """The number that `trainer.max_steps=…` gives; None if it is not among the arguments."""
    text = given.get("trainer.max_steps")
    if text is not None and not (text.isdecimal() and int(text) > 0):
        raise Refusal(f"trainer.max_steps={text}: give a whole number of at least 1")
    return None if text is None else int(text)


@contextmanager
def _held(folder: Path, named: str, overrides: list[str]) -> Iterator[Callable[[], list[Any]]]:
    """Hold the lease of a run, and write a summary if the run fails.

    Args:
        folder: of the run.
        named: the argument that names the run, with which the message of a refusal begins.
        overrides: the command line, for the summary.

    Yields:
        A function that makes the callbacks that stop the training if the lease is lost; it imports Lightning.

    Raises:
        Refusal: another process trains this run.
    """
    if not is_first_rank():  # other ranks follow the first one, which holds the lease
        with write_summary_on_failure(folder, overrides, None):
            yield list
        return
    lease = take(folder, waiting=_say_waiting)
    if lease is None:
        found = holder(folder)
        who = f"process {found.pid} on {found.host}" if found and found.pid else "another process"
        raise Refusal(f"{named}: {who} trains this run; leave it to that one")
    signals.remember(f"go on with resume={folder}")
    with lease, _explaining_failure(folder), write_summary_on_failure(folder, overrides, lease):
        yield lambda: _guards(lease)


def _guards(lease: Lease) -> list[Any]:
    from .training.callbacks.lease import LeaseGuard

    return [LeaseGuard(lease)]


def _say_waiting(found: Holder) -> None:
    text = "process %d on %s has been silent for %d s; another %d s will show whether it lives"
    log.warning(text, found.pid, found.host, STALE, WATCH)


def _run(command: str, task: Task) -> None:
    """Run a task on the configuration that Hydra composes from the command line, or print help or the version."""

    def quiet(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs of a sweep run on
                raise
            _exit(error)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors to us in place of printing them
    main = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)(quiet)

    def checked() -> None:
        FoldersBefore.found = set()
        sys.argv[1:] = options_first([expand_home(argument) for argument in sys.argv[1:]])
        check_launcher(sys.argv[1:])
        check_choices(command, sys.argv[1:])
        check_no_sweep(command, sys.argv[1:])
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
    """Carry out a command so that it answers signals, and ends with one line and an exit code if it fails."""
    logging.raiseExceptions = False  # a log that cannot be written, as on a full disk, is no further error
    _open_streams()
    # No command shows a window, and the backend that a notebook hands down may not be installed here.
    os.environ["MPLBACKEND"] = "agg"
    try:
        with signals.listening(), _remembering_working_folder():
            signals.remember("the same command begins again")
            _carry_out(command, action)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, `head` for example, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's last flush succeeds
        sys.exit(128 + signal.SIGPIPE)


def _carry_out(command: str, action: Callable[[], Any]) -> None:
    """Carry out an action; turn every error but a broken pipe into one line and an exit code."""
    try:
        action()
    except BrokenPipeError:
        raise
    except Stopped:
        _leave(f"stopped; {signals.remedy()}")
    except Refusal as error:
        _leave(str(error))
    except Exception as error:
        if isinstance(error, HydraException | ValueError) and (lines := refused_overrides(command, sys.argv[1:])):
            _leave("\n".join(lines))
        if line := refused_settings(error, sys.argv[1:]):
            FoldersBefore.forget(FoldersBefore.folder)
            _leave(line)
        _exit(error)


def _exit(error: Exception) -> NoReturn:
    _leave(one_line(error), quietly=isinstance(error, Preempted))


def _leave(line: str, *, quietly: bool = True) -> NoReturn:
    """End the process with a line on the error stream.

    Args:
        line: says what is wrong.
        quietly: whether a later rank that was asked to stop ends without an error.
    """
    if signals.has_stopped():  # other code may have turned that exception into another one
        line = f"stopped; {signals.remedy()}"
    if signals.asked() and quietly and not is_first_rank():
        sys.exit(0)  # if a rank failed, the launcher would kill the first one before it has saved
    if (code := signals.exit_code()) == 1:
        sys.exit(line)
    print(line, file=sys.stderr, flush=True)
    logging.shutdown()
    _run_finalizers(0)  # joblib's, or its tracker of semaphores would complain after the last line
    os._exit(code)  # exit handlers of other packages may take longer than a person waits


@contextmanager
def _remembering_working_folder() -> Iterator[None]:
    """Let `os.getcwd` return the name of the working folder even after somebody has removed the folder."""
    ask = os.getcwd
    try:
        place = ask()
    except FileNotFoundError:
        sys.exit("the working folder has been removed; go to another one, for example by cd ~")

    def answer() -> str:
        try:
            return ask()
        except FileNotFoundError:
            return place

    os.getcwd = answer
    try:
        yield
    finally:
        os.getcwd = ask


def _open_streams() -> None:
    """Open the standard streams on the null device if the process was started without them."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:  # without this, the next file to be opened would become the stream
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


@contextmanager
def _explaining_failure(folder: Path) -> Iterator[None]:
    """Add to an error where its traceback is; after an error of a full disk, say how to go on."""
    try:
        yield
    except (Refusal, Stopped):
        raise
    except BaseException as error:
        error.add_note(f"the traceback is in {folder / 'train.log'}")
        if isinstance(error, OSError) and error.errno in FULL:
            raise OSError(f"{folder}: {error.strerror}; make room, then go on with resume={folder}") from error
        raise


@contextmanager
def _removing_if_refused(folder: Path) -> Iterator[None]:
    """Remove the folder of a run that is refused, if this command has made it."""
    try:
        yield
    except Refusal:
        FoldersBefore.forget(folder)
        raise


class FoldersBefore(Callback):
    """Hydra's callback that notes which folders exist before Hydra makes that of a run.

    So if the run is refused, everything that was made for it can be removed.
    """

    found: ClassVar[set[Path]] = set()
    folder: ClassVar[Path] = Path()

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Note the folders that exist, and expand a `~` in the name of the run's folder, before Hydra makes it."""
        HydraConfig.instance().set_config(config)  # the folder's name refers to it; Hydra sets it a moment later
        try:
            given = str(OmegaConf.select(config, "hydra.run.dir"))
        except OmegaConfBaseException:  # Hydra will refuse this name itself
            return
        folder = Path(given).expanduser().absolute()
        if given.startswith("~"):  # Hydra would make a folder of that name
            with read_write(config.hydra):
                config.hydra.run.dir = str(folder)
        FoldersBefore.folder = folder
        FoldersBefore.found = {path for path in (folder, *folder.parents, *folder.glob("*")) if path.exists()}

    @classmethod
    def forget(cls, folder: Path) -> None:
        """Remove a folder that is new and held by no other process, with its parents that are new and empty then."""
        if folder in cls.found or not cls.found or not is_first_rank():
            return
        if (last := holder(folder)) and not (last.is_here() and last.pid == os.getpid()):
            return  # whoever began at the same moment has it
        for handler in log_files():
            handler.close()
            logging.getLogger().removeHandler(handler)
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents:
            if parent in cls.found or any(parent.iterdir()):
                return
            parent.rmdir()
