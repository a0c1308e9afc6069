"""A run that is interrupted, doubled, moved, or to be longer: nothing is lost, and nothing is done twice."""

import csv
import json
import logging
import os
import re
import shutil
import signal
import time

import pytest
import torch
from processes import assert_same_end, finish, fresh, kill, logged, start, wait_for

from ncsn_lightning import BlockCallback, cli
from ncsn_lightning.config.plain import config_hash
from ncsn_lightning.core.atomic_files import replacing, retried
from ncsn_lightning.core.lease import holder, take
from ncsn_lightning.core.signals import Stopped
from ncsn_lightning.runs import lifecycle
from ncsn_lightning.training.callbacks import LastCheckpoint
from ncsn_lightning.training.checkpoints import latest_checkpoint, read_checkpoint

LONG = ["trainer.max_steps=1000000", "data.steps_per_epoch=100000"]
"""A run that never comes to its first validation."""

TINY = [
    *("logger=csv", "network.hidden_dims=[16,16]", "network.embedding.dim=8", "objective.pool_size=1000"),
    *("data.batch_size=64", "data.validation_size=64", "score_test.num_points=64", "sampler.steps_per_level=2"),
    *("trainer.max_steps=40", "data.steps_per_epoch=20", "~callbacks.figures"),
]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def output_of(process):
    return process.files[0].read_text() if process.files[0].exists() else ""


class Fail(BlockCallback):
    """Break the training down once a step is reached."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step >= self.step:
            raise RuntimeError("broken down")


@pytest.fixture
def train(configure, tmp_path):
    """Train a small run here that saves itself before every block, and breaks down at a step or not at all."""

    def run(folder, *overrides, fails=None):
        settings = ["~callbacks.figures", "weighting=learned", *overrides]
        job = lifecycle.build(configure(*settings, folder=folder), overrides=[])
        (saving,) = (c for c in job.trainer.callbacks if isinstance(c, LastCheckpoint))
        saving.first = saving.every = 1e-9
        if fails is None:
            lifecycle.fit(job)
            return tmp_path / folder
        job.trainer.callbacks.insert(0, Fail(fails))
        with pytest.raises(RuntimeError, match="broken down"):
            lifecycle.fit(job)
        return tmp_path / folder

    return run


@pytest.mark.parametrize(
    "loop", [["block_size=20"], ["block_size=7", "trainer.log_every_n_steps=7"], ["loop=standard"]], ids=lambda x: x[0]
)
def test_whatever_was_saved_by_time_is_gone_on_with_bit_for_bit(loop, train):
    undisturbed = train("undisturbed", *loop)
    for step in (30, 50, 61, 99):
        folder = train(f"broken-{step}", *loop, fails=step)
        assert 0 < read_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] <= step
        lifecycle.resume(folder)
        assert_same_end(folder, undisturbed)


def test_a_run_goes_on_in_the_other_loop(train, caplog):
    undisturbed, folder = train("undisturbed"), train("broken", fails=50)
    with caplog.at_level(logging.INFO):
        lifecycle.resume(folder, loop="standard")
    assert "standard loop, one optimiser step a call, for loop=standard" in caplog.text
    assert_same_end(folder, undisturbed)


def test_killed_before_the_first_validation(tmp_path):
    folder = tmp_path / "run"
    process = start(*fresh(folder), *LONG, "callbacks.figures.every_n_steps=1000000")
    wait_for((folder / "checkpoints/last.ckpt").exists, process)
    with open(folder / "metrics.csv") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    kill(process)
    saved = read_checkpoint(folder / "checkpoints/last.ckpt")["global_step"]
    assert len(steps) > 1
    process = start(f"resume={folder}")
    wait_for(lambda: "resuming from" in output_of(process), process)
    with open(folder / "metrics.csv") as file:
        rows = [int(row["step"]) for row in csv.DictReader(file) if row["loss/train"]]
    assert rows == sorted(set(rows))
    assert max(steps) >= saved - 100
    kill(process)


def test_a_reader_that_follows_metrics_csv_sees_every_row_at_once(train, monkeypatch):
    from ncsn_lightning.training.loggers import MetricsCSV

    log, seen = MetricsCSV.log_metrics, []

    def look(self, metrics, step=None):
        log(self, metrics, step)
        with open(self.experiment.metrics_file_path) as file:
            seen.append((os.fstat(file.fileno()).st_ino, len(file.readlines())))

    monkeypatch.setattr(MetricsCSV, "log_metrics", look)
    train("run", "trainer.log_every_n_steps=10")
    assert len({inode for inode, _ in seen}) == 1
    assert [count for _, count in seen] == [*range(2, len(seen) + 2)]


@pytest.mark.parametrize("moment", ["fast loop", "step 600 of"])
def test_ctrl_c_while_training_or_sampling(moment, tmp_path):
    folder = tmp_path / "run"
    undisturbed = tmp_path / "undisturbed"
    many = "callbacks.figures.num_samples=3000"
    process = start(*fresh(folder), many)
    wait_for(lambda: moment in output_of(process), process)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "stopping: what is trained is saved first" in output
    assert output.splitlines()[-1].endswith(f"go on with resume={folder}")
    assert "Traceback" not in output
    assert summary(folder)["status"] == "preempted"
    assert time.monotonic() - asked < 100  # ten seconds on a quiet machine, which a test cannot ask for
    finish(start(f"resume={folder}"))
    finish(start(*fresh(undisturbed), many))
    assert_same_end(folder, undisturbed)


def test_ctrl_c_at_the_start_and_once_more(tmp_path):
    folder = tmp_path / "run"
    process = start(*fresh(folder))
    wait_for((folder / "config.yaml").exists, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert output.splitlines()[-1] in (
        f"stopped; go on with resume={folder}",
        *(line for line in output.splitlines() if line.startswith("preempted by SIGINT")),
    )
    assert summary(folder)["status"] == "preempted"
    process = start(f"resume={folder}")
    wait_for(lambda: "fast loop" in output_of(process), process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert output.splitlines()[-1].endswith(f"go on with resume={folder}")
    finish(start(f"resume={folder}"))


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("ncsn_lightning.runs.lifecycle.broken_guidelines", "stopped; go on with"),
        ("ncsn_lightning.plotting.plot_samples", "preempted by SIGTERM at step 10; go on with"),
    ],
    ids=["building", "drawing"],
)
def test_a_stop_of_which_an_import_makes_another_error(where, words, command, tmp_path, monkeypatch):
    def importing(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Stopped as stop:
            raise ImportError("initialization failed") from stop

    monkeypatch.setattr(where, importing)
    drawing = ["callbacks.figures.every_n_steps=10", "callbacks.figures.num_samples=10", "~callbacks.score_split"]
    assert command("train", *TINY[:-1], *drawing, "block_size=5", "hydra.run.dir=run") == [
        f"{words} resume={tmp_path / 'run'}"
    ]
    assert summary(tmp_path / "run")["status"] == "preempted"


def test_of_two_processes_in_one_folder_the_second_is_refused(tmp_path):
    folder = tmp_path / "run"
    first = start(*fresh(folder), *LONG)
    wait_for((folder / "metrics.csv").exists, first)
    for command in ([*fresh(folder), *LONG], [f"resume={folder}"]):
        second = start(*command)
        output, _ = second.communicate(timeout=100)
        assert second.returncode == 1
        said = re.escape(f"process {first.pid} on ") + r"\S+ trains this run; leave it to that one"
        assert re.search(said, output.splitlines()[-1]), output
    assert first.poll() is None
    kill(first)
    third = start(f"resume={folder}")  # at once, for its process is gone
    wait_for(lambda: "resuming from" in output_of(third), third)
    assert holder(folder).number == 2
    kill(third)


def test_whoever_is_refused_leaves_the_folder_of_one_that_began_at_the_same_moment(command, tmp_path, monkeypatch):
    def too_late(folder, **options):
        (folder / "lease").mkdir()
        (folder / "lease/1.json").write_text('{"host": "elsewhere", "pid": 1}')
        return take(folder, **options)

    monkeypatch.setattr(cli, "take", too_late)
    (line,) = command("train", *TINY, "hydra.run.dir=run")
    assert line.startswith(f"hydra.run.dir={tmp_path / 'run'}: process 1 on elsewhere trains this run")
    assert (tmp_path / "run/lease/1.json").exists()


def test_a_working_folder_that_is_gone_is_named(tmp_path, command, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    words = "the working folder has been removed; go to another one, for example by cd ~"
    assert command("train", *TINY, f"hydra.run.dir={tmp_path / 'run'}") == [words]


def test_a_moved_run_keeps_its_best_checkpoint(train, tmp_path):
    folder = train("run", fails=60)
    best = folder / "checkpoints/best.ckpt"
    content = read_checkpoint(folder / "checkpoints/last.ckpt")
    for state in content["callbacks"].values():
        if state.get("monitor") == "score_error":  # so good that nothing is better
            path = state["best_model_path"]
            state |= {"best_model_score": torch.tensor(1e-9), "best_k_models": {path: torch.tensor(1e-9)}}
            state["kth_value"] = torch.tensor(1e-9)
    torch.save(content, folder / "checkpoints/last.ckpt")
    before, moved = best.read_bytes(), tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(folder, moved)
    (moved / "config.yaml").unlink()  # a checkpoint alone is enough
    lifecycle.resume(moved)
    assert (moved / "checkpoints/best.ckpt").read_bytes() == before
    assert summary(moved)["status"] == "finished"
    assert not folder.exists()


@pytest.mark.parametrize("named", ["resume=run", "+resume=run", "++resume=run/checkpoints/last.ckpt"])
def test_a_run_is_named_by_its_folder_or_a_checkpoint(named, command, tmp_path):
    assert command("train", *TINY, "hydra.run.dir=run") == []
    (tmp_path / "run/summary.json").unlink()
    assert command("train", named) == []
    assert summary(tmp_path / "run")["status"] == "finished"


def test_a_run_without_a_checkpoint_finds_its_file_from_anywhere_as_it_was(command, tmp_path, monkeypatch):
    file, points = tmp_path / "p.csv", ["distribution=points", "distribution.path=p.csv", "distribution.bandwidth=1"]
    file.write_text("1,2\n3,4\n")
    assert command("train", *TINY, *points, "hydra.run.dir=run") == []
    for path in ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "summary.json"):  # as a kill at the start leaves it
        (tmp_path / "run" / path).unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file.write_text("1,2\n3,5\n")
    words = f"distribution.path={file}: has changed since the run began; train anew"
    assert command("train", "resume=../run") == [words]
    file.write_text("1,2\n3,4\n")
    assert command("train", "resume=../run") == []
    file.write_text("1,2\n3,5\n")
    (tmp_path / "run/summary.json").unlink()
    assert command("train", "resume=../run") == []  # by the points of its checkpoint


def test_a_checkpoint_alone_is_gone_on_with_in_a_folder_beside_it(command, tmp_path):
    assert command("train", *TINY, "hydra.run.dir=run") == []
    shutil.copy(tmp_path / "run/checkpoints/last.ckpt", tmp_path / "mine.ckpt")
    assert command("train", "resume=mine.ckpt") == []
    assert summary(tmp_path / "mine")["status"] == "finished"
    assert command("train", "resume=mine.ckpt", "trainer.max_steps=60", "hydra.run.dir=more") == []
    assert (summary(tmp_path / "more")["status"], summary(tmp_path / "more")["steps"]) == ("finished", 60)


def test_a_run_of_more_steps_has_a_folder_and_a_rate_of_its_own(command, tmp_path):
    def files(folder):
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "lease" not in str(path)}

    whole = [*TINY, "trainer.log_every_n_steps=5", "block_size=5", "module.warmup_steps=5"]
    assert command("train", *whole, "hydra.run.dir=run") == []
    assert command("train", *whole, "trainer.max_steps=80", "hydra.run.dir=long") == []
    before = files(tmp_path / "run")
    assert command("train", "resume=run", "trainer.max_steps=80") == []
    assert files(tmp_path / "run") == before
    longer = tmp_path / "run-80"
    assert (summary(longer)["status"], summary(longer)["steps"]) == ("finished", 80)
    assert summary(longer)["config_hash"] != summary(tmp_path / "run")["config_hash"]
    rates = [
        {int(row["step"]): float(row["lr"]) for row in logged(folder) if row["lr"]}
        for folder in (longer, tmp_path / "long")
    ]
    late = [step for step in rates[1] if step >= 40]
    assert len(late) > 3
    assert {step: rates[0][step] for step in late} == {step: rates[1][step] for step in late}
    assert rates[0][max(step for step in rates[0] if step < 40)] != rates[1][max(s for s in rates[1] if s < 40)]
    words = "the run has taken 40 steps; give more than that"
    for steps in (40, 30):
        assert command("train", "resume=run", f"trainer.max_steps={steps}") == [f"trainer.max_steps={steps}: {words}"]
        assert not (tmp_path / f"run-{steps}").exists()
    assert command("train", "resume=run", "trainer.max_steps=80") == []  # finished before
    (line,) = command("train", "resume=run", "trainer.max_steps=90", "hydra.run.dir=run-80")
    assert line.startswith(f"hydra.run.dir={longer}: holds a run of another configuration")


RANKS = [
    *({name: "1"} for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK")),
    {"RANK": "0", "WORLD_SIZE": "2"},
    {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "job", "SLURM_JOB_ID": "7"},
]


@pytest.mark.parametrize("environment", RANKS)
def test_one_of_several_processes_with_one_device_is_refused(environment, command, tmp_path, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (line,) = command("train", *TINY, "hydra.run.dir=run")
    said = "SLURM_NTASKS=2" if "SLURM_NTASKS" in environment else "=".join([*environment.items()][-1])
    assert line.startswith(f"trainer.devices=1: {said} says that this is one of several processes")
    assert "trainer=ddp trainer.devices=N" in line


def test_a_training_ends_as_it_should_without_a_terminal_or_a_working_folder(tmp_path):
    place, folder = tmp_path / "place", tmp_path / "run"
    place.mkdir()
    backend = {**os.environ, "MPLBACKEND": "module://not_installed.backend"}
    process = start(*fresh(folder), "trainer.max_steps=150", cwd=place, env=backend)
    wait_for((folder / "config.yaml").exists, process)
    place.rmdir()
    finish(process)
    assert summary(folder)["status"] == "finished"


def test_a_server_that_forgot_a_handle_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    errors = [OSError(116, "Stale file handle")] * 2

    def action():
        if errors:
            raise errors.pop()
        return 7

    assert retried(action) == 7
    with pytest.raises(OSError, match="Stale"):
        retried(lambda: (_ for _ in ()).throw(OSError(116, "Stale file handle")))


def test_a_file_is_written_under_a_name_of_this_machine_and_its_folder_synced(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd)))
    with replacing(tmp_path / "x") as temporary:
        temporary.write_text("1")
        assert temporary.name == f".here-{os.getpid()}.part.x"
    assert synced == [str(temporary), str(tmp_path)]


def test_a_taken_run_takes_no_file_any_more(tmp_path, monkeypatch):
    with take(tmp_path) as lease:
        (tmp_path / "lease/2.json").write_text("{}")
        lease.beat -= 1000
        with pytest.raises(RuntimeError, match="another one has taken the run over"), replacing(tmp_path / "x"):
            raise AssertionError
    assert not (tmp_path / "x").exists()


def test_the_hash_is_that_of_the_new_length(configure):
    short, long = (configure(f"trainer.max_steps={steps}") for steps in (100, 200))
    assert config_hash(short) != config_hash(long)


def test_a_folder_without_a_run_is_not_gone_on_with(command, tmp_path):
    (tmp_path / "empty").mkdir()
    words = "no run's folder, nor a checkpoint; give one of outputs/runs"
    assert command("train", "resume=empty") == [f"resume=empty: {words}"]
    (line,) = command("train", "+resume=nowhere")
    assert line == f"resume=nowhere: {words}"
    assert latest_checkpoint(tmp_path) == (None, [])
