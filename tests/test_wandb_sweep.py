"""A sweep in W&B: a run a job, one more for the sweep, and one line that uploads all of them, read by a server."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import run as script
from wandb_server import serving

BIN = Path(sys.executable).parent
TINY = [
    *("network.hidden_dims=[8]", "network.embedding.dim=8", "objective.pool_size=1000", "data.batch_size=64"),
    *("data.validation_size=64", "score_test.num_points=16", "trainer.max_steps=40", "data.steps_per_epoch=20"),
    *("block_size=20", "~callbacks.figures"),
]
SWEPT = ["schedule=geometric,karras", "seed=0,1"]
ALONE = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}


def sweep(folder, *arguments):
    """What a sweep in `folder` prints."""
    done = script("train", "-m", *TINY, *SWEPT, "sweep_name=a sweep", *arguments, cwd=folder, env=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A sweep without network, one of whose jobs was begun again by a second command; what that one printed."""
    folder = tmp_path_factory.mktemp("offline")
    sweep(folder)
    again = next(folder.glob("outputs/sweeps/a sweep/*/summary.json"))
    again.unlink()
    return folder, sweep(folder), again.parent.name


def inspect(run):
    done = subprocess.run(
        [BIN / "wandb", "leet", "inspect", "--json", "--summary", run], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_job_has_one_run_however_often_it_is_begun(offline):
    folder, _, again = offline
    for job in folder.glob("outputs/sweeps/a sweep/*/summary.json"):
        runs = list(job.parent.glob("wandb/offline-run-*"))
        assert len(runs) == 1 + (job.parent.name == again)
        (name,) = {re.sub(r"^offline-run-\d+_\d+-", "", run.name) for run in runs}
        assert re.fullmatch(rf"a-sweep-{job.parent.name}-[0-9a-f]{{6}}", name)


def test_the_sweeps_run_holds_table_heat_map_and_best_configuration(offline):
    run = max((offline[0] / "outputs/sweeps/a sweep/wandb").glob("offline-run-*"))
    found = inspect(run)
    best, config = found["summary"]["best/configuration"], found["config"]
    assert best == f"schedule={config['best']['schedule']}"
    assert found["summary"]["jobs/finished"] == 4
    table = json.loads((run / "files" / found["summary"]["sweep"]["path"]).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert {(row["schedule"], row["seed"], row["state"]) for row in rows} == {
        (schedule, seed, "finished") for schedule in ("geometric", "karras") for seed in "01"
    }
    means = [sum(r["score_error"] for r in rows if r["schedule"] == s) / 2 for s in ("geometric", "karras")]
    assert found["summary"]["best/score_error"] == pytest.approx(min(means))
    assert (run / "files" / found["summary"]["heat_map"]["path"]).read_bytes().startswith(b"\x89PNG")
    assert "schedule=" in found["summary"]["best/command"]


def test_one_line_uploads_all_of_it(offline):
    folder, printed, again = offline
    (line,) = [line for line in printed.splitlines() if "wandb sync" in line]
    with serving() as server:
        there = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "PATH": f"{BIN}:{os.environ['PATH']}"}
        online = {name: value for name, value in ALONE.items() if name not in ("WANDB_MODE", "WANDB_SERVICE")}
        subprocess.run(line.strip(), shell=True, cwd=folder, env=online | there, timeout=120, check=True)
    runs = server.runs
    assert {run["groupName"] for run in runs.values()} == {"a sweep"}
    assert sorted(run["jobType"] for run in runs.values()) == ["report", *4 * ["train"]]
    jobs = [run for run in runs.values() if run["jobType"] == "train"]
    assert {(*run["tags"],) for run in jobs} == {
        ("default", "checkerboard", f"schedule={schedule}", f"seed={seed}")
        for schedule in ("geometric", "karras")
        for seed in "01"
    }
    for run in jobs:
        assert run["history"]
        assert run["summary"]["final/score_error"] > 0
    assert sum(again in name for name in runs) == 1


def test_the_sweeps_run_is_written_again_only_when_a_job_has_ended_since(offline):
    folder = offline[0]
    assert len(list(folder.glob("outputs/sweeps/a sweep/wandb/offline-run-*"))) == 2
    sweep(folder)
    assert len(list(folder.glob("outputs/sweeps/a sweep/wandb/offline-run-*"))) == 2


def test_a_sweep_without_wandb_leaves_no_trace_of_it(tmp_path):
    assert "W&B" not in sweep(tmp_path, "logger=csv", "schedule=karras", "seed=0,1")
    assert not list(tmp_path.rglob("wandb"))
