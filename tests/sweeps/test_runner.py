"""What a command makes of launchers that fail, with launchers that do nothing else."""

import json
import os

import pytest
from hydra.core.utils import JobReturn, JobStatus

from ncsn_lightning.core import lease as leases
from ncsn_lightning.core.signals import Stopped
from ncsn_lightning.runs.summary import write_summary
from ncsn_lightning.sweeps.planning import Planned
from ncsn_lightning.sweeps.runner import TRIES, JobRunner

NOBODY = 2**22 + 1
"""No process has this number."""


def runner_of(names, launch, folder):
    class Launcher:
        def launch(self, job_overrides, initial_job_idx):
            return launch([line[0].removeprefix("name=") for line in job_overrides])

    runner = JobRunner(folder, Launcher())
    runner.add([Planned(name, [f"name={name}"], ["name"], {}) for name in names])
    return runner


def leave_summary(folder, status, error=None):
    folder.mkdir(parents=True, exist_ok=True)
    write_summary(
        folder, status=status, error=error, seed=0, steps=0, wall_time=0.0, metrics={}, overrides=[], config_hash=""
    )


def test_a_job_that_fails_before_it_begins_has_its_last_word_too(tmp_path):
    """As where a node cannot import the package."""

    def launch(names):
        return [JobReturn(status=JobStatus.FAILED, _return_value=ImportError("no torch here")) for _ in names]

    runner = runner_of(["a", "b"], launch, tmp_path)
    runner.run(["a", "b"])
    for name in "ab":
        job = runner.read(name)
        assert (job.state, job.reason) == ("failed", "ImportError: no torch here")
        assert job.summary["overrides"] == [f"name={name}"]


def test_why_a_job_failed_is_known_until_it_is_tried_again(tmp_path):
    leave_summary(tmp_path / "a", "diverged", "Traceback\nValueError: too wild")

    def launch(names):
        raise Stopped

    runner = runner_of(["a"], launch, tmp_path)
    with pytest.raises(Stopped):
        runner.run(["a"])
    assert (runner.read("a").state, runner.read("a").reason) == ("diverged", "ValueError: too wild")
    assert runner.unfinished(retry_failed=False) == []
    assert runner.unfinished(retry_failed=True) == ["a"]


def test_a_job_that_is_killed_is_given_up_and_one_that_only_died_with_it_is_not(tmp_path, monkeypatch):
    """All of joblib's processes end when one is killed; `slow` saves itself a little further every time."""
    monkeypatch.setattr("ncsn_lightning.sweeps.runner.time.sleep", lambda _: None)
    begun = {"deadly": 0, "slow": 0}

    def launch(names):
        for name in names:
            begun[name] += 1
            record = tmp_path / name / "lease" / f"{begun[name]}.json"
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps({**leases._myself(), "pid": NOBODY}))
            if name == "slow":
                path = tmp_path / name / "checkpoints/last.ckpt"
                path.parent.mkdir(exist_ok=True)
                path.touch()
                os.utime(path, (begun[name],) * 2)
                if begun[name] == TRIES + 3:
                    leave_summary(tmp_path / name, "finished")
        raise RuntimeError("a process was killed")

    runner = runner_of(begun, launch, tmp_path)
    runner.run(list(begun))
    assert begun == {"deadly": TRIES, "slow": TRIES + 3}
    assert (runner.read("deadly").state, runner.read("slow").state) == ("interrupted", "finished")
