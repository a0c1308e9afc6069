"""A job's state is what is found in its folder, whole or broken."""

import json
import subprocess
import sys

import pytest

from ncsn_lightning.core.lease import take
from ncsn_lightning.sweeps.folder import NoSweepError, read_sweep

PLAN = {
    "name": "s",
    "question": "Which?",
    "command": "python scripts/train.py -m seed=0,1",
    "factors": {"seed": ["0", "1"]},
    "jobs": {"aa": {"overrides": {"seed": "0"}, "fixed": ["logger=csv"]}},
    "revision": "abc",
    "versions": {"torch": "2"},
}


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps(PLAN))
    return tmp_path


def job(sweep):
    (record,) = read_sweep(sweep).jobs
    return record


def end(sweep, status, error=None, **more):
    folder = sweep / "aa"
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"status": status, "error": error, **more}))


def test_what_was_planned_is_read(sweep):
    read = read_sweep(str(sweep))
    assert (read.name, read.question, read.command) == ("s", "Which?", PLAN["command"])
    assert (read.factors, read.revision, read.versions) == (PLAN["factors"], "abc", {"torch": "2"})
    assert job(sweep).arguments() == ["logger=csv", "seed=0"]
    assert job(sweep).folder == sweep / "aa"


def test_the_states_of_a_job(sweep):
    assert job(sweep).state == "waiting"
    (sweep / "aa").mkdir()
    (sweep / "aa/train.log").touch()  # Hydra has made the folder, but nobody has begun
    assert job(sweep).state == "waiting"
    with take(sweep / "aa"):
        assert (job(sweep).state, job(sweep).reason) == ("running", "")
    assert job(sweep).state == "interrupted"
    assert "run the command again" in job(sweep).reason
    for status in ("finished", "failed", "diverged", "preempted"):
        end(sweep, status)
        assert job(sweep).state == status
        assert read_sweep(sweep).count() == {status: 1}
    with take(sweep / "aa"):
        assert job(sweep).state == "running"


def test_a_broken_summary_counts_as_none(sweep):
    with take(sweep / "aa"):
        pass
    end(sweep, "finished", metrics={"score_error": 0.5})
    assert job(sweep).metrics == {"score_error": 0.5}
    whole = (sweep / "aa/summary.json").read_text()
    for broken in (whole[:-5], "", "[]", '{"status": "unheard of"}'):
        (sweep / "aa/summary.json").write_text(broken)
        assert (job(sweep).state, job(sweep).metrics, job(sweep).summary) == ("interrupted", {}, {})


def test_a_reason_is_one_line(sweep):
    end(
        sweep,
        "diverged",
        "Traceback …\n  File\nncsn_lightning.divergence.Diverged: diverged by step 5: a.b\n",
    )
    assert job(sweep).reason == "Diverged: diverged by step 5: a.b"
    end(sweep, "failed", "KeyError: 'a.b'")
    assert job(sweep).reason == "KeyError: 'a.b'"
    end(sweep, "finished")
    assert job(sweep).reason == ""


def test_folders_that_are_no_sweep_are_refused(tmp_path):
    def refusal(folder):
        with pytest.raises(NoSweepError) as error:
            read_sweep(folder)
        return str(error.value)

    assert refusal(tmp_path / "none") == f"{tmp_path}/none: no such folder; give one of outputs/sweeps"
    assert "for it has no sweep.json" in refusal(tmp_path)
    for broken in ("", "{}", "[]", json.dumps({**PLAN, "jobs": {"aa": {}}})):
        (tmp_path / "sweep.json").write_text(broken)
        assert "damaged; run the sweep's command again" in refusal(tmp_path)


def test_reading_a_sweep_needs_no_torch(sweep):
    code = """
import sys
from ncsn_lightning.sweeps.folder import read_sweep
read_sweep(sys.argv[1])
print({"torch", "lightning", "hydra", "wandb", "matplotlib"} & sys.modules.keys())
"""
    process = subprocess.run([sys.executable, "-c", code, sweep], capture_output=True, text=True, check=True)
    assert process.stdout == "set()\n"
