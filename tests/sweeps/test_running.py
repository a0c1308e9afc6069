"""Sweeps as their users meet them: run, failed, stopped, killed, shared, and run again."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from processes import Script, wait_for

from ncsn_lightning.config.overrides import check_launcher
from ncsn_lightning.config.plain import Refusal
from ncsn_lightning.core.lease import holder, take
from ncsn_lightning.sweeps.folder import read_sweep

TINY = [
    *("logger=csv", "network.hidden_dims=[16,16]", "network.embedding.dim=8", "objective.pool_size=1000"),
    *("data.batch_size=64", "data.validation_size=64", "score_test.num_points=64", "sampler.steps_per_level=2"),
    *("trainer.max_steps=50", "data.steps_per_epoch=50", "~callbacks.figures"),
]
WITHOUT_TORCH = "import sys; from ncsn_lightning.cli import train; train(); print('torch' in sys.modules)"
LONG = ["trainer.max_steps=100000", "data.steps_per_epoch=100"]


def start(*arguments, cwd):
    """The command in a process of its own."""
    return Script("train", "-m", "sweep_name=s", *TINY, *arguments, cwd=cwd)


def end(process, timeout=120):
    """Its exit code, and the lines that it printed."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output.splitlines(), errors.splitlines()


def states(folder):
    return {" ".join(job.overrides.values()): job.state for job in read_sweep(folder).jobs}


def checkpoints(folder):
    return list(folder.glob("*/checkpoints/last.ckpt"))


@pytest.fixture
def sweep(tmp_path):
    """The folder of the sweep that this test runs."""
    return tmp_path / "outputs/sweeps/s"


def test_the_same_command_resumes_without_torch_and_added_values_alone_are_run(command, sweep, tmp_path, capsys):
    assert command("train", "-m", *TINY, "sweep_name=s", "schedule=karras,linear", "seed=0,1") == []
    lines = capsys.readouterr().out.splitlines()
    assert sum("finished, score error" in line for line in lines) == 4
    assert lines[-1] == f"report: {sweep}/report.html"
    *job, score, folder = lines[-5].split()
    assert (job, folder) == (["karras", "0", "finished"], first(sweep))
    assert float(score) == pytest.approx(read_sweep(sweep).jobs[0].metrics["score_error"], rel=1e-3)
    summaries = {path: path.read_text() for path in sweep.glob("*/summary.json")}
    for path, summary in summaries.items():
        assert json.loads(summary)["config_hash"] == path.parent.name
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert not (tmp_path / "outputs/runs").exists()
    assert command("train", "-m", *TINY, "sweep_name=s", "schedule=karras,linear", "seed=0,1,2") == []
    assert len(list(sweep.glob("*/summary.json"))) == 6
    assert {path: path.read_text() for path in summaries} == summaries
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "-m", *TINY, "sweep_name=s", "schedule=karras,linear", "seed=0,1,2"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert process.stdout.splitlines()[-1] == "False"
    assert process.stdout.startswith("sweep s: 6 jobs, 6 done before; ")


def first(sweep):
    return read_sweep(sweep).jobs[0].hash


def test_every_end_has_its_last_word_and_stops_no_other_job(command, sweep, monkeypatch, capsys):
    """Failed before there is a trainer, diverged while training, refused by a logger, finished."""
    from ncsn_lightning.runs import lifecycle

    build = lifecycle.build

    def break_down(config, **options):
        if config["seed"] == 1 and options.get("callbacks"):  # not when it is only checked
            raise KeyError("lost")
        return build(config, **options)

    monkeypatch.setattr(lifecycle, "build", break_down)
    rates = ["optimizer=sgd", "optimizer.lr=1e6,1e-3", "seed=0,1"]
    (line,) = command("train", "-m", *TINY, "sweep_name=s", *rates)
    assert line == "3 of 4 jobs did not finish (1 diverged, 2 failed); the same command tries them again"
    assert states(sweep) == {
        "1000000.0 0": "diverged",
        "1000000.0 1": "failed",
        "0.001 0": "finished",
        "0.001 1": "failed",
    }
    table = capsys.readouterr().out.splitlines()[-5:-1]
    assert "Diverged: diverged at step 2: loss" in table[0]
    assert "KeyError: 'lost'" in table[1]
    for job in read_sweep(sweep).jobs:
        broken = job.state != "finished"
        assert ("Traceback" in (job.summary["error"] or "")) == broken
        assert ("Traceback" in (job.folder / "train.log").read_text()) == broken
    monkeypatch.setattr(lifecycle, "build", build)
    (line,) = command("train", "-m", *TINY, "sweep_name=s", *rates, "retry_failed=false")
    assert line.startswith("3 of 4 jobs did not finish")
    (line,) = command("train", "-m", *TINY, "sweep_name=s", *rates)
    assert line == "2 of 4 jobs did not finish (2 diverged); the same command tries them again"


def test_a_sweep_is_refused_whole_and_leaves_nothing(command, tmp_path):
    wrong = ["schedule.num_levels=5,1", "optimizer.lr=0.1,-1"]
    lines = command("train", "-m", *TINY, *wrong)
    assert [line.partition(" ")[0] for line in sorted(lines)] == ["optimizer.lr=-1:", "schedule.num_levels=1:"]
    (line,) = command("train", "-m", *TINY, "seed=1,2", "trainer=ddp", "trainer.accelerator=cpu")
    assert line.startswith("trainer.strategy=ddp: every rank would start the whole sweep anew; use ")
    (line,) = command("train", "sweep=targets", *TINY)
    assert line == "sweep=targets: this runs one job; add -m for all of the sweep"
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_without_its_plugin_names_the_extra(monkeypatch):
    monkeypatch.setattr("ncsn_lightning.config.overrides.find_spec", lambda name: None)
    for launcher, extra in {"joblib": "joblib", "slurm": "slurm", "submitit_slurm": "slurm", "ray": "ray"}.items():
        with pytest.raises(Refusal, match=rf"^hydra/launcher={launcher}: .*pip install 'ncsn-lightning\[{extra}\]'"):
            check_launcher(["-m", "seed=1,2", f"hydra/launcher={launcher}"])
    check_launcher(["-m", "hydra/launcher=basic", "name=joblib"])


def test_a_job_that_another_process_trains_is_left_to_it(command, sweep, capsys):
    """And taken over when that one dies; a resume by hand keeps off it too."""
    assert command("train", "-m", *TINY, "sweep_name=s", "seed=0") == []
    job = read_sweep(sweep).jobs[0].folder
    (job / "summary.json").unlink()
    with take(job):
        (line,) = command("train", f"resume={job}")
        host = socket.gethostname()
        assert line == f"resume={job}: process {os.getpid()} on {host} trains this run; leave it to that one"
    with subprocess.Popen(["sleep", "100"]) as other:
        record = json.loads((job / "lease/2.json").read_text()) | {"pid": other.pid}
        (job / "lease/2.json").write_text(json.dumps(record))
        process = start("seed=0,1", cwd=sweep.parents[2])
        wait_for(lambda: len(checkpoints(sweep)) == 2 and states(sweep)["1"] == "finished", process)
        assert states(sweep)["0"] == "running"
        other.kill()
    assert end(process)[0] == 0
    assert states(sweep) == {"0": "finished", "1": "finished"}
    assert holder(job).number == 3


def test_a_job_that_was_taken_over_meanwhile_is_waited_for(command, sweep, monkeypatch, capsys):
    """Another process takes it, as if this one had slept, and dies after a while."""
    from ncsn_lightning.runs import lifecycle

    build = lifecycle.build

    def lose(config, **options):
        folder = Path(config["paths"]["folder"])
        if options.get("callbacks") and not (folder / "lease/2.json").exists():
            other = subprocess.Popen(["sleep", "2"])
            threading.Thread(target=other.wait).start()  # or it would stay as a zombie
            record = json.loads((folder / "lease/1.json").read_text()) | {"pid": other.pid}
            (folder / "lease/2.json").write_text(json.dumps(record))
        return build(config, **options)

    monkeypatch.setattr(lifecycle, "build", lose)
    assert command("train", "-m", *TINY, "sweep_name=s", "seed=0") == []
    assert "slept for too long, and another one has taken the job over" in capsys.readouterr().out
    assert states(sweep) == {"": "finished"}
    assert holder(read_sweep(sweep).jobs[0].folder).number == 3


def test_two_copies_share_the_jobs_and_train_none_twice(sweep, tmp_path):
    copies = [start("seed=range(6)", cwd=tmp_path) for _ in range(2)]
    for copy in copies:
        code, output, errors = end(copy)
        assert (code, errors) == (0, [])
        assert sum(" finished  " in line for line in output) == 6  # each knows of all
    assert set(states(sweep).values()) == {"finished"}
    held = [holder(job.folder) for job in read_sweep(sweep).jobs]
    assert {one.number for one in held} == {1}
    assert {one.pid for one in held} == {copy.pid for copy in copies}


def test_ctrl_c_stops_cleanly_and_a_broken_summary_counts_as_none(sweep, tmp_path):
    process = start("seed=0,1", *LONG, cwd=tmp_path)
    wait_for(lambda: checkpoints(sweep), process)
    process.send_signal(signal.SIGINT)
    code, output, errors = end(process)
    said = "stopping: what is trained is saved first; Ctrl-C again ends at once"
    assert (code, errors[:2], len(errors)) == (130, ["", said], 3)
    assert errors[-1].startswith("stopped; go on from here with: python ")
    assert " -m sweep_name=s logger=csv" in errors[-1]
    assert sorted(states(sweep).values()) == ["preempted", "waiting"]
    assert any("asked to stop; run the command again to go on" in line for line in output)
    (stopped,) = [job.folder for job in read_sweep(sweep).jobs if job.state == "preempted"]
    (stopped / "summary.json").write_text('{"status": "fini')
    process = start("seed=0,1", *LONG, cwd=tmp_path)
    wait_for(lambda: "resuming from" in (stopped / "train.log").read_text(), process)
    process.send_signal(signal.SIGKILL)
    end(process)
    assert read_sweep(sweep).count()["interrupted"] == 1


def test_joblib_trains_in_children_that_save_when_the_sweep_is_stopped_and_may_be_killed(sweep, tmp_path):
    children = ["seed=0,1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = start(*children, *LONG, cwd=tmp_path)
    wait_for(lambda: len(checkpoints(sweep)) == 2, process)
    process.send_signal(signal.SIGTERM)
    code, _, errors = end(process)
    assert code == 1
    assert errors[-1].startswith("stopped; go on from here with: python ")
    assert sorted(states(sweep).values()) == ["preempted", "preempted", "waiting"]
    process = start(*children, *LONG, cwd=tmp_path)
    wait_for(lambda: read_sweep(sweep).count()["running"] == 2, process)
    killed = next(job.folder for job in read_sweep(sweep).jobs if job.state == "running")
    os.kill(holder(killed).pid, signal.SIGKILL)
    wait_for(lambda: holder(killed).number == 3, process)  # begun again, by the same command
    process.send_signal(signal.SIGKILL)  # the children notice, and save
    process.communicate()
    deadline = time.monotonic() + 60
    while read_sweep(sweep).count()["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "finished" not in states(sweep).values()


def test_a_signal_to_one_child_stops_its_job_alone(sweep, tmp_path):
    children = ["seed=range(4)", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "trainer.max_steps=2000"]
    process = start(*children, cwd=tmp_path)
    wait_for(lambda: len(checkpoints(sweep)) == 2, process)
    asked = next(job.folder for job in read_sweep(sweep).jobs if job.state == "running")
    os.kill(holder(asked).pid, signal.SIGTERM)
    code, _, errors = end(process)
    assert (code, errors[-1].partition(";")[0]) == (1, "1 of 4 jobs did not finish (1 preempted)")
    assert sorted(states(sweep).values()) == ["finished", "finished", "finished", "preempted"]
    assert not list(sweep.glob(".stopping-*"))


def test_a_full_disk_before_anything_is_noted_is_the_one_thing_said(sweep, tmp_path):
    process = start("seed=0,1", *LONG, cwd=tmp_path)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (300, 300))
    code, _, errors = end(process)
    assert (code, errors) == (1, [f"{sweep}: File too large; make room, then the same command goes on"])


def test_a_full_disk_fails_a_job_and_the_next_command_goes_on(sweep, tmp_path):
    process = start("seed=0,1", *LONG, cwd=tmp_path)
    wait_for(lambda: checkpoints(sweep), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4000, 4000))
    code, output, errors = end(process)
    assert code == 1
    assert errors == [f"{sweep}: File too large; make room, then the same command goes on"]
    assert any(line.endswith(str(first(sweep))) for line in output)
    assert not list(sweep.rglob(".*.part.*"))
    assert torch.load(checkpoints(sweep)[0], weights_only=True)["global_step"] >= 100
