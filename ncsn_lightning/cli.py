"""The commands `ncsn-train`, `ncsn-evaluate` and `ncsn-sample`: arguments in, one clear line out where they are wrong.

Torch is imported only once a configuration stands, so that help and refusals answer at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from .configuration import config_folder, nearest, plain, walk

log = logging.getLogger(__name__)

Task = Callable[[DictConfig], Any]


def train() -> None:
    """Train a network: `ncsn-train group=option key=value …`, `-m` for a sweep, `resume=FOLDER` to go on."""
    if any(argument.startswith("resume=") for argument in sys.argv[1:]):
        _guarded(lambda: _resume(sys.argv[1:]))
    else:
        _run("train", _train)


def evaluate() -> None:
    """Measure a run against the truth: `ncsn-evaluate run=FOLDER`."""
    _run("evaluate", _evaluate)


def sample() -> None:
    """Draw from a run: `ncsn-sample run=FOLDER n=10000 out=samples.npz`."""
    _run("sample", _sample)


def _train(cfg: DictConfig) -> float:
    from . import jobs

    hydra_config = HydraConfig.get()
    config = plain(cfg)
    folder = Path(config["paths"]["folder"])
    config["run_id"] = folder.name
    if hydra_config.mode == RunMode.MULTIRUN:
        config["group"] = config["group"] or Path(hydra_config.sweep.dir).name
        if cfg.trainer.get("strategy") == "ddp":
            raise ValueError(
                "trainer.strategy=ddp: every rank would start the whole sweep anew; use trainer.strategy=ddp_spawn, "
                "or run the jobs one by one"
            )
    try:
        return jobs.train(config, overrides=list(hydra_config.overrides.task))
    except jobs.Refusal:
        _forget(folder)
        raise
    except BaseException:
        log.exception("this job failed")
        raise


def _evaluate(cfg: DictConfig) -> None:
    from . import jobs

    jobs.evaluate(plain(cfg))


def _sample(cfg: DictConfig) -> None:
    from . import jobs

    jobs.sample(plain(cfg))


def _resume(arguments: list[str]) -> None:
    from . import jobs

    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if len(given) < len(arguments) or not given.keys() <= {"resume", "trust"}:
        raise ValueError(
            f"resume: a run goes on with its own configuration; leave out {' '.join(a for a in arguments if not a.startswith(('resume=', 'trust=')))}"
        )
    folder = Path(given["resume"]).absolute()
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"resume={given['resume']}: no run's folder (it has no config.yaml); give one of outputs/runs")
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "train.log")]
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s] %(message)s", handlers=handlers)
    jobs.resume(folder, trust=tuple(filter(None, given.get("trust", "").split(","))))


def _run(name: str, task: Task) -> None:
    """Hand the command line to Hydra, and take back whatever it refuses."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors come here, not to its own printer
    main = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=name)(task)
    _guarded(main)


def _guarded(command: Callable[[], Any]) -> None:
    try:
        command()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except Exception as error:
        sys.exit(_one_line(error))


def _one_line(error: BaseException) -> str:
    """What was wrong, for the user: a line for each wrong value."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option}: no such option; {nearest(option, list(error.options or []))}"
    return str(error) or type(error).__name__


def _forget(folder: Path) -> None:
    """Remove what Hydra wrote for a job that was refused, and the folders that this leaves empty."""
    if (folder / "config.yaml").exists() or "LOCAL_RANK" in os.environ:
        return
    logging.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    for parent in folder.parents:
        try:
            parent.rmdir()
        except OSError:
            break
