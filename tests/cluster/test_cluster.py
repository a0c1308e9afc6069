"""Sweeps and single jobs on a real Slurm of two nodes, disturbed in every way that a cluster knows."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import assert_same_end

ROOT = Path(__file__).parents[2]
TRAIN = [sys.executable, str(ROOT / "scripts/train.py")]
RECIPE = [
    "logger=csv",
    "network.hidden_dims=[32,32]",
    "data.batch_size=64",
    "block_size=10",
    "data.steps_per_epoch=500",
    "data.validation_size=64",
    "score_test.num_points=64",
    "~callbacks.figures",
]
LONG = 4000
"""Steps that leave time to disturb a job after its first epoch."""

TWO_RANKS = ["trainer=ddp", "trainer.accelerator=cpu"]
OVER_NODES = [*TWO_RANKS, "trainer.devices=1", "trainer.num_nodes=2"]
FINISHED = 400
"""Seconds within which a job should have come where it is awaited."""


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def local(folder, *arguments):
    """Train without the cluster, undisturbed."""
    done = subprocess.run([*TRAIN, *arguments, *RECIPE], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def undisturbed_ranks(tmp_path_factory):
    """A run of two ranks on this machine."""
    folder = tmp_path_factory.mktemp("ranks")
    local(folder, *TWO_RANKS, "trainer.devices=2", f"trainer.max_steps={LONG // 3}", "hydra.run.dir=run")
    return folder / "run"


def has_begun(folder):
    return (folder / "checkpoints/last.ckpt").exists()


def holder(folder):
    """The process that trains in a job's folder, and its job's number."""
    numbers = sorted((folder / "lease").glob("*.json"), key=lambda path: int(path.stem))
    held = json.loads(numbers[-1].read_text())
    return held["pid"], held["batch"].partition("-")[0]


def assert_went_on(folder):
    """A warning came inside an epoch, and the run went on from there."""
    log = (folder / "train.log").read_text()
    (step,) = map(int, re.findall(r"preempted by SIGUSR2 at step (\d+)", log))
    assert step % 500
    assert len(re.findall("resuming from .*last.ckpt", log)) == 1


class Sweep:
    """A sweep's command, waiting for its jobs in Slurm."""

    def __init__(self, cluster, cwd, *arguments):
        self.cluster, self.folder = cluster, cwd / "outputs/sweeps/tried"
        name = ["-m", "hydra/launcher=slurm", "hydra.launcher.partition=short", "sweep_name=tried"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(
            [*TRAIN, *name, *RECIPE, *arguments], cwd=cwd, env=cluster.environment, **streams
        )

    def jobs(self):
        """The folder of every job that is known, by the values of what is swept."""
        path = self.folder / "sweep.json"
        plan = json.loads(path.read_text()) if path.exists() else {"jobs": {}}
        return {tuple(job["overrides"].values()): self.folder / name for name, job in plan["jobs"].items()}

    def wait(self, condition):
        def holds():
            assert self.process.poll() is None, self.process.communicate()[0]
            return condition()

        self.cluster.wait(holds, seconds=FINISHED)

    def end(self):
        """Its exit status, and what it printed."""
        output, _ = self.process.communicate(timeout=2 * FINISHED)
        return self.process.returncode, output


def reported(folder):
    """The states of the jobs in the report, which is a page and a table."""
    assert "<title>tried" in (folder / "report.html").read_text()
    with open(folder / "sweep.csv", newline="") as file:
        return sorted(row["state"] for row in csv.DictReader(file))


@pytest.fixture
def sweep(cluster, tmp_path):
    """Starts a sweep's command; none outlives its test."""
    begun = []

    def begin(*arguments):
        begun.append(Sweep(cluster, tmp_path, *arguments))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.wait()
        one.process.stdout.close()


def test_a_sweep_ends_as_an_undisturbed_one_whatever_happens_to_its_jobs(cluster, sweep, tmp_path):
    """Six jobs in an array: one is warned, one cancelled, one killed; the command's second run does what is left."""
    factors = [f"trainer.max_steps=500,{LONG}", "seed=0,1,2"]
    command = sweep(*factors)

    def warn(folder):
        cluster.warn(holder(folder)[1])

    def cancel(folder):
        cluster.cancel(holder(folder)[1])

    def kill(folder):
        os.kill(holder(folder)[0], signal.SIGKILL)

    to_come = {"0": warn, "1": cancel, "2": kill}

    def all_are_disturbed():
        for seed, disturb in list(to_come.items()):
            folder = command.jobs().get((str(LONG), seed))
            if folder and has_begun(folder):
                disturb(folder)
                del to_come[seed]
        return not to_come

    command.wait(all_are_disturbed)
    status, output = command.end()
    assert status == 1
    assert output.splitlines()[-1].startswith("1 of 6 jobs did not finish (1 preempted)")
    assert reported(command.folder) == ["finished"] * 5 + ["preempted"]
    jobs = command.jobs()
    warned, cancelled, killed = (jobs[str(LONG), seed] for seed in "012")
    assert re.search(r"the launcher gave up .*job \d+_\d+ of Slurm", output)
    assert_went_on(warned)
    assert summary(cancelled)["status"] == "preempted"
    assert summary(killed)["status"] == "finished"

    submitted = len(cluster.jobs())
    status, output = sweep(*factors).end()
    assert (status, len(cluster.jobs())) == (0, submitted + 1), output
    assert reported(command.folder) == ["finished"] * 6
    local(tmp_path, "-m", *factors, "sweep_name=undisturbed")
    for folder in jobs.values():
        assert_same_end(folder, tmp_path / "outputs/sweeps/undisturbed" / folder.name)


def test_one_job_of_a_sweep_with_two_ranks_on_two_nodes(cluster, sweep, undisturbed_ranks):
    command = sweep(*OVER_NODES, f"trainer.max_steps={LONG // 3}", "seed=0")
    command.wait(lambda: any(map(has_begun, command.jobs().values())))
    (folder,) = command.jobs().values()
    cluster.warn(holder(folder)[1])
    status, output = command.end()
    assert status == 0, output
    assert_went_on(folder)
    assert_same_end(folder, undisturbed_ranks)
    assert cluster.jobs()[holder(folder)[1]]["NumNodes"] == "2"


def test_who_stops_the_command_stops_its_jobs(cluster, sweep):
    command = sweep(f"trainer.max_steps={LONG}", "seed=0,1")
    command.wait(lambda: len(command.jobs()) == 2 and all(map(has_begun, command.jobs().values())))
    command.process.terminate()
    status, output = command.end()
    assert status == 1
    assert output.splitlines()[-1].startswith("stopped; go on from here with: ")
    assert [summary(folder)["status"] for folder in command.jobs().values()] == ["preempted"] * 2
    assert cluster.run("squeue", "--noheader") == ""


def test_a_batch_job_with_two_ranks_on_two_nodes(cluster, undisturbed_ranks, tmp_path):
    """Warned, it is requeued and goes on; cancelled, it goes on in a job that resumes it."""
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])

    def submit(*arguments):
        script = ["--parsable", "--nodes=2", str(ROOT / "scripts/slurm/train.sbatch")]
        return cluster.run("sbatch", *script, *arguments, cwd=tmp_path).strip()

    def state():
        return cluster.jobs()[job]["JobState"]

    job = submit(*RECIPE, *OVER_NODES, f"trainer.max_steps={LONG // 3}")
    folder = tmp_path / f"outputs/runs/slurm-{job}"
    cluster.wait(lambda: has_begun(folder), seconds=FINISHED)
    cluster.warn(job)
    cluster.wait(lambda: cluster.jobs()[job]["Restarts"] == "1" and state() == "RUNNING", seconds=FINISHED)
    cluster.wait(lambda: "resuming" in (folder / "train.log").read_text(), seconds=FINISHED)
    cluster.cancel(job)
    cluster.wait(lambda: state() == "CANCELLED", seconds=FINISHED)
    assert summary(folder)["status"] == "preempted"
    job = submit(f"resume={folder}")
    cluster.wait(lambda: state() not in ("PENDING", "RUNNING", "COMPLETING"), seconds=FINISHED)
    assert state() == "COMPLETED", (tmp_path / f"ncsn-{job}.log").read_text()
    assert_same_end(folder, undisturbed_ranks)
