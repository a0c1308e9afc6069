"""Trainings in processes of their own, and whether two of them ended alike."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

TRAIN = Path(__file__).parents[1] / "scripts/train.py"
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


def start(*arguments, code=None):
    command = [sys.executable, *(code or []), str(TRAIN), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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
        assert process.poll() is None, process.communicate()[0]
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
    assert logged(undisturbed) == logged(folder)


def logged(folder):
    """metrics.csv, without times."""
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if "time" not in k} for row in csv.DictReader(file)]
