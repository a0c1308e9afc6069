"""`wandb sweep conf/wandb_sweep.yaml`: what an agent makes of it trains, and measures what is to be minimised."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

ROOT = Path(__file__).parents[1]
SWEEP = yaml.safe_load((ROOT / "conf/wandb_sweep.yaml").read_text())
BIN = Path(sys.executable).parent
TINY = [
    *("network.hidden_dims=[8]", "network.embedding.dim=8", "objective.pool_size=1000", "data.batch_size=64"),
    *("data.validation_size=64", "score_test.num_points=16", "trainer.max_steps=20", "data.steps_per_epoch=20"),
    *("block_size=20", "~callbacks.figures"),
]


def command(values):
    """What an agent runs for these values (`wandb.wandb_agent.Agent._command_run`)."""
    macros = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [SWEEP["program"]],
        **create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}}),
    }
    words = []
    for word in create_sweep_command(list(SWEEP["command"])):
        words += macros[word[2:-1]] if word.startswith("${") else [word]
    return words


def proposals():
    """The least and the greatest values, or the first and the last."""
    for place in ("min", "max"):
        index = 0 if place == "min" else -1
        yield {key: p["values"][index] if "values" in p else p[place] for key, p in SWEEP["parameters"].items()}


def test_the_command_of_an_agent_trains_and_measures_the_metric(tmp_path):
    environment = {**os.environ, "WANDB_MODE": "offline", "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    first, last = proposals()
    for values in (first, last):
        words = [*command(values), "--cfg", "job"]  # with every key and option known
        subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, timeout=100, check=True)
    words = [*command(last), *TINY, f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = tmp_path.glob("run/wandb/offline-run-*")
    inspect = [BIN / "wandb", "leet", "inspect", "--json", "--summary", run]
    found = json.loads(subprocess.run(inspect, capture_output=True, text=True, check=True).stdout)
    assert found["summary"][SWEEP["metric"]["name"]] > 0
    assert found["project"] == SWEEP["project"]
    config = json.loads((tmp_path / "run/summary.json").read_text())["overrides"]
    assert {f"{key}={value}" for key, value in last.items()} <= set(config)


def test_it_searches_what_the_search_searches():
    search = yaml.safe_load((ROOT / "conf/sweep/search.yaml").read_text())["hydra"]["sweeper"]
    fixed = {"seed", *(word.partition("=")[0] for word in SWEEP["command"])}
    assert set(search["params"]) - fixed == set(SWEEP["parameters"])
    assert search["n_trials"] == SWEEP["run_cap"]
