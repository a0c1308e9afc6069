"""The commands, as their users meet them: exit code, one line for each wrong value, nothing left behind."""

import json
import math
import os
import pickle
import resource
import shlex
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from processes import Script, wait_for
from processes import run as script

from ncsn_lightning import Karras, load_run
from ncsn_lightning.config.overrides import expand_home, refused_overrides
from ncsn_lightning.config.plain import config_folder
from ncsn_lightning.runs import lifecycle
from ncsn_lightning.sweeps.folder import read_sweep
from ncsn_lightning.training.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[1]
TINY = [
    "network.hidden_dims=[16,16]",
    "network.embedding.dim=8",
    "trainer.max_steps=50",
    "data.batch_size=64",
    "data.steps_per_epoch=50",
    "data.validation_size=64",
    "score_test.num_points=64",
    "objective.pool_size=1000",
    "callbacks.figures.num_samples=50",
    "sampler.steps_per_level=2",
]
BARE = ["~callbacks.figures"]


WITHOUT_TORCH = {
    "train --help": "",
    "train --cfg job": "",
    "train schedule=geometrc": "schedule=geometrc: no such option; did you mean geometric?",
    "train network/embedding=furier": "network/embedding=furier: no such option; did you mean fourier?",
    "train experiment=best": "experiment=best: no such option; choose one of default, edm2_toy, ncsn_toy, primer, "
    "table2, techniques, your_points",
    "train shedule=geometric": "shedule=geometric: no such key; did you mean schedule?",
    "train schedule.sigma_mx=1": "schedule.sigma_mx=1: no such key; did you mean schedule.sigma_max?",
    "train shedule.sigma_max=1": "shedule.sigma_max=1: no such key; did you mean schedule.sigma_max?",
    "train lr=1": "lr=1: no such key; did you mean optimizer.lr?",
    "train ~callbacks.figure": "~callbacks.figure: no such key; did you mean callbacks.figures?",
    "train +seed=1": "+seed=1: there already; leave out the +",
    "train schedule=null": "schedule=null: an option is a name; for none write ~schedule",
    "train default": "default: not understood; write key=value, and quote what the shell would take apart",
    "train shedule=linear score=rw lr=1": (
        "score=rw: no such option; did you mean raw?\n"
        "shedule=linear: no such key; did you mean schedule?\n"
        "lr=1: no such key; did you mean optimizer.lr?"
    ),
    "train -m schedule=geometrc,linear,karas weighting=learned,unifrm": (
        "schedule=geometrc: no such option; did you mean geometric?\n"
        "weighting=unifrm: no such option; did you mean uniform?\n"
        "schedule=karas: no such option; did you mean karras?"
    ),
    "train paths.root=/dev/null/x": "paths.root=/dev/null/x: cannot be used (Not a directory: ",
    "train -m seed=1,2 optimizer.learning_rate=1": "optimizer.learning_rate=1: no such key; choose one of betas,",
    "train -m logger=csv,wandb seed=1": "logger=csv,wandb: changes no result, so all its jobs would be one",
    "train -m seed=interval(0,1)": "seed=interval(0,1): no list of values; give choice(…), range(…) or glob(…)",
    "train -m sweep_name=a/b": "sweep_name=a/b: give a name without /; for any other place hydra.sweep.dir=…",
    "train -m sweep=schedule": "sweep=schedule: no such option; did you mean schedule_levels?",
    "train -m paths.root=/dev/null/x": "paths.root=/dev/null/x: cannot be used (Not a directory: ",
    "train resume=nowhere": "resume=nowhere: no run's folder, nor a checkpoint; give one of outputs/runs",
    "train resume=. seed=1 -m": "seed=1 -m: a resumed run has its own configuration, but for trainer.",
    "train resume=~/nowhere": "resume=~/nowhere: no run's folder, nor a checkpoint; give one of outputs/runs",
    "train -m distribution=glob(*) sed=1": "sed=1: no such key; did you mean seed?",
    "train -m distribution=glob(zz*) seed=range(0)": (
        "distribution=glob(zz*): matches no option; choose of checkerboard, circles, eight_gaussians, forty_gaussians, "
        "fractal_tree, grid_gaussians, moons, pinwheel, points, rings, s_curve, swiss_roll, two_gaussians, "
        "two_spirals\n"
        "seed=range(0): holds no value; give a range that does, such as range(0,3)"
    ),
    "train -m seed=glob(*)": "seed=glob(*): matches no option; a glob is for groups; give values by commas",
    "train seed=range(5,1)": "seed=range(5,1): holds no value; give a range that does, such as range(0,3)",
    "train -m seed=shuffle(range(0))": "seed=shuffle(range(0)): holds no value; give a range that does, such as range(",
    "train -m seed=range(0,1,0)": "seed=range(0,1,0): no list of values (range() arg 3 must not be zero); give a range",
    "train -m seed=choice()": "seed=choice(): holds no value; give one at least",
    "train seed=1,2 -m schedule=x": "schedule=x: no such option; choose one of",
    "train =1": "=1: not understood; write key=value, and quote what the shell would take apart",
    "train schedule={a:1}": "schedule={a:1}: no such key schedule.a; choose one of num_levels, sigma_max, sigma_min",
    "train -m schedule={num_level:1,sigma_min:2}": "schedule={num_level:1,sigma_min:2}: no such key schedule.num_le",
    "train hidden_dims=[16,16": "hidden_dims=[16,16: not understood; close its brackets",
    "train distribution.path=a=b.npy": "distribution.path=a=b.npy: not understood; for the value as it stands write "
    "'distribution.path=\"a=b.npy\"'",
    "train distribution.path=x.csv": "distribution.path=x.csv: no such key; choose one of cell_size; distribution=poi",
    "train -m hydra/launcher=joblib hydra.launcher.n_jobs=0": "hydra.launcher.n_jobs=0: give a number of processes, or",
    "train -m hydra/launcher=joblib hydra.launcher.n_jobs=x": "hydra.launcher.n_jobs=x: Value 'x' of type 'str' could",
    "train -m seed=1,2 hydra.sweeper.n_jobs=0": "hydra.sweeper.n_jobs=0: give a whole number of at least 1, or null",
    "train schedule=[linear,karras]": "schedule=[linear,karras]: takes one option; give one, or, to sweep over",
    "sample run=x sampler=[heun,euler]": "sampler=[heun,euler]: takes one option; give one",
    "train hydra.run.dir=a[1": "hydra.run.dir=a[1: not understood; for the value as it stands write ",
    "train -m seed=1,": "seed=1,: a value is missing beside a comma; leave the comma out",
    "train n_jobs=0": "n_jobs=0: no such key; did you mean hydra.sweeper.n_jobs?",
    "train -m hydra.sweeper.n_trial=3": "hydra.sweeper.n_trial=3: no such key; did you mean hydra.sweeper.n_trials?",
    "train hydra.rund.dir=x": "hydra.rund.dir=x: no such key; did you mean hydra.run.dir?",
    "train hydra.run={a:1}": "hydra.run={a:1}: no such key hydra.run.a; choose one of dir",
    "train hydra.verbose={a:1}": "hydra.verbose={a:1}: Hydra cannot begin with this (AssertionError); give another va",
    "train -m seed=1,2 hydra.launcher=3": "hydra.launcher=3: Hydra cannot begin with this (TypeError: ",
    "train -m seed=1 hydra.sweeper.params=3": "hydra.sweeper.params=3: Hydra cannot begin with this (",
    "train hydra.job_logging.root.level=x": "hydra.job_logging.root.level=x: Hydra cannot begin with this (Unable to",
    "train seed=1 --config-dir": "--config-dir: lacks its value; give --config-dir=…",
    "train seed=1 -cd": "-cd: lacks its value; give --config-dir=…",
    "train --config-dir=/nowhere seed=1": "--config-dir=/nowhere: no such folder; give one with options of your own",
    "train seed=1 --config-dir /nowhere sed=2": "--config-dir=/nowhere: no such folder; give one with options of",
    "train seed=1 --config-dir=. sed=2": "ConfigCompositionException: Could not override 'sed'. To append",
    "train --multi-run seed=1,2": "--multi-run: no such option; did you mean --multirun?",
    "train -x": "-x: no such option; choose one of --cfg, --config-dir, ",
    "train --cfg=nope": "--cfg=nope: choose one of job, hydra, all",
    "sample run=x --nope": "--nope: no such option; ",
    "train sed=2 --multi seed=1,2": "sed=2: no such key; did you mean seed?",
    "sample run=x n=10,20": "n=10,20: several values; call it once for each value, with an out=… of its own",
    "sample run=x n=10,20 -m": "-m: ncsn-sample sweeps over nothing; call it once for each value, with an out=… of its",
    "evaluate --multirun run=x": "--multirun: ncsn-evaluate sweeps over nothing; call it once for each value",
    "sample run=a,b": "run=a,b: several values; call it once for each value, with an out=… of its own, or 'run=\"a",
    "sample sampler.steps_per_level=20": "sampler.steps_per_level=20: no sampler is chosen here; say sampler=… too, "
    "one of annealed_langevin, annealed_langevin_primer, langevin, mala, underdamped",
    "evaluate schedule.num_levels=20 score.foo=1": (
        "schedule.num_levels=20: no schedule is chosen here; say schedule=… too, one of ddpm, ddpm_cosine, geometric, "
        "karras, linear\nscore.foo=1: no such key; did you mean score?"
    ),
    "sample sampler=langevn": "sampler=langevn: no such option; did you mean langevin?",
    "evaluate runn=x": "runn=x: no such key; did you mean run?",
    "sample run=nofolder out=x.xlsx": (
        "out=x.xlsx: give a name that ends in .npz or .csv\n"
        "run=nofolder: no such file; give a run's folder or one of its checkpoints/*.ckpt"
    ),
    "evaluate run=nofolder ceiling=none out=x.xlsx n=0 threads=0": (
        "n=0: give a whole number of at least 1\n"
        "threads=0: give a whole number of at least 1\n"
        "out=x.xlsx: give a name that ends in .json\n"
        "run=nofolder: no such file; give a run's folder or one of its checkpoints/*.ckpt\n"
        "ceiling=none: no such file; give a run's folder or one of its checkpoints/*.ckpt"
    ),
    "train --version": "",
    "sample --help": "",
}
ASK = """
import json, sys, time
from ncsn_lightning import cli
answers = {}
for line in json.load(sys.stdin):
    name, *sys.argv[1:] = line.split()
    started = time.process_time()
    try:
        end = getattr(cli, name)()
    except SystemExit as error:
        end = error.code
    answers[line] = [end, time.process_time() - started]
print("\\n" + json.dumps([answers, "torch" in sys.modules]))
"""


def ask(lines, *, script=ASK, **options):
    """What a process that runs these commands says to each, and in how many seconds."""
    ask = [sys.executable, "-c", script]
    process = subprocess.run(ask, input=json.dumps(lines), capture_output=True, text=True, check=False, **options)
    assert process.returncode == 0, process.stderr
    answers, too_much_was_imported = json.loads(process.stdout.splitlines()[-1])
    assert not too_much_was_imported
    return answers


def test_help_and_unknown_names_are_answered_before_torch_is_imported(tmp_path):
    answers = ask(list(WITHOUT_TORCH), cwd=tmp_path)
    for line, expected in WITHOUT_TORCH.items():
        end, _ = answers[line]
        assert (end or "").startswith(expected)
        assert bool(end) == bool(expected)
    assert list(tmp_path.iterdir()) == []


def test_help_and_unknown_names_are_answered_at_once(tmp_path):
    answers = ask(list(WITHOUT_TORCH)[:6], cwd=tmp_path)
    assert max(seconds for _, seconds in answers.values()) < 2


WITHOUT_LIGHTNING = {
    "train optimizer.lr=-1": "optimizer.lr=-1: Invalid learning rate: -1; give another value",
    "train schedule.sigma_min=3 schedule.sigma_max=1 seed=2 logger=csv": "schedule.sigma_min=3 must be smaller than",
    "train network.hidden_dims=[0] weighting=sigma_power weighting.power=x": (
        "weighting.power='x': should be a valid number\nnetwork.hidden_dims[0]=0: should be greater than or equal to 1"
    ),
    "train sampler.step_ratio=-1 trainer.max_steps=10": "sampler.step_ratio=-1: should be greater than 0",
    "train distribution=moons distribution.noise=-1": "distribution.noise=-1: ",
    "train -m optimizer.lr=-1,0.1 seed=0,1": "optimizer.lr=-1: Invalid",
    "train -m schedule.num_levels=0,1,9": "schedule.num_levels=0: should be greater than or equal to 2\nschedule.",
}


def test_wrong_values_are_refused_before_lightning_and_wandb_are_imported(tmp_path):
    script = ASK.replace('"torch" in sys.modules', '"lightning" in sys.modules or "wandb" in sys.modules')
    answers = ask(list(WITHOUT_LIGHTNING), script=script, cwd=tmp_path)
    assert {
        line: (end or "")[: len(WITHOUT_LIGHTNING[line])] for line, (end, _) in answers.items()
    } == WITHOUT_LIGHTNING
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_one_line_on_stderr_and_a_failed_process(tmp_path):
    process = script("train", "schedule=geometrc", cwd=tmp_path)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == "schedule=geometrc: no such option; did you mean geometric?\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("question", ["--help", "--cfg=job"])
def test_a_reader_who_has_seen_enough_ends_the_command_quietly(question, tmp_path):
    """As in `ncsn-train --help | head`."""
    command = [sys.executable, str(ROOT / "scripts/train.py"), question]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_wrong_values_are_said_at_once_and_leave_no_folder(tmp_path):
    wrong = ["schedule.num_levels=1", "trainer.max_steps=0", "distribution=points", "distribution.path=none.csv"]
    process = script("train", *wrong, "paths.root=new/root", cwd=tmp_path)
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.splitlines() == [
        "distribution.path=none.csv: no such file; give an N × 2 .npy or .csv file",
        "schedule.num_levels=1: should be greater than or equal to 2",
        "trainer.max_steps=0: should be greater than or equal to 1",
    ]
    assert list(tmp_path.iterdir()) == []


def test_what_stood_before_a_refusal_stands_after_it(command, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    wrong = ["data.batch_size=0", "logger=csv"]
    for place in ("hydra.run.dir=data", "hydra.run.dir=data/run", "paths.root=empty"):
        assert command("train", *wrong, place) == ["data.batch_size=0: should be greater than or equal to 1"]
    assert (tmp_path / "data" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "data" / "run").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_logger_that_is_refused_leaves_no_folder(command, tmp_path):
    lines = command("train", *TINY, "logger=csv", "+logger.csv.colour=red")
    assert lines == ["logger.csv.colour='red': no such argument; choose one of folder"]
    assert list(tmp_path.iterdir()) == []


def test_a_value_from_a_missing_environment_variable_is_refused(command, tmp_path):
    for key, where in {"name": "hydra.run.dir", "project": "project"}.items():  # the name is part of the folder's
        (line,) = command("train", "logger=csv", f"{key}=${{oc.env:NO_SUCH_NAME}}")
        assert line.startswith(where)
        assert "'NO_SUCH_NAME' not found" in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny trained run's folder."""
    cwd = tmp_path_factory.mktemp("trained")
    process = script("train", *TINY, "logger=csv", "hydra.run.dir=run", cwd=cwd)
    assert process.returncode == 0, process.stderr
    return cwd / "run"


def test_a_run_leaves_what_the_design_names(run):
    names = {str(path.relative_to(run)) for path in run.rglob("*")}
    assert {
        ".hydra",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "samples.npz",
        "metrics.csv",
        "figures",
    } <= names
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["error"]) == ("finished", 50, None)
    assert "sampler.steps_per_level=2" in summary["overrides"]
    assert np.load(run / "samples.npz")["x"].shape == (50, 2)
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"]


def test_sample_needs_the_checkpoint_alone(run, command, tmp_path):
    checkpoint = tmp_path / "elsewhere.ckpt"
    checkpoint.write_bytes((run / "checkpoints/last.ckpt").read_bytes())
    assert command("sample", f"run={checkpoint}", "n=7", "out=a/x.npz") == []
    assert command("sample", f"run={run}", "n=7", "out=x.csv") == []
    assert command("sample", f"run={run}", "n=7", "out=y.csv", "seed=1", "sampler=langevin") == []
    first = np.load(tmp_path / "a/x.npz")["x"]
    assert (first.shape, first.dtype) == ((7, 2), np.float32)
    again = np.loadtxt(tmp_path / "x.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(again, first, rtol=1e-6)
    assert not np.allclose(np.loadtxt(tmp_path / "y.csv", delimiter=",", skiprows=1), first)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert left == {"elsewhere.ckpt", "a/x.npz", "a/x.png", "x.csv", "x.png", "y.csv", "y.png"}


SMALL = (
    *("evaluation.split.resolution=64", "evaluation.split.num_levels=3", "evaluation.likelihood.num_points=50"),
    *("num_seeds=2", "evaluation.samples.repeats=2"),
)


def test_the_truth_takes_the_networks_place(run, command, tmp_path, capsys):
    """With the exact score nothing depends on the weights: MALA has its density, and the board is met."""
    ask = [f"run={run}", "n=500", "score=exact"]
    assert command("sample", *ask, "sampler=mala", "sampler.steps_per_level=2", "out=x.npz") == []
    assert command("evaluate", *ask, *SMALL, "sampler=multistep", "num_levels=2", "out=numbers.json") == []
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["score_error"] == 0
    assert set(numbers["samples"]) == {"truth, this sampler"}
    assert numbers["samples"]["truth, this sampler"]["off_support"]["value"] < 0.2
    assert set(numbers["distances"]) == {"sigma", "truth", "floor"}


def test_evaluate_prints_and_writes_the_numbers(run, command, tmp_path, capsys):
    assert command("evaluate", f"run={run}", "n=50", "num_levels=3", "sigma_max=2.0", *SMALL, "out=numbers.json") == []
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert list(numbers["score_error_per_level"])[::2] == ["2", "0.01"]
    assert numbers["score_error"] == pytest.approx(np.mean(list(numbers["score_error_per_level"].values())))
    assert set(numbers["samples"]) == {"truth, this sampler", "network, near-exact sampler", "network, this sampler"}
    measured = numbers["samples"]["truth, this sampler"]["off_support"]
    assert measured.keys() == {"value", "error", "floor", "deviation", "num_points"}
    distances = {name: np.array(values) for name, values in numbers["distances"].items()}
    levels = len(distances["sigma"])
    walked = {"truth": (2, levels), "network": (2, levels), "floor": (20, levels)}
    assert {name: values.shape for name, values in distances.items()} == {"sigma": (levels,), **walked}
    assert distances["network"][:, -1].mean() > 3 * distances["floor"][:, -1].mean()
    assert (measured["floor"], measured["num_points"]) == (0, 50)
    value, error = numbers["likelihood"]["kl"]["value"], numbers["likelihood"]["kl"]["error"]
    assert value > 3 * error  # of a network that hardly trained
    off = numbers["cross_entropy"]["off_support"]
    assert 0 < off < 50
    assert numbers["cross_entropy"]["mean"]["value"] == pytest.approx(math.log(8))  # log p is the same on all cells
    said = capsys.readouterr().out
    assert "relative score error" in said
    assert f"off the support, where it is infinite: {off}" in " ".join(said.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("numbers.json", "numbers_density.png", "numbers_distances.png", "numbers_shares.png", "numbers_split.png")
    ]


def test_evaluate_and_the_run_have_the_same_number_for_the_same_weights(run, command, tmp_path, capsys, caplog):
    """With its standard error; where other levels are asked for, the reason why it is another is said."""
    own = json.loads((run / "summary.json").read_text())["metrics"]
    quick = [f"run={run}", "n=50", "num_seeds=1", "evaluation=quick", "out=numbers.json"]
    assert command("evaluate", *quick, "evaluation.split.num_levels=3") == []
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["score_error"] == pytest.approx(own["score_error"], rel=1e-6)
    assert numbers["score_error_per_level"] == pytest.approx(own["score_error_per_level"], rel=1e-6)
    assert 0 < numbers["score_error_standard_error"] < numbers["score_error"]
    said = capsys.readouterr().out
    assert "its summary has the same number" in said
    assert "its parts" in said  # on levels of their own, in a table of their own
    rows = [line.split("│")[1:-1] for line in said.splitlines() if line.startswith("│")]
    assert len(rows) > 10
    assert all(cell.strip() for row in rows for cell in row)
    assert command("evaluate", *quick, "num_levels=3", "sigma_min=0.5", "evaluation.split.num_levels=3") == []
    said = capsys.readouterr().out
    assert "other levels than the run's own (sigma_min=0.5 num_levels=3): its summary has another number" in said
    assert "its parts" not in said  # but beside the others


@pytest.mark.parametrize("name", ["sample", "evaluate"])
def test_threads_are_one_unless_asked_for(name, run, command, capsys):
    before = torch.get_num_threads()
    small = ["n=50", "out=x.npz"] if name == "sample" else ["n=50", "num_seeds=1", "evaluation=quick"]
    try:
        assert command(name, f"run={run}", *small, "threads=2") == []
        assert torch.get_num_threads() == 2
        assert command(name, f"run={run}", *small) == []
        assert torch.get_num_threads() == 1
        assert command(name, f"run={run}", *small, "threads=0") == ["threads=0: give a whole number of at least 1"]
        load_run(run, threads=2)
        assert torch.get_num_threads() == 2
        load_run(run)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_too_few_points_are_refused_before_any_work(run, command, tmp_path, capsys):
    (line,) = command("evaluate", f"run={run}", "n=3")
    assert line == "n=3: too few finite samples for coverage_gap; draw at least 6"
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def ceiling(tmp_path_factory):
    """The folder of a run of the same recipe on exact targets."""
    cwd = tmp_path_factory.mktemp("ceiling")
    small = [option for option in TINY if not option.startswith("objective.")]
    process = script("train", *small, "objective=exact", "logger=csv", "hydra.run.dir=run", *BARE, cwd=cwd)
    assert process.returncode == 0, process.stderr
    return cwd / "run"


def test_a_ceiling_tells_capacity_from_the_noise_of_targets(run, ceiling, command, tmp_path):
    few = ["n=50", "num_levels=3", "sigma_max=2.0", *SMALL]
    assert command("evaluate", f"run={run}", f"ceiling={ceiling}", "out=both.json", *few) == []
    assert command("evaluate", f"run={ceiling}", "out=alone.json", *few) == []
    both, alone = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("both", "alone"))
    assert both["ceiling_score_error_per_level"] == pytest.approx(alone["score_error_per_level"])
    pair = "on exact targets, near-exact sampler"
    assert list(both["samples"])[1:3] == ["network, near-exact sampler", pair]
    for name, share in both["samples"][pair].items():
        assert share["value"] == pytest.approx(alone["samples"]["network, near-exact sampler"][name]["value"])


def test_a_ceiling_of_another_recipe_is_refused(run, ceiling, command, tmp_path):
    words = "is another; give the run's own recipe, trained with objective=exact"
    assert command("evaluate", f"run={run}", f"ceiling={run}") == [f"ceiling={run}: its objective {words}"]
    assert command("evaluate", f"run={run}", "ceiling=nowhere") == [
        "ceiling=nowhere: no such file; give a run's folder or one of its checkpoints/*.ckpt"
    ]
    assert list(tmp_path.iterdir()) == []


def test_another_ladder_is_walked_between_the_ends_of_the_runs_own(run, command, tmp_path):
    ladder = ["sampler=heun", "schedule=karras", "schedule.num_levels=5"]
    assert command("evaluate", f"run={run}", *ladder, "n=50", "num_levels=3", *SMALL, "out=numbers.json") == []
    reached = json.loads((tmp_path / "numbers.json").read_text())["distances"]["sigma"]
    own = load_run(run).schedule.sigmas
    expected = Karras(sigma_min=float(own[-1]), sigma_max=float(own[0]), num_levels=5).sigmas
    assert reached == pytest.approx([*expected.tolist(), 0.0])


def test_a_sweep_is_no_run(run, command, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/sweep.json").write_text("{}")
    assert command("sample", "run=sweep") == ["run=sweep: a sweep; give the folder of one of its jobs"]
    words = "a sweep; give the command that began it again, and it goes on"
    assert command("train", "resume=sweep") == [f"resume=sweep: {words}"]


def test_several_values_need_a_sweep(command, tmp_path):
    words = "several values; add -m to sweep over them"
    assert command("train", "schedule=geometric,karras") == [f"schedule=geometric,karras: {words}"]
    assert list(tmp_path.iterdir()) == []


QUESTIONS = [
    ("sample n=0", "n=0: give a whole number of at least 1"),
    ("sample n=1.5", "n=1.5: give a whole number of at least 1"),
    ("sample seed=-1", "seed=-1: give a whole number of at least 0"),
    ("sample out=null", "out=None: give a name that ends in .npz or .csv"),
    ("sample out=3", "out=3: give a name that ends in .npz or .csv"),
    ("sample trust=3", "trust=3: give names of packages, trust=[a,b]"),
    ("evaluate evaluation.samples=3", "evaluation.samples=3: should be a SampleTest"),
    ("sample out=x.txt", "out=x.txt: give a name that ends in .npz or .csv"),
    ("sample out=/dev/null/x.npz", "out=/dev/null/x.npz: cannot be written; choose another place"),
    ("sample sampler=annealed_langevin_primer sampler.base_step=1", "sampler.base_step=1 makes the chain unstable"),
    ("sample sampler=langevin sampler.step=0.01", "sampler.step=0.01 makes the chain unstable: at σ=0.01 the target"),
    ("sample sampler=annealed_langevin sampler.step_ratio=3", "sampler.step_ratio=3: should be less than 2"),
    ("sample score=karras", "score=ncsn_lightning.models.Preconditioned: a run has its own network; choose exact"),
    ("sample sampler=mala", "sampler: MALA accepts and rejects by log p_σ, which Preconditioned does not have"),
    ("sample sampler=consistent_annealed sampler.step_ratio=0.1", "sampler.step_ratio=0.1 lies outside"),
    ("sample schedule=karras schedule.num_levels=1", "schedule.num_levels=1: should be greater than or equal to 2"),
    ("sample schedule=karras schedule.sigma_min=3 schedule.sigma_max=1", "schedule.sigma_min=3"),
    ("evaluate num_levels=0", "num_levels=0: give a whole number of at least 1"),
    ("evaluate sigma_min=-1", "sigma_min=-1: should be greater than 0"),
    ("evaluate out=x.npz", "out=x.npz: give a name that ends in .json"),
]


@pytest.mark.parametrize(("question", "line"), QUESTIONS)
def test_questions_that_make_no_sense_are_refused(question, line, run, command, tmp_path):
    name, *arguments = question.split()
    (said,) = command(name, f"run={run}", *arguments)
    assert said.startswith(line)
    assert list(tmp_path.iterdir()) == []


def test_all_that_is_wrong_with_a_question_is_said_at_once(command):
    assert [line.partition(":")[0] for line in command("sample", "n=0", "out=x.txt")] == ["n=0", "out=x.txt", "run"]


class Payload:
    """Would write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def damage(kind, whole, folder):
    """A checkpoint with something wrong about it."""
    path = folder / f"{kind}.ckpt"
    checkpoint = torch.load(whole, weights_only=True)
    if kind == "truncated":
        path.write_bytes(whole.read_bytes()[:-2000])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(folder / "ran")))
    elif kind == "payload":
        torch.save({**checkpoint, "more": Payload(folder / "ran")}, path)
    elif kind == "foreign":
        torch.save({"state_dict": checkpoint["state_dict"]}, path)
    elif kind == "misfit":
        torch.save({**checkpoint, "state_dict": {"average.model.network.omega": torch.zeros(3, 2)}}, path)
    elif kind == "headless":
        torch.save({**checkpoint, "config": {"distribution": {}, "schedule": None}}, path)
    elif kind == "target":
        command = {"_target_": "ncsn_lightning.cli.os.system", "command": f"touch {folder / 'ran'}"}
        torch.save({**checkpoint, "config": {**checkpoint["config"], "distribution": command}}, path)
    return path


CHECKPOINTS = {
    "missing": "no such file; give a run's folder or one of its checkpoints",
    "truncated": "truncated or no checkpoint; use another one of the run",
    "pickle": "truncated or no checkpoint; use another one of the run",
    "payload": "it holds more than data and is not loaded; use one that this program wrote",
    "foreign": "holds weights and no configuration, as training in plain Python leaves it",
    "misfit": "its weights do not fit its own configuration; use another checkpoint",
    "headless": "distribution=dict: should be a Distribution",
    "target": "distribution._target_=ncsn_lightning.cli.os.system: no class that may be named here, and not called",
}


@pytest.mark.parametrize(("kind", "words"), CHECKPOINTS.items())
def test_a_bad_checkpoint_is_refused_and_runs_no_code(kind, words, run, command, tmp_path):
    path = damage(kind, run / "checkpoints/last.ckpt", tmp_path)
    line, *others = command("sample", f"run={path}", "n=1")
    assert words in line
    assert line.startswith((f"run={path}: ", "distribution"))
    assert others == [] or kind == "headless"
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "samples.npz").exists()


def test_the_jobs_of_a_sweep_are_runs_of_one_group_each_ended_by_itself(tmp_path):
    options = ["optimizer=sgd", "optimizer.lr=1e6,1e-3", "hydra.sweep.dir=sweep", "logger=wandb"]
    process = script("train", "-m", *options, *TINY, *BARE, cwd=tmp_path, env={**os.environ, "WANDB_MODE": "offline"})
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("1 of 2 jobs did not finish (1 diverged)")
    assert "Traceback" not in process.stderr + process.stdout
    sweep = read_sweep(tmp_path / "sweep")
    assert [job.state for job in sweep.jobs] == ["diverged", "finished"]
    diverged, finished = folders = [job.folder for job in sweep.jobs]
    assert "Traceback" in (diverged / "train.log").read_text()
    assert "Traceback" not in (finished / "train.log").read_text()
    assert all("\ngroup: sweep\n" in (folder / "config.yaml").read_text() for folder in folders)
    runs = [next(folder.glob("wandb/offline-run-*")).name.rpartition("-run-")[2] for folder in folders]
    assert runs[0] != runs[1]
    assert [list(folder.glob("wandb/artifacts/staging/*")) != [] for folder in folders] == [False, True]


def test_a_full_disk_ends_the_run_and_spares_the_last_good_checkpoint(tmp_path):
    """No file of the process may grow beyond a few kilobytes any more, once a checkpoint is there."""
    steps = ["trainer.max_steps=1000000", "hydra.run.dir=run", "logger=csv"]
    process, last = Script("train", *TINY, *BARE, *steps, cwd=tmp_path), tmp_path / "run/checkpoints/last.ckpt"
    wait_for(last.exists, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4000, 4000))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert line.endswith(f"make room, then go on with resume={tmp_path / 'run'}")
    assert read_checkpoint(last)["global_step"] >= 50
    assert not list(tmp_path.rglob(".*.part.*"))


def test_an_error_of_the_program_is_one_line_and_its_traceback_is_kept(command, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyError("lost")

    monkeypatch.setattr(lifecycle, "fit", fail)
    log = tmp_path / "run/train.log"
    lines = command("train", *TINY, *BARE, "logger=csv", "hydra.run.dir=run")
    assert lines == [f"KeyError: 'lost'; the traceback is in {log}"]
    assert "Traceback" in log.read_text()


def test_the_wheel_works_from_any_folder(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, capture_output=True, check=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)  # what installing it without its dependencies does
    packaged = {path.relative_to(site / "ncsn_lightning/conf") for path in site.rglob("*.yaml")}
    assert packaged == {path.relative_to(config_folder()) for path in config_folder().rglob("*.yaml")}
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    commands = [line.split(" = ") for line in entry_points.read_text().splitlines() if " = " in line]
    assert {name for name, _ in commands} == {"ncsn-train", "ncsn-evaluate", "ncsn-sample", "ncsn-report"}
    code = """
import sys
from importlib import import_module
import ncsn_lightning
print(ncsn_lightning.__file__)
home, function = sys.argv.pop(1).split(":")
getattr(import_module(home), function)()
"""
    process = subprocess.run(
        [sys.executable, "-c", code, dict(commands)["ncsn-train"], "schedule=karas"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout.strip() == str(site / "ncsn_lightning/__init__.py")
    assert process.stderr == "schedule=karas: no such option; did you mean karras?\n"


def test_the_mathematics_needs_neither_hydra_nor_lightning(tmp_path):
    code = """
import sys
from ncsn_lightning import AnnealedLangevin, Checkerboard, Geometric
target, schedule = Checkerboard(), Geometric(sigma_min=0.01, sigma_max=2.0)
sampler = AnnealedLangevin(step_ratio=0.1, steps_per_level=2)
x = sampler(target.score, sampler.start(10, target, 2.0), schedule.sigmas)
assert x.shape == (10, 2)
print({"hydra", "omegaconf", "lightning", "wandb", "matplotlib"} & sys.modules.keys())
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (process.stdout, process.stderr) == ("set()\n", "")


AS_IT_STANDS = [
    "a=b.npy",
    "pts (1).npy",
    "pts#1.npy",
    "my sweep é",
    'a "b".csv',
    "it's.csv",
    "a&b;c!.csv",
    "x:(y)",
    "~x#",
]
KEYS = ["distribution.path", "hydra.run.dir", "sweep_name", "name", "run", "out", "paths.root"]


@pytest.mark.parametrize("value", AS_IT_STANDS)
@pytest.mark.parametrize("key", KEYS)
def test_the_quoting_that_works_is_shown_for_every_key(key, value):
    (line,) = refused_overrides("train", [f"{key}={value}"])
    said, _, remedy = line.partition(": not understood; for the value as it stands write ")
    assert said == f"{key}={value}"
    (typed,) = shlex.split(remedy)  # as a shell reads it
    assert OverridesParser.create().parse_override(typed).value() == value


def test_quotes_mean_the_same_for_a_run_that_is_resumed(command):
    words = "no run's folder, nor a checkpoint; give one of outputs/runs"
    for value in ("my run (1)", '"my run (1)"'):
        assert command("train", f"resume={value}") == [f"resume={value}: {words}"]


def test_after_ctrl_c_nothing_follows_the_last_line():
    code = (
        "import signal; from joblib.externals.loky.backend.context import get_context; from ncsn_lightning import cli\n"
        "lock = get_context('loky').Lock()\n"
        "with cli.signals.listening(): cli.signals.note(signal.SIGINT); cli._leave('the last line')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "the last line\n")


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("hydra.run.dir=~/x y", '"/home/me/x y"'),
        ("out=~", '"/home/me"'),
        ("distribution.path=~/a.csv,~/b (1).csv", '"/home/me/a.csv","/home/me/b "(1).csv'),
        ("distribution.path=choice(~/a.csv,b~.csv)", 'choice("/home/me/a.csv",b~.csv)'),
        ("--config-dir=~/conf", "/home/me/conf"),
        ('out="~/x"', '"~/x"'),
        ("~callbacks.figures", None),
        ("out=a/~/b", "a/~/b"),
    ],
)
def test_a_tilde_opens_with_the_home_folder(argument, meant, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home(argument) == (argument if meant is None else f"{argument.partition('=')[0]}={meant}")


def test_home_means_the_same_everywhere(command, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "p (1).csv").write_text("name;x;y\na;0,5;1\nb;2;0\nc;-1;0,5\n")
    columns = ["distribution=points", "distribution.path=~/p (1).csv", "distribution.columns=[x,y]"]
    for folder in ("~/a", '"~/b"'):
        run = [f"hydra.run.dir={folder}", "logger=csv", "evaluation=quick", "trainer.max_steps=2"]
        assert command("train", *TINY, *BARE, "~callbacks.score_error", *columns, *run) == []
    assert "p (1).csv: 3 points, columns x, y; the first is (0.5, 1)" in (home / "a/train.log").read_text()
    assert load_run("~/a").distribution.points.tolist() == [[0.5, 1], [2, 0], [-1, 0.5]]
    assert command("sample", "run=~/b", 'out="~/x.csv"', "n=3") == []
    (home / "a/config.yaml").write_text("")  # by which it is known that the folder was found
    for folder in ("~/a", '"~/a"'):
        assert command("train", f"resume={folder}")[0].startswith(f"resume={folder}: its config.yaml is empty; ")
    assert {path.name for path in home.iterdir()} == {"a", "b", "p (1).csv", "x.csv", "x.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


CONFIGS = {"": "is empty", "a: [": "is damaged", "- 1": "is damaged", "a: 1": "lacks config_hash, paths, seed, trainer"}


@pytest.mark.parametrize(("content", "words"), CONFIGS.items())
def test_an_empty_or_broken_configuration_is_refused(content, words, command, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(content)
    remedy = "restore it from a copy, or train anew in another folder"
    assert command("train", f"resume={folder}") == [f"resume={folder}: its config.yaml {words}; {remedy}"]
    (line,) = command("train", "logger=csv", "hydra.run.dir=run")
    assert line == f"hydra.run.dir={folder}: its config.yaml {words}; {remedy}"
    assert (folder / "config.yaml").read_text() == content


def test_options_of_a_folder_of_ones_own_are_not_blamed():
    assert refused_overrides("train", ["--config-dir=mine", "distribution=mine"]) == []
    assert refused_overrides("train", ["distribution=mine"]) != []
