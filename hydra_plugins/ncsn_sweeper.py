"""Where Hydra looks for sweepers; what this one does is in `ncsn_lightning.sweeps`.

Hydra imports this file at every start, for `--help` too, so it imports nothing slow.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

log = logging.getLogger("ncsn_lightning.report")


class ResumingSweeper(Sweeper):
    """Runs what is left of a sweep: the same command again goes on where the last one was stopped.

    Args:
        params: overrides by key, as a sweep's file gives them; the command line has the last word.
        n_trials: of a search over them; without it, all their combinations are run.
        n_jobs: of a search that are proposed at once.
    """

    def __init__(self, *, params: dict[str, Any], n_trials: int | None, n_jobs: int | None) -> None:
        self.params = dict(params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from ncsn_lightning.sweeps.running import settle

        settle(config)
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        from ncsn_lightning.sweeps.running import run_sweep

        assert self.launcher is not None
        assert self.config is not None
        assert self.hydra_context is not None
        given = {argument.partition("=")[0] for argument in arguments}
        parameters = [f"{key}={value}" for key, value in self.params.items() if key not in given]
        loader = self.hydra_context.config_loader
        run_sweep([*parameters, *arguments], self.config, loader, self.launcher, report=_report, publish=_publish)


def _report(folder: Path) -> None:
    """Write the table and the page of a sweep that ended; what is in the way of that changes nothing about its end."""
    from ncsn_lightning.config.messages import one_line
    from ncsn_lightning.report import write_report
    from ncsn_lightning.sweeps.folder import read_sweep

    if not (folder / "sweep.json").is_file():  # stopped before that was written
        return
    try:
        print(f"report: {write_report(read_sweep(folder))}", flush=True)
    except OSError as error:
        place = error.filename2 or error.filename or folder
        log.warning("no report: %s cannot be written (%s); later: ncsn-report %s", place, error.strerror, folder)
    except Exception as error:
        log.warning("no report: %s; later: ncsn-report %s", one_line(error), folder)


def _publish(folder: Path) -> None:
    """Write the W&B run of a sweep whose jobs have theirs; what is in the way of that changes nothing about its end."""
    from ncsn_lightning.config.messages import one_line
    from ncsn_lightning.report.wandb_run import log_sweep
    from ncsn_lightning.sweeps.folder import read_sweep

    try:
        for line in log_sweep(read_sweep(folder)):
            print(line, flush=True)
    except Exception as error:
        log.warning("no run of the sweep in W&B: %s", one_line(error))
