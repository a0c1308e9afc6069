"""The sweeper, in the package where Hydra looks for sweepers; the work is done in `ncsn_lightning.sweeps`.

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
        params: overrides by key, as a sweep's file gives them; the command line takes precedence.
        n_trials: how many points a search tries; without it, all combinations of the values are run.
        n_jobs: how many jobs of a search are proposed at once.
    """

    def __init__(self, *, params: dict[str, Any], n_trials: int | None, n_jobs: int | None) -> None:
        self.params = dict(params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Fill in what the sweep's configuration leaves open, then make the launcher, which reads some of it."""
        from ncsn_lightning.sweeps.running import settle

        settle(config)
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run what is left of the sweep; write its report whatever the end, and its W&B run unless it was stopped.

        Raises:
            Refusal: a job cannot run; none has.
            Unfinished: a job did not finish.
        """
        from ncsn_lightning.sweeps.running import SweepCommand

        assert self.launcher is not None
        assert self.config is not None
        assert self.hydra_context is not None
        given = {argument.partition("=")[0] for argument in arguments}
        parameters = [f"{key}={value}" for key, value in self.params.items() if key not in given]
        loader = self.hydra_context.config_loader
        command = SweepCommand([*parameters, *arguments], self.config, loader, self.launcher)
        command.announce()
        try:
            command.run()
        finally:
            _report(command.folder)
        _publish(command.folder)
        command.demand_finished()


def _report(folder: Path) -> None:
    """Write the table and the page of a sweep that ended; a failure to do so is logged, and changes no exit code."""
    from ncsn_lightning.config.messages import one_line
    from ncsn_lightning.report import write_report
    from ncsn_lightning.sweeps.folder import read_sweep

    if not (folder / "sweep.json").is_file():  # the sweep was stopped before that was written
        return
    try:
        print(f"report: {write_report(read_sweep(folder))}", flush=True)
    except OSError as error:
        place = error.filename2 or error.filename or folder
        log.warning("no report: %s cannot be written (%s); later: ncsn-report %s", place, error.strerror, folder)
    except Exception as error:
        log.warning("no report: %s; later: ncsn-report %s", one_line(error), folder)


def _publish(folder: Path) -> None:
    """Write the W&B run of a sweep whose jobs have theirs; a failure to do so is logged, and changes no exit code."""
    from ncsn_lightning.config.messages import one_line
    from ncsn_lightning.report.wandb_run import log_sweep
    from ncsn_lightning.sweeps.folder import read_sweep

    try:
        for line in log_sweep(read_sweep(folder)):
            print(line, flush=True)
    except Exception as error:
        log.warning("no run of the sweep in W&B: %s", one_line(error))
