"""Our commands in processes of their own, and whether two trainings ended alike."""

import atexit
import csv
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from wandb.sdk.data_types._private import MEDIA_TMP

from ncsn_lightning.plotting import style

SCRIPTS = Path(__file__).parents[1] / "scripts"
RECIPE = [
    "logger=csv",
    "weighting=learned",
    "network.hidden_dims=[32,32]",
    "objective.pool_size=1000",
    "data.batch_size=64",
    "data.steps_per_epoch=150",
    "data.validation_size=64",
    "trainer.max_steps=600",
    "score_test.num_points=64",
    "callbacks.figures.num_samples=50",
    "callbacks.figures.every_n_steps=300",
    "sampler.steps_per_level=2",
]

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        f"ncsn_lightning.{name}"
        for name in ("cli", "runs.lifecycle", "evaluation.commands", "report.command", "sweeps.running")
    ]
)


class Script:
    """One of our scripts in a process that starts at once, for it is the fork of one that has imported all we need.

    It is used as a `subprocess.Popen` with pipes for text.

    Args:
        name: of the script, or the path of another one without its suffix.
        arguments: of its command line.
        cwd: where it runs.
        env: its environment.
        together: send errors where the output goes.
        start_new_session: with a process group of its own.
    """

    def __init__(self, name, *arguments, cwd=None, env=None, together=False, start_new_session=False):
        self.place = tempfile.TemporaryDirectory()
        self.files = [Path(self.place.name) / name for name in ("output", "errors")[: 2 - together]]
        self.words = [str(SCRIPTS / f"{name}.py"), *map(str, arguments)]
        settings = (self.words, cwd or os.getcwd(), dict(env or os.environ), self.files, start_new_session)
        self.process = FORKS.Process(target=_run, args=settings)
        self.process.start()
        self.pid, self.returncode = self.process.pid, None

    def poll(self):
        self.returncode = self.process.exitcode
        return self.returncode

    def send_signal(self, signum):
        if self.poll() is None:
            os.kill(self.pid, signum)

    def communicate(self, timeout=None):
        self.process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(" ".join(self.words), timeout)
        texts = [file.read_text(errors="replace") for file in self.files]
        self.place.cleanup()
        return (*texts, None)[:2]


def _run(words, cwd, env, files, session):
    """In the fork: the script, as the interpreter would run it, which no process of multiprocessing has begun."""
    multiprocessing.process._parent_process = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if session:
        os.setsid()
    for stream, file in zip((1, 2), (files * 2)[:2], strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    style.RC["figure.dpi"] = 70  # a figure at its own resolution takes a second
    MEDIA_TMP.__init__("wandb-media")  # its end removes the folder, which must not be that of all other forks
    sys.argv = words
    sys.path.insert(0, os.path.dirname(words[0]))
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out


def run(name, *arguments, **options):
    """What a script printed, and its exit code."""
    script = Script(name, *arguments, **options)
    output, errors = script.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, script.returncode, output, errors)


def start(*arguments, **options):
    """Train in a process whose output and errors come together."""
    return Script("train", *arguments, together=True, **options)


def fresh(folder):
    return [*RECIPE, f"hydra.run.dir={folder}"]


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def numbers(folder):
    """Everything that a run leaves, without times."""
    state = {}
    for kind in ("last", "best"):
        checkpoint = torch.load(folder / f"checkpoints/{kind}.ckpt", weights_only=True)
        state |= {f"{kind}/{name}": value for name, value in checkpoint["state_dict"].items()}
        for index, values in checkpoint["optimizer_states"][0]["state"].items():
            state |= {f"{kind}/optimizer/{index}/{name}": value for name, value in values.items()}
    samples = folder / "samples.npz"  # which a run without pictures does not leave
    return state | ({"samples": torch.from_numpy(np.load(samples)["x"])} if samples.exists() else {})


def assert_same_end(folder, undisturbed):
    first, second = numbers(undisturbed), numbers(folder)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    summaries = [json.loads((f / "summary.json").read_text()) for f in (undisturbed, folder)]
    timed = {"training_time", "sampling_time"}
    metrics = [{k: v for k, v in s["metrics"].items() if k not in timed} for s in summaries]
    assert metrics[0] == metrics[1]
    assert [s["status"] for s in summaries] == ["finished", "finished"]
    rows = [sorted(sorted(row.items()) for row in logged(f)) for f in (undisturbed, folder)]
    assert rows[0] == rows[1]  # the numbers of pictures that a stop has put off come later in the file


def logged(folder):
    """metrics.csv, without times."""
    with open(folder / "metrics.csv", newline="") as file:
        timed = ("time", "per_second")
        return [{k: v for k, v in row.items() if not any(map(k.count, timed))} for row in csv.DictReader(file)]
