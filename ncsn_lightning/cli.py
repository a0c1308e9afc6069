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

from .config.help import help_text
from .config.messages import FULL, log_files, one_line
from .config.overrides import (
    as_text,
    at_home,
    check_choices,
    check_launcher,
    check_single,
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
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    overrides: Any = OmegaConf.to_container(settings.overrides.task, resolve=False)

    def compose() -> dict[str, Any]:
        return {**plain(cfg), "run_id": "-".join(folder.parts[-2:])}

    if settings.runtime.choices["hydra/sweeper"] == "resuming" and settings.mode == RunMode.MULTIRUN:
        return job.run(lambda: job.named(compose(), folder), overrides=overrides, folder=folder)
    with _refusing(folder):
        if sweep := settings.runtime.choices.get("sweep"):
            raise Refusal(f"sweep={sweep}: this runs one job; add -m for all of the sweep")
        config = compose()
        if begun := (folder / "config.yaml").is_file():  # a job that Slurm has started again goes on in its folder
            _check_same(folder, config)
        if (error := _finished_before(folder)) is not None:
            return error
        with _held(folder, f"hydra.run.dir={folder}", overrides) as guards:
            if not begun and is_first_rank():  # before torch is imported: from here on the run can be gone on with
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
    known = ("resume=", "trust=", "loop=", "trainer.max_steps=", "hydra.run.dir=")
    given = dict(argument.split("=", 1) for argument in arguments if argument.startswith(known))
    if others := [argument for argument in arguments if argument.partition("=")[0] not in given]:
        raise Refusal(
            f"{' '.join(others)}: a resumed run has its own configuration, but for trainer.max_steps and loop; "
            "leave this out"
        )
    source, folder = _places(given)
    new = source != folder
    FoldersBefore.found = {path for path in (folder, *folder.parents) if path.exists()}  # which a refusal leaves
    with _refusing(folder):
        if read_summary(folder).get("status") == "finished":  # which leaves nothing to take
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
    """What a run is gone on with from, and the folder where: its own, unless it is to have another number of steps.

    Raises:
        Refusal: there is no run, or no reason for another folder.
    """
    named, path = f"resume={given['resume']}", Path(as_text(given["resume"])).expanduser().absolute()
    if (path / "sweep.json").is_file():
        raise Refusal(f"{named}: a sweep; give the command that began it again, and it goes on")
    if path.is_file() and path.parent.name == "checkpoints":
        path = path.parents[1]  # from whichever of its checkpoints, the run comes to the same end
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
    """What `trainer.max_steps=…` asks for, if it is there."""
    text = given.get("trainer.max_steps")
    if text is not None and not (text.isdecimal() and int(text) > 0):
        raise Refusal(f"trainer.max_steps={text}: give a whole number of at least 1")
    return None if text is None else int(text)


@contextmanager
def _held(folder: Path, named: str, overrides: list[str]) -> Iterator[Callable[[], list[Any]]]:
    """Take a run from whoever else might train it, and let no end of it go without a summary; yields its guards."""
    if not is_first_rank():  # which follows the first one
        with write_summary_on_failure(folder, overrides, None):
            yield list
        return
    lease = take(folder, waiting=_say_waiting)
    if lease is None:
        found = holder(folder)
        who = f"process {found.pid} on {found.host}" if found and found.pid else "another process"
        raise Refusal(f"{named}: {who} trains this run; leave it to that one")
    signals.remember(f"go on with resume={folder}")
    with lease, _making_room(folder), write_summary_on_failure(folder, overrides, lease):
        yield lambda: _guards(lease)


def _guards(lease: Lease) -> list[Any]:
    from .training.callbacks.lease import LeaseGuard

    return [LeaseGuard(lease)]


def _say_waiting(found: Holder) -> None:
    text = "process %d on %s has been silent for %d s; another %d s will show whether it lives"
    log.warning(text, found.pid, found.host, STALE, WATCH)


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
        FoldersBefore.found = set()
        sys.argv[1:] = options_first([at_home(argument) for argument in sys.argv[1:]])
        check_launcher(sys.argv[1:])
        check_choices(command, sys.argv[1:])
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
    _open_streams()
    # A notebook's own backend, inherited, may not be installed here; no command shows a window.
    os.environ["MPLBACKEND"] = "agg"
    try:
        with signals.listening(), _knowing_the_place():
            signals.remember("the same command begins again")
            _carry_out(command, action)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the interpreter's last flush succeeds
        sys.exit(128 + signal.SIGPIPE)


def _carry_out(command: str, action: Callable[[], Any]) -> None:
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
    """End with a line on the error stream."""
    if signals.asked() and quietly and not is_first_rank():
        sys.exit(0)  # a rank that fails would take the first one with it, before that is done
    if (code := signals.exit_code()) == 1:
        sys.exit(line)
    print(line, file=sys.stderr, flush=True)
    logging.shutdown()
    os._exit(code)  # what other packages do at the interpreter's end may take longer than a person waits


@contextmanager
def _knowing_the_place() -> Iterator[None]:
    """Let whatever asks for the working folder have its name, also after somebody removed it."""
    ask = os.getcwd
    try:
        place = ask()
    except FileNotFoundError:
        yield
        return

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
    """Give a process that was started without its standard streams ones that go nowhere."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:  # or the next file to be opened would be it
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


@contextmanager
def _making_room(folder: Path) -> Iterator[None]:
    """Say how to go on after an end that was no refusal."""
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
def _refusing(folder: Path) -> Iterator[None]:
    """Leave no folder of a run that was refused."""
    try:
        yield
    except Refusal:
        FoldersBefore.forget(folder)
        raise


class FoldersBefore(Callback):
    """Hydra's callback that notes what there was before it made a run's folder: a refused run leaves nothing else."""

    found: ClassVar[set[Path]] = set()
    folder: ClassVar[Path] = Path()

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
        FoldersBefore.folder = folder
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
