"""A run that is asked to stop saves itself where it is, and ends as the run that nothing disturbed, bit for bit."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from itertools import pairwise
from pathlib import Path

import lightning as L
import pytest
from processes import assert_same_end, finish, fresh, start, wait_for

from ncsn_lightning import BlockCallback
from ncsn_lightning.core.signals import SIGNALS, WARNINGS, Preempted, Stopped, asked, listening, note, training
from ncsn_lightning.runs import lifecycle
from ncsn_lightning.training.checkpoints import read_checkpoint

BLOCKS = ["block_size=20", "~callbacks.figures", "weighting=learned"]
ENDS_OF_A_PROCESS = [signal.SIGINT, signal.SIGHUP, signal.SIGTERM]
ENDS = [20, 40, 50, 60, 80, 100]
"""Steps at which the blocks of such a run end; 50 ends an epoch, 100 the run."""


class Ask(BlockCallback):
    """Send this process a signal during the block that begins at a step."""

    def __init__(self, step, signum):
        self.step, self.signum = step, signum

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.signum)


def preempted_by(signum):
    """A training that was asked to stop, and what its end does then."""
    with listening(), training(patient=True):
        note(signum)
        raise Preempted


def handlers():
    return [signal.getsignal(signum) for signum in SIGNALS]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def train(configure, tmp_path):
    """Train a small run here, asked to stop in one of its blocks or not at all; its folder."""

    def run(folder, *asking):
        job = lifecycle.build(configure(*BLOCKS, folder=folder), overrides=[])
        if asking:
            job.trainer.callbacks.append(Ask(*asking))  # after the one that looks before a block begins
        lifecycle.fit(job)
        return tmp_path / folder

    return run


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_asked_in_any_block(signum, train, tmp_path):
    """Of an epoch's first, middle and last, and of the run's last."""
    undisturbed, before = train("undisturbed"), handlers()
    for first, end in pairwise([0, *ENDS]):
        folder = tmp_path / f"asked-at-{first}"
        with pytest.raises(Preempted, match=f"^preempted by {signum.name} at step {end}; go on with resume={folder}$"):
            train(folder.name, first, signum)
        assert read_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] == end
        assert (summary(folder)["status"], summary(folder)["steps"]) == ("preempted", end)
        lifecycle.resume(folder)
        assert_same_end(folder, undisturbed)
    assert handlers() == before


def test_asked_at_random_moments_until_it_is_done(tmp_path):
    """Whatever the process is doing then: starting, training, validating, drawing, ending."""
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "run"
    finish(start(*fresh(undisturbed), "block_size=7"))
    process, chance = start(*fresh(folder), "block_size=7"), random.Random(0)
    wait_for((folder / "checkpoints/last.ckpt").exists, process)
    for signum in (signal.SIGTERM, signal.SIGUSR2):
        time.sleep(chance.uniform(0, 1))
        process.send_signal(signum)
        output, _ = process.communicate(timeout=300)
        assert process.returncode in (0, 1, -signum), output
        process = start(f"resume={folder}")
        time.sleep(chance.uniform(0, 5))
    finish(process)
    assert_same_end(folder, undisturbed)


def two_ranks(folder, *more):
    """A run whose first picture appears at step 40, inside an epoch."""
    small = ["data.steps_per_epoch=100", "trainer.max_steps=200", "callbacks.figures.every_n_steps=40"]
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "block_size=10"]
    return start(*fresh(folder), *small, *ranks, *more)


def ranks(process):
    """Process ids of both ranks, the first one first."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [process.pid, *(int(pid) for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes())]


def stopped(process, signum, folder):
    """The step at which both ranks of a run have stopped, and saved it."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert output.splitlines()[-1].startswith(f"preempted by {signum.name} at step ")
    assert (output.count("preempted by"), output.count("Traceback")) == (1, 0)
    assert summary(folder)["status"] == "preempted"
    assert summary(folder)["steps"] == read_checkpoint(folder / "checkpoints/last.ckpt")["global_step"]
    return summary(folder)["steps"]


def test_ranks_stop_at_the_same_step_whichever_of_them_was_asked(tmp_path):
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "run"
    finish(two_ranks(undisturbed))
    process = two_ranks(folder)
    wait_for((folder / "figures/samples.png").exists, process)
    os.kill(ranks(process)[1], signal.SIGUSR2)
    assert 40 <= stopped(process, signal.SIGUSR2, folder) < 100
    process = start(f"resume={folder}")
    wait_for(lambda: "step 100 of 200" in (folder / "train.log").read_text(), process)
    os.kill(ranks(process)[0], signal.SIGTERM)
    assert stopped(process, signal.SIGTERM, folder) < 200
    finish(start(f"resume={folder}"))
    assert_same_end(folder, undisturbed)


def test_spawned_ranks_hear_of_what_their_parent_was_asked(tmp_path):
    folder = tmp_path / "run"
    process = two_ranks(folder, "trainer.strategy=ddp_spawn")
    wait_for((folder / "figures/samples.png").exists, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    last = output.splitlines()[-1]
    assert last.startswith("preempted by SIGTERM at step ")
    step = read_checkpoint(folder / "checkpoints/last.ckpt")["global_step"]
    assert f"at step {step};" in last
    assert 40 <= step < 100
    assert (summary(folder)["status"], summary(folder)["error"]) == ("preempted", last)


class AskAtTheEnd(L.Callback):
    def __init__(self, signum):
        self.signum = signum

    def on_fit_end(self, *_):
        os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize("signum", ENDS_OF_A_PROCESS)
def test_after_the_training_a_signal_abandons_what_can_be_done_again(signum, configure):
    job = lifecycle.build(configure(), overrides=[])
    job.trainer.callbacks.insert(0, AskAtTheEnd(signum))
    with pytest.raises(Stopped):
        lifecycle.fit(job)
    folder = Path(job.record.config["paths"]["folder"])
    assert (summary(folder)["status"], summary(folder)["steps"]) == ("preempted", 100)
    assert not (folder / "samples.npz").exists()
    lifecycle.resume(folder)
    assert summary(folder)["status"] == "finished"
    assert (folder / "samples.npz").exists()


def test_a_warning_that_comes_too_late_changes_nothing(configure):
    job = lifecycle.build(configure("~callbacks.figures"), overrides=[])
    job.trainer.callbacks.insert(0, AskAtTheEnd(signal.SIGUSR2))
    lifecycle.fit(job)
    assert summary(Path(job.record.config["paths"]["folder"]))["status"] == "finished"


def test_the_last_of_the_signals_counts_and_is_forgotten_in_the_end():
    with suppress(Preempted), listening(), training(patient=True):
        assert asked() is None
        for signum in reversed(SIGNALS):
            os.kill(os.getpid(), signum)
            with listening():
                assert asked() == SIGNALS[-1]
        raise Preempted
    with listening():
        assert asked() is None


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_a_trainer_without_a_job_gives_the_signals_back_and_forgets_them(signum, configure):
    before = handlers()
    for folder, asking in (("first", [50, signum]), ("second", [])):
        job = lifecycle.build(configure(*BLOCKS, "~callbacks.learning_rate", folder=folder), overrides=[])
        if asking:
            job.trainer.callbacks.append(Ask(*asking))
        with pytest.raises(Preempted) if asking else nullcontext():
            job.trainer.fit(job.module, datamodule=job.data)
        assert handlers() == before
    assert job.trainer.global_step == 100


def test_a_forked_worker_leaves_the_signal_to_its_parent():
    with listening():
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGUSR2)
            os._exit(asked() is not None)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert asked() is None


@pytest.mark.parametrize("signum", WARNINGS)
def test_after_a_warning_whoever_listened_before_has_the_last_word(signum):
    heard = []

    def requeue(signum, _):
        heard.append(signum)
        sys.exit(3)

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(Preempted):
            preempted_by(signal.SIGTERM)
        assert heard == []
        with pytest.raises(SystemExit):
            preempted_by(signum)
        assert signal.getsignal(signal.SIGUSR2) is requeue
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2]


@pytest.mark.parametrize(
    ("slurm", "requeued"),
    [
        ({"SLURM_JOB_ID": "7"}, ["requeue 7"]),
        ({"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, ["requeue 7_2"]),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "1"}, []),
        ({}, []),
    ],
)
def test_in_a_batch_job_the_first_rank_requeues(slurm, requeued, tmp_path, monkeypatch):
    scontrol, calls = tmp_path / "scontrol", tmp_path / "calls"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    end = SystemExit if slurm.get("SLURM_PROCID") else Preempted
    with pytest.raises(end):
        preempted_by(signal.SIGUSR2)
    assert (calls.read_text().splitlines() if calls.exists() else []) == requeued


def test_a_requeue_that_slurm_refuses_is_said(tmp_path, monkeypatch, caplog):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho requeue is disabled >&2\nexit 1\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with caplog.at_level(logging.WARNING), pytest.raises(Preempted):
        preempted_by(signal.SIGUSR2)
    assert caplog.messages == ["Slurm does not requeue job 7: requeue is disabled"]


def test_the_flag_needs_no_torch():
    code = "import sys, ncsn_lightning.core.signals; print('torch' in sys.modules, 'lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
