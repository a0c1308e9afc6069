"""Loggers: a CSV file that a resumed run continues, W&B that never blocks a run, pictures and tables for each."""

from __future__ import annotations

import csv
import io
import logging
import netrc
import os
import re
import secrets
import shlex
from collections.abc import Mapping
from functools import singledispatch
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.image import imread
from wandb.errors import Error as WandbError

from ..core.atomic_files import demand_right, replacing, shown
from .internals import KeepingWriter, forget_wandb_service

log = logging.getLogger(__name__)

CONNECT_SECONDS = 15
"""How long W&B may take to answer before a run goes on offline."""

STEP = "trainer/global_step"
"""The optimiser step, the x axis of everything in W&B; Lightning's logger writes it beside every metric."""

LESS_IS_BETTER = ("loss/", "score_error", "sample_quality/")
"""Prefixes of the metrics of which W&B's summary shows the minimum too."""

_USERS_FOLDERS = {name: os.environ[name] for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR") if name in os.environ}
"""Folders that the user has chosen for W&B's staged files (`wandb sync` needs them later) and its cache.

Where the user has chosen none, both lie in the run's folder.
"""


class _ContinuingWriter(KeepingWriter):
    """A writer that continues the file which an earlier process of the same run left."""

    def save(self) -> None:
        """Append what was logged, so that readers of the file see it.

        Where a column is new, the whole file is written again, in one piece and in place: `tail -f` goes on, and no
        line gets shorter.
        """
        if not self.metrics:
            return
        demand_right()
        path, new = Path(self.metrics_file_path), self.learn_columns()
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
        """Keep the first `rows` rows, because later ones will be logged again; returns how many are left."""
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
    """`metrics.csv` in the run's folder, one row for each call of `log_metrics`; a resumed run continues it.

    Args:
        folder: the run's folder.

    Attributes:
        rows: how many rows were logged, including those that are not on disk yet.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=1)
        self.rows = 0
        self.writer: _ContinuingWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the file, made when it is first asked for."""
        if self.writer is None:
            self.writer = _ContinuingWriter(log_dir=self.save_dir)
        return self.writer

    @rank_zero_only
    def rewind(self, rows: int) -> None:
        """Continue the file after its first `rows` rows."""
        self.rows = self.experiment.rewind(rows)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Log one row, and count it."""
        super().log_metrics(metrics, step)
        self.rows += 1

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Log nothing: the run's `config.yaml` has the hyperparameters."""


class WandbRun(WandbLogger):
    """A W&B run in `folder`: online where the user is logged in and W&B answers, offline everywhere else.

    Args:
        project: the W&B project of the run.
        folder: where the run's files go.
        run_id: the beginning of the run's id.
        run: further arguments of `wandb.init`: name, group, job_type, tags, entity, ….
    """

    def __init__(self, *, project: str, folder: str, run_id: str, **run: Any) -> None:
        self.defined: set[str] = set()
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            super().__init__(project=project, save_dir=folder, offline=True)
            return
        experiment = start_wandb(folder, run_id, project=project, **run)
        if experiment.offline:
            place = shlex.quote(shown(experiment.settings.sync_dir))
            log.info("W&B is offline; upload this run later with:\n  wandb sync %s", place)
        experiment.define_metric(STEP)
        experiment.define_metric("*", step_metric=STEP)
        super().__init__(experiment=experiment)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log, and define each new metric by its own name: where two patterns match a metric, W&B takes either."""
        for name in metrics.keys() - self.defined:
            summary = "min,last" if name.startswith(LESS_IS_BETTER) else None
            self.experiment.define_metric(name.replace(".", r"\."), step_metric=STEP, summary=summary)
            self.defined.add(name)
        super().log_metrics(metrics, step)


def start_wandb(folder: str | Path, run_id: str, **arguments: Any) -> Any:
    """Call `wandb.init` so that it neither asks nor waits long, and continues the W&B run that lies in the folder.

    Args:
        folder: where the run's files go.
        run_id: the beginning of the run's id.
        arguments: of `wandb.init`.

    Returns:
        The W&B run, which is offline where the user is not logged in or W&B does not answer.
    """
    place = Path(folder).absolute()
    place.mkdir(parents=True, exist_ok=True)
    ours = {"WANDB_DATA_DIR": str(place / "wandb"), "WANDB_CACHE_DIR": str(place / "wandb" / "cache")}
    os.environ |= ours | _USERS_FOLDERS
    settings = wandb.Settings(init_timeout=CONNECT_SECONDS, silent=True, **_console_settings())
    arguments |= {"dir": str(place), "id": _kept_id(place, run_id), "resume": "allow", "settings": settings}
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
    try:
        experiment = wandb.init(mode=mode, **arguments)
    except WandbError as error:
        log.warning("W&B did not answer: %s; this process goes on offline", str(error).splitlines()[0])
        wandb.teardown()
        forget_wandb_service()
        os.environ["WANDB_MODE"] = "offline"  # otherwise each further job of a sweep would wait as long
        experiment = wandb.init(mode="offline", **arguments)
    return experiment


def _console_settings() -> dict[str, Any]:
    """Have W&B record the console, or the log's lines for a job of a sweep, which prints nothing."""
    handlers = (handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler)
    if any(handler.level <= logging.INFO for handler in handlers):
        return {"console": "wrap"}
    return {"console": "off", "capture_loggers": {"root": "INFO"}}


def _kept_id(folder: Path, begin: str) -> str:
    """The id of the W&B run in `folder`, where every later process of the run finds it.

    It ends at random, so that neither a colleague's sweep of the same name nor one whose folder was removed goes on in
    this run.
    """
    path = folder / "wandb" / "id"
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', begin)[:100]}-{secrets.token_hex(3)}")
    return path.read_text()


def _logged_in() -> bool:
    """Whether there is a W&B key, without asking the user for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", wandb.Settings().base_url)).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


@singledispatch
def log_picture(logger: Logger, name: str, path: Path, step: int) -> None:
    """Give a saved PNG or GIF to a logger; a logger that cannot show it does nothing."""


@log_picture.register
def _(logger: WandbLogger, name: str, path: Path, step: int) -> None:
    media = wandb.Video(str(path), format="gif") if path.suffix == ".gif" else wandb.Image(str(path))
    logger.experiment.log({f"figures/{name}": media, STEP: step})


@log_picture.register
def _(logger: TensorBoardLogger, name: str, path: Path, step: int) -> None:
    if path.suffix == ".png":
        logger.experiment.add_image(f"figures/{name}", imread(path)[..., :3], step, dataformats="HWC")


@log_picture.register
def _(logger: MLFlowLogger, name: str, path: Path, step: int) -> None:
    logger.experiment.log_artifact(logger.run_id, str(path), "figures")


@singledispatch
def log_table(logger: Logger, name: str, columns: list[str], rows: list[list[float]], step: int) -> None:
    """Give a table to a logger; a logger without tables does nothing."""


@log_table.register
def _(logger: WandbLogger, name: str, columns: list[str], rows: list[list[float]], step: int) -> None:
    table = wandb.Table(columns=list(columns), data=rows)
    draw = wandb.plot.line if len(rows) < 100 else wandb.plot.scatter
    chart = draw(table, x=columns[0], y=columns[1], title=name)
    logger.experiment.log({name: table, f"{name}/chart": chart, STEP: step})


@singledispatch
def summarize(logger: Logger, metrics: dict[str, float], step: int) -> None:
    """Give a run's last numbers to a logger, as metrics `final/NAME`."""
    logger.log_metrics({f"final/{name}": value for name, value in metrics.items()}, step)


@summarize.register
def _(logger: WandbLogger, metrics: dict[str, float], step: int) -> None:
    logger.experiment.summary.update({f"final/{name}": value for name, value in metrics.items()})


@summarize.register
def _(logger: MetricsCSV, metrics: dict[str, float], step: int) -> None:
    """Do nothing: the run's `summary.json` has these numbers."""
