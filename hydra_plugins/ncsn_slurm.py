"""A launcher, in the package where Hydra looks for launchers: the jobs of a sweep become one job array of Slurm.

Hydra imports this file at every start, for `--help` too, so it imports nothing slow.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

log = logging.getLogger("ncsn_lightning.slurm")

GRACE = 60.0
"""Seconds that cancelled jobs are given to save themselves."""


class NotSubmitted(ValueError):  # noqa: N818  (it names what happened)
    """Slurm accepted no jobs; the message says why."""


class JobsDied(RuntimeError):  # noqa: N818  (it names what happened)
    """Slurm ended jobs before they returned a result; the message names the jobs and their logs."""


with suppress(ModuleNotFoundError):  # this launcher exists only where the extra `slurm` is installed
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf  # type: ignore[import-untyped]
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher  # type: ignore[import-untyped]

    class ArrayLauncher(SlurmLauncher):  # type: ignore[misc]
        """Submitit's launcher, but one that waits until all jobs have ended, even if some of them die.

        If the waiting is interrupted, for example by Ctrl-C, the jobs are cancelled and save themselves.
        """

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
            """Submit the jobs as one array and wait for their results.

            Raises:
                NotSubmitted: Slurm accepts no jobs.
                JobsDied: some jobs ended without a result.
            """
            jobs = self._submit(job_overrides, initial_job_idx)
            number = jobs[0].job_id.partition("_")[0]
            log.info("submitted as job %s of Slurm; what the jobs print is in %s", number, jobs[0].paths.folder.parent)
            try:
                returns = [_result(job) for job in jobs]
            except BaseException:
                _stop(number, jobs)
                raise
            if died := [job for job, returned in zip(jobs, returns, strict=True) if returned is None]:
                raise JobsDied("; ".join(f"job {job.job_id} of Slurm, {job.state}: {job.paths.stderr}" for job in died))
            return [returned for returned in returns if returned is not None]

        def _submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
            """Submit the jobs, the first of them with the number `first`; `self.params` are the launcher's options."""
            import submitit

            options = dict(self.params)
            folder, turns = options.pop("submitit_folder"), options.pop("max_num_timeout")
            executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=turns)
            shared = OmegaConf.structured(BaseQueueConf)
            named = {key if key in shared else f"slurm_{key}": value for key, value in options.items()}
            executor.update_parameters(**named)
            tasks = [
                (list(line), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
                for number, line in enumerate(job_overrides, first)
            ]
            try:
                jobs: list[Any] = executor.map_array(self, *zip(*tasks, strict=True))
            except submitit.core.utils.FailedJobError as error:
                said = " ".join(str(error).split())
                raise NotSubmitted(
                    f"hydra/launcher=slurm: sbatch takes no jobs ({said}); run this where it does, or choose "
                    "hydra/launcher=joblib"
                ) from error
            return jobs


def _result(job: Any) -> JobReturn | None:
    """Wait for the result of a job; None if the job died without one."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        returned: JobReturn = job.results()[0]
    except (FailedJobError, UncompletedJobError):
        return None
    return returned


def _stop(number: str, jobs: list[Any]) -> None:
    """Cancel the jobs of an array, and wait up to `GRACE` seconds until they have saved themselves."""
    subprocess.run(["scancel", number], check=False)
    deadline, watcher = time.monotonic() + GRACE, jobs[0].watcher
    while time.monotonic() < deadline:
        watcher.update()
        if all(watcher.is_done(job.job_id, mode="cache") for job in jobs):
            return
        time.sleep(1)
