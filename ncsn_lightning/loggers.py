"""What the loggers lack: a CSV file that a resumed run continues, W&B that never blocks, media for each kind."""

from __future__ import annotations

import csv
import io
import logging
import netrc
import os
import re
import secrets
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

from .files import demand_right, replacing

log = logging.getLogger(__name__)

CONNECT_SECONDS = 15
"""How long W&B may take to answer before a run goes on offline."""

_CHOSEN = {name: os.environ[name] for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR") if name in os.environ}
"""Where the user wants what W&B stages (`wandb sync` needs it later) and caches; in the run's folder if nowhere."""


class _ContinuingWriter(ExperimentWriter):
    """Keeps the file that an earlier process of the same run left."""

    def _check_log_dir_exists(self) -> None:
        """The folder is expected to exist, and its metrics to stay."""

    def save(self) -> None:
        """Append what was logged, and have it on disk as far as readers go.

        A new column has the file written anew, in one piece and in place: `tail -f` goes on, and no line gets shorter.
        """
        if not self.metrics:
            return
        demand_right()
        path, new = Path(self.metrics_file_path), self._record_new_keys()
        with open(path, "r+" if path.exists() else "w+", newline="") as file:
            whole: list[dict[str, Any]] = [*csv.DictReader(file), *self.metrics] if new else [*self.metrics]
            text = io.StringIO()
            writer = csv.DictWriter(text, self.metrics_keys)
            if new:
                writer.writeheader()
            writer.writerows(whole)
            file.seek(0, os.SEEK_SET if new else os.SEEK_END)
            file.write(text.getvalue())
        self.metrics = []

    def rewind(self, rows: int) -> int:
        """Keep the first `rows` rows, for later ones will be logged again; how many there were."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return 0
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            kept = list(islice(reader, rows))
            self.metrics_keys = list(reader.fieldnames or [])
        with replacing(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(kept)
        return len(kept)


class MetricsCSV(CSVLogger):
    """`metrics.csv` in the run's folder, one row a logged step; a resumed run continues it.

    Args:
        folder: the run's folder.

    Attributes:
        rows: how many were logged, whether on disk yet or not.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=1)
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
        self.rows = self.experiment.rewind(rows)

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
        run_id: how the run's id begins.
        run: further arguments of `wandb.init`: name, group, job_type, tags, entity, ….
    """

    def __init__(self, *, project: str, folder: str, run_id: str, **run: Any) -> None:
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            super().__init__(project=project, save_dir=folder, offline=True)
            return
        experiment = start_wandb(folder, run_id, project=project, **run)
        if experiment.offline:
            log.info("W&B is offline; upload this run later with: wandb sync %s", experiment.settings.sync_dir)
        for metric in ("loss/train", "loss/validation", "score_error"):
            experiment.define_metric(metric, step_metric="trainer/global_step", summary="min,last")
        super().__init__(experiment=experiment)


def start_wandb(folder: str | Path, run_id: str, **arguments: Any) -> Any:
    """`wandb.init` that neither asks nor waits long, and goes on with the run that the folder began.

    Args:
        folder: where the run's files go.
        run_id: how the run's id begins.
        arguments: of `wandb.init`.
    """
    place = Path(folder).absolute()
    place.mkdir(parents=True, exist_ok=True)
    os.environ |= {"WANDB_DATA_DIR": str(place / "wandb"), "WANDB_CACHE_DIR": str(place / "wandb" / "cache"), **_CHOSEN}
    settings = wandb.Settings(init_timeout=CONNECT_SECONDS, silent=True, console="off")
    arguments |= {"dir": str(place), "id": _kept_id(place, run_id), "resume": "allow", "settings": settings}
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
    try:
        experiment = wandb.init(mode=mode, **arguments)
    except WandbError as error:
        log.warning("W&B did not answer: %s; this process goes on offline", str(error).splitlines()[0])
        wandb.teardown()
        os.environ.pop("WANDB_SERVICE", None)  # one inherited from a parent process still holds the run's id
        os.environ["WANDB_MODE"] = "offline"  # or each further job of a sweep would wait as long
        experiment = wandb.init(mode="offline", **arguments)
    return experiment


def _kept_id(folder: Path, begin: str) -> str:
    """The id of the W&B run in `folder`, which every process that goes on there finds.

    It is kept in a file and ends at random: neither the same sweep of a colleague nor one whose folder was removed must
    go on in this run.
    """
    path = folder / "wandb" / "id"
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', begin)[:100]}-{secrets.token_hex(3)}")
    return path.read_text()


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
