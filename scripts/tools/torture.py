"""Kill a sweep of nine jobs at random moments, run its command again until it is done, compare with an undisturbed one.

    python scripts/tools/torture.py --trials 100

Every weight, average, optimiser state, sample, metric and logged value of every job must be the same, by `torch.equal`.
In every second trial two copies of the command share the sweep. Processes are real and signals too; to make a trial a
matter of seconds, the processes are forks of one that has imported torch, draw no pictures and write no report.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ncsn_lightning import cli, plotting, report
from ncsn_lightning.sweeps.folder import read_sweep
from ncsn_lightning.training.callbacks import SamplesAndFigures

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
SWEEP = (
    *("-m", "schedule.num_levels=8,9,10", "seed=0,1,2", "weighting=learned", "logger=csv"),
    *("network.hidden_dims=[16,16]", "network.embedding.dim=8", "objective.pool_size=1000", "data.batch_size=64"),
    *("trainer.max_steps=60", "data.steps_per_epoch=15", "block_size=5", "trainer.log_every_n_steps=5"),
    *("data.validation_size=64", "score_test.num_points=64", "sampler.steps_per_level=2"),
    "callbacks.figures.num_samples=50",
)
STATES = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step")
"""What a checkpoint holds, but Lightning's count of its loops, which knows of resumptions."""


class Copy:
    """One process that runs the command in `folder`, output to a file there."""

    def __init__(self, folder: Path) -> None:
        self.pid = os.fork()
        self.ended = False
        if self.pid == 0:
            _run(folder)

    def poll(self) -> bool:
        """Whether it has ended."""
        if not self.ended:
            self.ended = os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return self.ended

    def send(self, number: signal.Signals) -> None:
        if not self.poll():
            os.kill(self.pid, number)


def _run(folder: Path) -> None:
    """In the child: the command, as a shell would run it."""
    os.setsid()
    with open(folder.with_suffix(".log"), "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = ["train.py", *SWEEP, f"hydra.sweep.dir={folder}"]
    code: Any = 1
    try:
        cli.train()
        code = 0
    except SystemExit as end:
        print(end.code, file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def undisturbed(folder: Path) -> float:
    """Run the whole sweep and return how long it took."""
    started = time.monotonic()
    os.waitpid(Copy(folder).pid, 0)
    _demand_end(folder)
    return time.monotonic() - started


def disturbed(folder: Path, *, seconds: float, copies: int, chance: random.Random) -> Counter[str]:
    """Run the sweep, with signals at random moments, again and again until it is done; return the signals sent."""
    sent: Counter[str] = Counter()
    while True:
        running = [Copy(folder) for _ in range(copies)]
        started = time.monotonic()
        strikes = [(started + chance.uniform(0, seconds / copies), copy, chance.choice(SIGNALS)) for copy in running]
        while not all([copy.poll() for copy in running]):
            for strike in [strike for strike in strikes if strike[0] < time.monotonic()]:
                strikes.remove(strike)
                sent.update([] if strike[1].poll() else [strike[2].name])
                strike[1].send(strike[2])
            time.sleep(0.002)
        if (folder / "sweep.json").exists() and read_sweep(folder).count()["finished"] == 9:
            return sent


def _demand_end(folder: Path) -> None:
    counts = read_sweep(folder).count()
    if counts != {"finished": 9}:
        sys.exit(f"{folder}: the undisturbed sweep did not finish: {dict(counts)}; see {folder.with_suffix('.log')}")


def everything(sweep: Path) -> dict[str, Any]:
    """All that the jobs of a sweep leave, but times, by its place."""
    found: dict[str, Any] = {}
    for job in read_sweep(sweep).jobs:
        for name in ("last", "best"):
            checkpoint = torch.load(job.folder / f"checkpoints/{name}.ckpt", weights_only=True)
            found |= _leaves({key: checkpoint[key] for key in STATES}, f"{job.hash}/{name}")
        samples = torch.from_numpy(np.load(job.folder / "samples.npz")["x"])
        with open(job.folder / "metrics.csv", newline="") as file:
            timed = ("time", "per_second")  # and the numbers of pictures that a stop has put off come later in the file
            rows = sorted(
                sorted((k, v) for k, v in row.items() if not any(map(k.count, timed))) for row in csv.DictReader(file)
            )
        summary = json.loads((job.folder / "summary.json").read_text())
        kept = {key: summary[key] for key in ("status", "seed", "steps", "metrics", "config_hash", "error")}
        found |= _leaves({"samples": samples, "rows": rows, **kept}, job.hash)
    return found


def _leaves(node: Any, path: str) -> dict[str, Any]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else None
    if inner is None:
        return {path: node}
    return {k: v for key, value in inner if "time" not in str(key) for k, v in _leaves(value, f"{path}/{key}").items()}


def differences(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """Places at which two sweeps differ."""
    for path in sorted(first.keys() | second.keys()):
        a, b = first.get(path), second.get(path)
        same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else repr(a) == repr(b)
        if not same:
            yield path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    SamplesAndFigures._figures = lambda *_: iter(())  # type: ignore[assignment, return-value]
    plotting.animate_annealing = lambda *_: b""
    report.write_report = lambda sweep: sweep.folder
    root = Path(tempfile.mkdtemp(prefix="torture-"))
    sweep = root / "sweep"  # always the same, for a checkpoint knows its place
    seconds = undisturbed(sweep)
    expected, signals = everything(sweep), Counter[str]()
    print(f"an undisturbed sweep takes {seconds:.1f} s and leaves {len(expected)} values", flush=True)
    for trial in range(arguments.trials):
        shutil.rmtree(sweep)
        chance = random.Random(f"{arguments.seed} {trial}")
        sent = disturbed(sweep, seconds=seconds, copies=1 + trial % 2, chance=chance)
        if places := list(differences(expected, everything(sweep))):
            sys.exit(f"trial {trial} differs at {len(places)} places, such as {places[0]}; see {sweep}")
        signals += sent
        print(f"{trial + 1} of {arguments.trials}: the same, after {dict(sent)}", flush=True)
    shutil.rmtree(root)
    print(f"{arguments.trials} of {arguments.trials} trials: nothing lost, nothing differs; signals: {dict(signals)}")


if __name__ == "__main__":
    main()
