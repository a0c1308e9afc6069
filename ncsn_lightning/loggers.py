"""What the loggers lack: a CSV file that a resumed run continues, W&B that never blocks, media for each kind."""

from __future__ import annotations

import csv
import logging
import netrc
import os
from functools import singledispatch
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from matplotlib.image import imread
from wandb.errors import Error as WandbError

from .files import replacing

log = logging.getLogger(__name__)

CONNECT_SECONDS = 15
"""How long W&B may take to answer before a run goes on offline."""

PLACES = {"WANDB_DATA_DIR": "wandb", "WANDB_CACHE_DIR": "wandb/cache"}
"""Where W&B puts what it stages (`wandb sync` needs it later) and caches, by the variable that says so."""

CHOSEN = PLACES.keys() & os.environ.keys()
"""Those that are the user's choice."""


class _ContinuingWriter(ExperimentWriter):
    """Keeps the file that an earlier process of the same run left."""

    def _check_log_dir_exists(self) -> None:
        """The folder is expected to exist, and its metrics to stay."""

    def rewind(self, rows: int) -> None:
        """Keep the first `rows` rows, for later ones will be logged again."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            kept = list(islice(reader, rows))
            self.metrics_keys = list(reader.fieldnames or [])
        with replacing(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(kept)


class MetricsCSV(CSVLogger):
    """`metrics.csv` in the run's folder, one row a logged step; a resumed run continues it.

    Args:
        folder: the run's folder.

    Attributes:
        rows: how many were logged, whether on disk yet or not.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__(save_dir=folder, name="", version="")
        self.rows = 0

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _ContinuingWriter(log_dir=self.save_dir)
        return self._experiment

    @rank_zero_only
    def rewind(self, rows: int) -> None:
        """Continue the file after its first `rows` rows."""
        self.experiment.rewind(rows)
        self.rows = rows

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        self.rows += 1

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """The run's config.yaml has them."""


class WandbRun(WandbLogger):
    """A W&B run in `folder`: online where the user is logged in and W&B answers, offline everywhere else.

    Args:
        project: of the run.
        folder: where the run's files go.
        run_id: the same for every process of the same run, so that a resumed one continues it.
        run: further arguments of `wandb.init`: name, group, job_type, tags.
    """

    def __init__(self, *, project: str, folder: str, run_id: str, **run: Any) -> None:
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            super().__init__(project=project, save_dir=folder, offline=True)
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        experiment = _start({"project": project, "dir": folder, "id": run_id, "resume": "allow", **run})
        for metric in ("loss/train", "loss/validation", "score_error"):
            experiment.define_metric(metric, step_metric="trainer/global_step", summary="min,last")
        super().__init__(experiment=experiment)


def _start(arguments: dict[str, Any]) -> Any:
    """`wandb.init` that neither asks nor waits long."""
    for variable in PLACES.keys() - CHOSEN:  # anew for every job of a sweep
        os.environ[variable] = str(Path(arguments["dir"]) / PLACES[variable])
    settings = wandb.Settings(init_timeout=CONNECT_SECONDS, silent=True, console="off")
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
    try:
        experiment = wandb.init(mode=mode, settings=settings, **arguments)
    except WandbError as error:
        log.warning("W&B did not answer: %s", str(error).splitlines()[0])
        wandb.teardown()
        os.environ.pop("WANDB_SERVICE", None)  # one inherited from a parent process still holds the run's id
        experiment = wandb.init(mode="offline", settings=settings, **arguments)
    if experiment.offline:
        log.info("W&B is offline; upload this run later with: wandb sync %s", experiment.settings.sync_dir)
    return experiment


def _logged_in() -> bool:
    """Whether a W&B key is at hand, without asking for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", wandb.Settings().base_url)).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


@singledispatch
def log_picture(logger: Logger, name: str, path: Path, step: int) -> None:
    """Hand a saved PNG or GIF to a logger; one without media ignores it."""


@log_picture.register
def _(logger: WandbLogger, name: str, path: Path, step: int) -> None:
    media = wandb.Video(str(path), format="gif") if path.suffix == ".gif" else wandb.Image(str(path))
    logger.experiment.log({f"figures/{name}": media, "trainer/global_step": step})


@log_picture.register
def _(logger: TensorBoardLogger, name: str, path: Path, step: int) -> None:
    if path.suffix == ".png":
        logger.experiment.add_image(f"figures/{name}", imread(path)[..., :3], step, dataformats="HWC")


@log_picture.register
def _(logger: MLFlowLogger, name: str, path: Path, step: int) -> None:
    logger.experiment.log_artifact(logger.run_id, str(path), "figures")


@singledispatch
def log_table(logger: Logger, name: str, columns: list[str], rows: list[list[float]]) -> None:
    """Hand a table to a logger; one without tables ignores it."""


@log_table.register
def _(logger: WandbLogger, name: str, columns: list[str], rows: list[list[float]]) -> None:
    table = wandb.Table(columns=list(columns), data=rows)
    draw = wandb.plot.line if len(rows) < 100 else wandb.plot.scatter
    chart = draw(table, x=columns[0], y=columns[1], title=name)
    logger.experiment.log({name: table, f"{name}/chart": chart})


@singledispatch
def summarize(logger: Logger, metrics: dict[str, float], step: int) -> None:
    """Hand a run's last numbers to a logger."""
    logger.log_metrics({f"final/{name}": value for name, value in metrics.items()}, step)


@summarize.register
def _(logger: WandbLogger, metrics: dict[str, float], step: int) -> None:
    logger.experiment.summary.update({f"final/{name}": value for name, value in metrics.items()})


@summarize.register
def _(logger: MetricsCSV, metrics: dict[str, float], step: int) -> None:
    """The run's summary.json has them."""
