"""Every configuration builds what it names, and every wrong value is refused in one line."""

import inspect
import os
import random
import re
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
import yaml
from hydra.utils import get_object

from ncsn_lightning.config.build import MODEL_KINDS, Builder
from ncsn_lightning.config.moved import present_name
from ncsn_lightning.config.plain import Refusal, config_folder, config_hash
from ncsn_lightning.runs import lifecycle

CONF = config_folder()
FILES = sorted(CONF.rglob("*.yaml"))
OPTIONS = [
    f"{path.relative_to(CONF).parent}={path.stem}"
    for path in FILES
    if path.parent != CONF and path.parent.name not in ("callbacks", "paths")
]
OPTIONS.remove("score=exact")  # of which there is nothing to train
NEEDS = {
    "distribution=points": ["distribution.path={points}"],
    "experiment=your_points": ["distribution.path={points}"],
    "schedule=single": ["levels=ladder"],
    "sampler=mala": ["score=energy"],
    "trainer=gpu": ["trainer.accelerator=cpu"],  # where there is none
    "trainer=ddp": ["trainer.accelerator=cpu"],
}
FIXED = {"embedding", "dim"}  # a group of its own; the dimension of the data
LEAN = ["~callbacks.figures"]


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    path = tmp_path_factory.mktemp("points") / "points.csv"
    path.write_text("x,y\n0,1\n2,0\n-1,0.5\n")
    return path


def refusal(config, **more):
    """The lines with which a configuration is refused."""
    with pytest.raises(Refusal) as refused:
        lifecycle.build(config, overrides=[], **more)
    return str(refused.value).splitlines()


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_builds(option, configure, points, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needs = [need.format(points=points) for need in NEEDS.get(option, [])]
    network = [] if option in ("network=primer", "network/embedding=sinusoidal") else ["network=film"]
    config = configure(*network, option, *needs)
    job = lifecycle.build(config, overrides=[])
    if option.startswith("logger="):
        assert set(job.builder.build("logger")) == {option.removeprefix("logger="), "csv"}
        wandb.finish()
    assert len(job.builder.build("schedule").sigmas) >= 1
    sigmas = job.data.levels.sample(8, 4)
    assert (sigmas > 0).all()
    assert sigmas.isfinite().all()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_files_hold_what_their_classes_take(path):
    text = path.read_text()
    content = yaml.safe_load(text)
    assert len(text.splitlines()) <= 30 or path.name == "train.yaml"
    for node in targets(content):
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        taken = {name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
        if taken == set(parameters):
            assert node.keys() - {"_target_", "_partial_", "defaults"} <= taken | {"embedding"}


def targets(node):
    """Every node that names a class."""
    if isinstance(node, dict):
        yield from [node] if "_target_" in node else []
        for value in node.values():
            yield from targets(value)


@pytest.mark.parametrize("path", sorted(CONF.glob("experiment/*.yaml")), ids=lambda path: path.stem)
def test_experiments_open_with_their_question(path):
    package, question, *_ = path.read_text().splitlines()
    assert package == "# @package _global_"
    assert question.startswith("# ")
    assert "?" in question


def test_our_files_name_every_argument_of_our_classes():
    """A value that can be chosen is chosen in sight."""
    for path in FILES:
        for node in targets(yaml.safe_load(path.read_text())):
            if node["_target_"].startswith("ncsn_lightning.") and path.parent.name != "logger":
                kind = get_object(node["_target_"])
                if issubclass(kind, torch.optim.Optimizer):  # whose options are torch's own
                    continue
                arguments = set(inspect.signature(kind).parameters)
                assert arguments - {"args", "kwargs", *FIXED} <= node.keys(), path


ONE_LINE = [
    (["schedule.sigma_min=3", "schedule.sigma_max=2"], "schedule.sigma_min=3 must be smaller than sigma_max=2: "),
    (["schedule.sigma_min=2", "schedule.sigma_max=2"], "schedule.sigma_min=2 must be smaller"),
    (["schedule.sigma_min=-1"], "schedule.sigma_min=-1: should be greater than 0"),
    (["schedule.sigma_max=0"], "schedule.sigma_max=0: should be greater than 0"),
    (["schedule.sigma_max=nan"], "schedule.sigma_max=nan: should be a finite number"),
    (["schedule.sigma_min=inf"], "schedule.sigma_min=inf: should be a finite number"),
    (["schedule.sigma_min=small"], "schedule.sigma_min='small': should be a valid number or auto"),
    (["schedule.sigma_min=null"], "schedule.sigma_min=None: should be a valid number or auto"),
    (["schedule=single", "levels=ladder", "schedule.sigma=-1"], "schedule.sigma=-1: should be greater than 0"),
    (["schedule=single"], "levels: a continuous density needs a range: .*levels=ladder"),
    (["schedule.num_levels=1"], "schedule.num_levels=1: should be greater than or equal to 2"),
    (["schedule=ddpm", "schedule.num_levels=2000"], "schedule.num_levels=2000 exceeds num_steps=1000: lower"),
    (["+schedule.sgma_min=1"], "schedule.sgma_min=1: no such argument; did you mean sigma_min"),
    (["data.batch_size=0"], "data.batch_size=0: should be greater than or equal to 1"),
    (["data.batch_size=1.5"], "data.batch_size=1.5: should be a valid integer"),
    (["block_size=0"], "block_size=0: should be greater"),
    (["levels.groups=7"], "data.batch_size=64 is no multiple of levels.groups=7: change"),
    (["levels.groups=0"], "levels.groups=0: should be greater than or equal to 1"),
    (["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3"], "levels.groups=64 cannot be shared by 3 ranks"),
    (
        ["trainer=ddp", "trainer.accelerator=cpu", "compile=true"],
        "compile=true: a compiled step shares no gradients among 2 ranks; use compile=false",
    ),
    (["trainer.max_steps=0"], "trainer.max_steps=0: should be greater than or equal to 1"),
    (["trainer.max_steps=-5"], "trainer.max_steps=-5: should be greater than or equal to 1"),
    (["trainer.precision=16-mixed"], "trainer.precision=16-mixed: .*use 32-true or bf16-mixed"),
    (["trainer.precision=33"], "trainer.precision=33: not tried here; use 32-true or bf16-mixed"),
    (["trainer.accelerator=abacus"], "trainer, of accelerator=abacus.*: "),
    (["+trainer.foo=1"], "trainer.foo=1: Lightning's Trainer has no such option; choose one of accelerator, "),
    (
        ["+trainer.gradient_clip_vall=1"],
        "trainer.gradient_clip_vall=1: .* no such option; did you mean gradient_clip_val?",
    ),
    (["callbacks.figures.num_samples=0"], "callbacks.figures.num_samples=0: should be greater than or equal to 1"),
    (["callbacks.figures.every_n_steps=0"], "callbacks.figures.every_n_steps=0: should be greater"),
    (["callbacks.guard=3"], "callbacks.guard=3: should be a Callback"),
    (["network.hidden_dims=[]"], r"network.hidden_dims=\[\]: .*at least 1 item"),
    (["network.hidden_dims=[16,0]"], r"network.hidden_dims\[1\]=0: should be greater"),
    (["sampler.base_step=1e-5"], "sampler.step_ratio=0.1 and base_step=1e-05: give exactly one"),
    (["sampler.step_ratio=null"], "sampler.step_ratio=None and base_step=None: give exactly one"),
    (["sampler.step_ratio=2"], "sampler.step_ratio=2: should be less than 2"),
    (["sampler=langevin", "sampler.step=1e-3"], "sampler.step=0.001 makes the chain unstable: .* keep step below"),
    (["sampler=annealed_langevin_primer", "sampler.base_step=1"], "sampler.base_step=1 makes .* keep base_step below"),
    (
        ["sampler=consistent_annealed", "sampler.step_ratio=0.3"],
        "sampler.step_ratio=0.3 lies outside 1 − γ … 1 \\+ γ: ",
    ),
    (["sampler.step_ratio=auto", "schedule=single", "levels=ladder"], "sampler.step_ratio='auto' follows from .* two"),
    (["score=exact"], "score=ExactScore: should be an instance of ScoreModel"),
    (["sampler=mala"], "sampler: MALA accepts and rejects by log p_σ, which Preconditioned does not have; use score=e"),
    (["sampler=predictor_corrector", "sampler.predictor=heun"], "sampler.predictor='heun': should be 'reverse_diffus"),
    (["sampler.prior=flat"], "sampler.prior='flat': should be 'gaussian', 'moment_matched' or 'uniform'"),
    (["optimizer.lr=-1"], "optimizer.lr=-1: Invalid learning rate: -1; give another value"),
    (
        ["optimizer=sgd", "optimizer.momentum=0", "+optimizer.nesterov=true"],
        "optimizer.nesterov=True: Nesterov momentum .*; give another value",
    ),
    (["trainer.max_steps=1e3"], "trainer.max_steps=1000.0: give a whole number of at least 1"),
    (["optimizer.betas=3"], r"optimizer.betas=3: give 2 numbers, such as \[0.9, 0.999\]"),
    (["optimizer.betas=[0.9]"], r"optimizer.betas=\[0.9\]: give 2 numbers"),
    (["optimizer.betas=[0.9,x]"], r"optimizer.betas=\[0.9, 'x'\]: give 2 numbers"),
    (["optimizer.betas=[0.9,0.9,0.9]"], r"optimizer.betas=\[0.9, 0.9, 0.9\]: give 2 numbers"),
    (["optimizer.betas=[0.9,2]"], r"optimizer.betas=\[0.9, 2\]: Invalid beta .*; give another value"),
    (["optimizer.lr=nan"], "optimizer.lr=nan: should be a finite number"),
    (["optimizer.lr=fast"], "optimizer.lr='fast': should be a finite number"),
    (["+optimizer.momentum=0.9"], "optimizer.momentum=0.9: no such argument; "),
    (["optimizer=sgd", "compile=true"], "compile=true: it knows .* choose optimizer=adam or adamw"),
    (["compile=maybe"], "compile='maybe': should be a valid boolean"),
    (["module.decay=steep"], "module.decay='steep': should be 'constant' or 'cosine'"),
    (["seed=-1"], "seed=-1: give a whole number"),
    (["seed=1.5"], "seed=1.5: give a whole number"),
    (["data=foo"], "data='foo': should be a LightningDataModule"),
    (["distribution._target_=ncsn_lightning.distributions.Chess"], "distribution._target_=ncsn_lightning.*Chess"),
    (["distribution._target_=collections.Counter"], "distribution=Counter: should be a Distribution"),
    (["distribution=points"], "distribution.path: missing; give distribution.path="),
    (["distribution=points", "distribution.path={}/none.csv"], "distribution.path=.*none.csv: no such file"),
    (["distribution=points", "distribution.path={}/empty.csv"], "distribution.path=.*empty.csv: empty; give"),
    (
        ["distribution=points", "distribution.path={}/three.csv"],
        r"distribution.path=.*three.csv: of the shape \[2, 3\]",
    ),
    (["distribution=points", "distribution.path={}/nan.csv"], "distribution.path=.*nan.csv: a NaN .* in row 2"),
    (["distribution=points", "distribution.path={}/text.csv"], "distribution.path=.*text.csv: cannot be read .*'b'"),
    (["distribution=points", "distribution.path={}/noise.npy"], "distribution.path=.*noise.npy: cannot be read"),
    (["distribution=points", "distribution.path={}/x.parquet"], "distribution.path=.*parquet: unknown extension"),
    (
        ["distribution=points", "distribution.path={}/one.csv"],
        "distribution.path=.*one.csv: .* give bandwidth a number",
    ),
    (
        ["distribution=points", "distribution.path={}/one.csv", "distribution.bandwidth=-1"],
        "distribution.bandwidth=-1: should be greater than 0 or should be 'auto'",
    ),
]
CONTENTS = {
    "empty.csv": "",
    "three.csv": "1,2,3\n4,5,6\n",
    "nan.csv": "1,2\n3,nan\n",
    "text.csv": "a,b\n1,b\n",
    "noise.npy": "no array",
    "one.csv": "1,2\n",
}


@pytest.mark.parametrize(
    ("overrides", "line"), ONE_LINE, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_wrong_value_is_refused_in_one_line(overrides, line, configure, tmp_path):
    for name, content in CONTENTS.items():
        (tmp_path / name).write_text(content)
    lines = refusal(configure(*[override.format(tmp_path) for override in overrides]))
    assert len(lines) == 1
    assert re.match(line, lines[0])
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_is_refused_where_there_is_none(configure):
    (line,) = refusal(configure("trainer=gpu"))
    assert line == "trainer.accelerator=gpu: no GPU is visible here; use trainer=cpu"


def test_all_wrong_values_are_said_at_once(configure):
    wrong = {
        "distribution.cell_size": -1,  # `auto` cannot be settled then, of which nothing is said
        "seed": -1,
        "schedule.num_levels": 1,
        "sampler.steps_per_level": 0,
        "network.embedding.dim": 0,
        "optimizer.lr": "nan",
        "data.batch_size": 0,
        "callbacks.guard.factor": -2,
        "score_test.num_levels": 0,
        "trainer.max_steps": 0,
    }
    lines = refusal(configure(*[f"{key}={value}" for key, value in wrong.items()]))
    assert sorted(line.partition(":")[0] for line in lines) == sorted(f"{k}={v}" for k, v in wrong.items())


def test_a_sweep_in_one_process_refuses_strategies_that_start_others(configure):
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", *LEAN]
    (line,) = refusal(configure(*ddp), in_sweep=True)
    assert line.startswith(
        "trainer.strategy=ddp: every rank would start the whole sweep anew; use trainer.strategy=ddp_sp"
    )
    lifecycle.build(configure(*ddp, "trainer.strategy=ddp_spawn"), overrides=[], in_sweep=True)
    lifecycle.build(configure(*ddp), overrides=[])


def test_a_job_on_a_login_node_builds_without_a_warning(configure, tmp_path, monkeypatch):
    """Lightning warns where Slurm's `srun` can be found and has not started the process."""
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    lifecycle.build(configure(*LEAN), overrides=[])


def test_a_group_is_one_object_for_all_that_name_it(configure):
    job = lifecycle.build(configure("objective=exact"), overrides=[])
    target = job.builder.build("distribution")
    assert job.data.distribution is target
    assert job.data.objective.distribution is target
    callbacks = job.builder.build("callbacks")
    assert callbacks["score_error"].test is job.builder.build("score_test")


def test_automatic_values_follow_the_target_and_are_settled(configure):
    job = lifecycle.build(configure("distribution=grid_gaussians", "weighting=edm"), overrides=[])
    target, settled = job.builder.build("distribution"), job.record.config
    assert settled["schedule"]["sigma_max"] == pytest.approx(target.diameter, rel=1e-5)
    assert settled["schedule"]["sigma_min"] == pytest.approx(target.scale / 10)
    assert (
        settled["weighting"]["sigma_data"] == settled["score"]["sigma_data"] == pytest.approx(target.sigma_data, 1e-5)
    )
    assert settled["module"]["weighting"] == "${weighting}"


UNTRUSTED = [
    "os.system",
    "builtins.eval",
    "torch.hub.load",
    "ncsn_lightning.cli.os.system",
    "ncsn_lightning.cli.shutil.rmtree",
    "ncsn_lightning.runs.lifecycle.train",
    "ncsn_lightning.training.checkpoints.AtomicCheckpointIO",
    "ncsn_lightning.distributions.points.Path",
    "ncsn_lightning.training.module.torch.nn.Linear",
    "lightning.pytorch.cli.instantiate_class",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.callbacks.ModelCheckpoint",
    "torch.optim.Adam",
]


@pytest.mark.parametrize("name", UNTRUSTED)
def test_others_configurations_name_models_alone(name, monkeypatch):
    monkeypatch.setattr("os.system", lambda command: pytest.fail("it ran"))
    builder = Builder(
        {"distribution": {"_target_": name, "command": "true"}}, trust=("ncsn_lightning",), kinds=MODEL_KINDS
    )
    builder.build("distribution")
    with pytest.raises(Refusal, match=re.escape(f"distribution._target_={name}: ")):
        builder.check()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_a_class_is_found_by_its_last_name_under_the_name_that_our_files_give_it(path):
    for node in targets(yaml.safe_load(path.read_text())):
        package, _, rest = node["_target_"].partition(".")
        if package == "ncsn_lightning":
            assert present_name(f"ncsn_lightning.elsewhere.{rest.rpartition('.')[2]}") == node["_target_"]


MOVED = {
    "module": ("ncsn_lightning.module.NCSN", "ncsn_lightning.training.NCSN"),
    "network": ("ncsn_lightning.networks.FiLM", "ncsn_lightning.models.FiLM"),
    "score": ("ncsn_lightning.scores.Preconditioned", "ncsn_lightning.models.Preconditioned"),
    "weighting": ("ncsn_lightning.weightings.SigmaPower", "ncsn_lightning.objectives.SigmaPower"),
    "fast_loop": ("ncsn_lightning.loops.FastLoop", "ncsn_lightning.training.FastLoop"),
    "callbacks.guard": (
        "ncsn_lightning.callbacks.DivergenceGuard",
        "ncsn_lightning.training.callbacks.DivergenceGuard",
    ),
}
"""Parts of a configuration, with the name of their class before files were moved, and the present one."""


def test_classes_that_have_moved_are_said_in_one_line_with_their_present_names(configure):
    (line,) = refusal(configure(*(f"{path}._target_={before}" for path, (before, _) in MOVED.items())))
    opening = "module._target_=ncsn_lightning.module.NCSN: this class is now ncsn_lightning.training.NCSN; others have "
    assert line.startswith(opening)
    assert line.endswith("; give the new names, or use the version that wrote the old ones")
    for _, now in MOVED.values():
        assert now in line


def test_one_class_that_has_moved_is_said_with_its_present_name(configure):
    (line,) = refusal(configure("network._target_=ncsn_lightning.networks.FiLM"))
    assert line == (
        "network._target_=ncsn_lightning.networks.FiLM: this class is now ncsn_lightning.models.FiLM; give the new "
        "names, or use the version that wrote the old ones"
    )


@pytest.mark.parametrize(
    "name", ["ncsn_lightning.chess.Chess", "ncsn_lightning.jobs.Job", "elsewhere.NCSN", "ncsn_lightning.x.(("]
)
def test_a_class_that_is_nowhere_has_not_moved(name):
    assert present_name(name) is None
    builder = Builder({"module": {"_target_": name}})
    builder.build("module")
    (line,) = builder.lines
    assert line.startswith(f"module._target_={name}: ")
    assert line.endswith("; give module.Class")


def test_a_trusted_package_is_imported_and_another_is_not(importable):
    source = "from ncsn_lightning import Checkerboard\nclass Board(Checkerboard):\n    pass\n"
    for name in ("mine", "theirs"):
        (importable / f"{name}.py").write_text(source if name == "mine" else "raise SystemExit('it ran')")
    builder = Builder({"a": {"_target_": "mine.Board"}, "b": {"_target_": "theirs.Board"}}, trust=("mine",))
    assert type(builder.build("a")).__name__ == "Board"
    builder.build("b")
    with pytest.raises(Refusal, match="outside mine, not loaded; trust=theirs if"):
        builder.check()


def test_a_hash_names_what_can_change_the_result(configure):
    def name(*overrides, folder="run"):
        return config_hash(lifecycle.build(configure(*LEAN, *overrides, folder=folder), overrides=[]).record.config)

    usual = name()
    assert name(folder="elsewhere") == usual
    assert name("name=other", "tags=[a]", "trainer=ddp", "trainer.accelerator=cpu") == usual
    assert name("logger=tensorboard") == usual
    assert len({usual, name("seed=1"), name("optimizer.lr=0.1"), name("schedule.sigma_max=3")}) == 4


def test_a_file_counts_by_its_content_however_it_is_named(configure, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "p.csv"
    file.write_text("0,1\n2,0\n")
    names = [f'"{name}"' for name in (file, "p.csv", "./p.csv", "~/p.csv", f"~/../{tmp_path.name}/p.csv")]
    points = [configure("distribution=points", f"distribution.path={name}") for name in names]
    (before,) = {config_hash(config) for config in points}
    file.write_text("0,1\n2,1\n")
    (after,) = {config_hash(config) for config in points}
    assert before != after


def test_a_hash_is_never_taken_for_a_number():
    names = [config_hash({"trainer": {}, "seed": seed}) for seed in range(1000)]
    assert all(re.fullmatch("[a-p][0-9a-f]{9}", name) for name in names)
    assert len(set(names)) == 1000


def test_conf_is_the_repositorys():
    assert Path(__file__).parents[1] / "conf" == CONF


@pytest.mark.parametrize("wrong", [[], ["optimizer.lr=-1"]], ids=["right", "wrong"])
def test_a_job_that_is_only_checked_leaves_the_process_as_it_was(wrong, configure):
    def state():
        numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        return *numbers, torch.get_num_threads(), dict(os.environ), [*warnings.filters]

    config = configure("threads=2", "seed=5", *wrong)
    os.environ.pop("PL_GLOBAL_SEED", None)
    before = state()
    with pytest.raises(Refusal) if wrong else nullcontext():
        lifecycle.check(config, overrides=[], here=True)
    assert state() == before
