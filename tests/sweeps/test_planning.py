"""Command lines become jobs, named as Hydra's own composition would name them; `sweep.json` gathers them."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode

from ncsn_lightning.config.plain import Refusal, can_change_result, config_folder, config_hash
from ncsn_lightning.sweeps import manifest
from ncsn_lightning.sweeps.folder import NoSweepError, find_sweep, read_sweep
from ncsn_lightning.sweeps.job import with_names
from ncsn_lightning.sweeps.manifest import write_plan
from ncsn_lightning.sweeps.planning import Planned, Planner
from ncsn_lightning.sweeps.runner import JobRunner
from ncsn_lightning.sweeps.running import _check

SWEEPS = sorted(path.stem for path in (config_folder() / "sweep").glob("*.yaml") if path.stem != "search")


@pytest.fixture
def planner():
    """Makes the planner of a command line, and its jobs."""

    def plan(*arguments):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", [*arguments], RunMode.MULTIRUN)
        parameters = [f"{key}={value}" for key, value in master.hydra.sweeper.params.items()]
        planner = Planner(loader, master)
        return planner, planner.span([*parameters, *arguments])

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield plan


COMMANDS = [
    ["seed=0,1", "schedule=karras,linear"],
    ["schedule.sigma_max=2.0,4", "optimizer.lr=1e-3", "schedule=geometric,karras"],
    ["~callbacks.figures", "trainer.max_steps=range(100,300,100)"],
    ["+trainer.gradient_clip_val=1,2", "seed=3"],
    ["schedule={sigma_min:0.1,num_levels:5},{sigma_min:0.2}", "schedule.num_levels=7"],
    ["schedule.num_levels=7,8", "schedule={num_levels:5}"],
    ["network.hidden_dims=[8,8],[16]", "weighting=edm", "distribution=glob(m*)"],
    ["sampler.steps_per_level='${per_level:1000}'", "schedule.num_levels=5,10"],
]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_job_is_named_as_hydra_composes_it(arguments, planner):
    """Though most of the composition is shared between jobs, whose values take each other's place."""
    plan, jobs = planner(*arguments)
    for job in [*jobs, jobs[0]]:
        whole = plan._plain(plan._load(job.line))
        assert plan.job(job.line, swept=[]).config == job.config == whole
        assert job.hash == config_hash(whole)


def test_jobs_span_the_product_in_the_order_of_the_command(planner):
    _, jobs = planner("seed=0,1", "schedule=karras,linear", "logger=csv", "~callbacks.figures", "optimizer.lr=1e-3")
    rest = ["logger=csv", "~callbacks.figures", "optimizer.lr=1e-3"]
    assert [job.line for job in jobs] == [
        [f"seed={seed}", f"schedule={schedule}", *rest] for seed in "01" for schedule in ("karras", "linear")
    ]
    assert {tuple(job.swept) for job in jobs} == {("seed", "schedule")}


def test_the_last_override_of_a_key_counts(planner):
    _, jobs = planner("seed=0,1", "optimizer.lr=1", "seed=5", "optimizer.lr=1e-3")
    assert [job.line for job in jobs] == [["seed=5", "optimizer.lr=1e-3"]]


def test_one_result_is_one_job(planner):
    _, jobs = planner("optimizer.lr=0.1,1e-1,0.2")
    assert len(jobs) == 2


@pytest.mark.parametrize("key", ["logger", "threads", "paths.root", "trainer.devices", "sweep_name", "retry_failed"])
def test_what_changes_no_result_is_not_swept(key, planner):
    with pytest.raises(Refusal, match=f"^{key}=csv,mlflow: changes no result"):
        planner(f"{key}=csv,mlflow")


def test_unknown_names_are_refused_in_hydras_words(planner):
    for argument in ("seed.x=1,2", "colour=1,2", "schedule.sigma_mx=1,2"):
        with pytest.raises(HydraException):
            planner(argument)


def test_what_can_change_a_result():
    for key in ("seed", "schedule", "trainer.precision", "compile", "callbacks.mine", "callbacks.figures.num_samples"):
        assert can_change_result(key)
    for key in ("threads", "loggers", "logger.csv.folder", "trainer.devices", "callbacks.progress", "paths.root"):
        assert can_change_result(key) == (key == "loggers")


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_s_file_asks_a_question_and_sweeps(name, planner, tmp_path):
    text = (config_folder() / f"sweep/{name}.yaml").read_text()
    first, question = text.splitlines()[:2]
    assert first == "# @package _global_"
    assert question.startswith("# ")
    assert question.endswith("?")
    content = yaml.safe_load(text)
    assert content.keys() == {"hydra"}
    assert content["hydra"].keys() == {"sweeper"}
    assert content["hydra"]["sweeper"].keys() == {"params"}
    _, jobs = planner(f"sweep={name}", "logger=csv")
    assert 30 < len(jobs) <= 72
    _check(jobs[::11], tmp_path, here=True)  # raises what is wrong with them
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_budget_of_evaluations(planner):
    _, jobs = planner("sweep=step_size")
    products = {job.config["sampler"]["steps_per_level"] * job.config["schedule"]["num_levels"] for job in jobs}
    assert products == {1000}


def test_all_that_is_wrong_with_any_job_is_said_at_once(planner, tmp_path):
    _, jobs = planner("schedule.num_levels=1,2", "seed=-1,0", "data.batch_size=0", "logger=csv")
    with pytest.raises(Refusal) as refusal:
        _check(jobs, tmp_path, here=True)
    assert sorted(line.partition(":")[0] for line in str(refusal.value).splitlines()) == [
        "data.batch_size=0",
        "schedule.num_levels=1",
        "seed=-1",
    ]


def test_a_job_for_another_machine_is_not_asked_for_this_one_s_devices(planner, tmp_path):
    _, jobs = planner("seed=0", "trainer=ddp", "trainer.devices=16", "trainer.num_nodes=2", "trainer.accelerator=gpu")
    _check(jobs, tmp_path, here=False)
    with pytest.raises(Refusal, match="no GPU is visible here"):
        _check(jobs, tmp_path, here=True)


AFTER = "such as the sampling"
IDLE = {
    ("schedule=geometric,karras", "weighting=uniform,edm", "seed=0,1"): (
        f"schedule: changes no training, only what follows it, {AFTER}, so these 8 jobs are 4 trainings; with "
        "levels=ladder training takes the schedule's own levels"
    ),
    ("schedule.num_levels=5,10", "sampler.step_ratio=0.1,0.2"): (
        f"schedule.num_levels and sampler.step_ratio: change no training, only what follows it, {AFTER}, so these 4 "
        "jobs are 1 training; with levels=ladder training takes the schedule's own levels"
    ),
    (
        "sampler=heun,euler",
    ): f"sampler: changes no training, only what follows it, {AFTER}, so these 2 jobs are 1 training",
}
EFFECTIVE = [
    ["schedule=geometric,karras", "levels=ladder"],
    ["schedule.sigma_max=3,4", "schedule.num_levels=5"],
    ["weighting=uniform,edm"],
    ["levels=ladder,log_uniform"],
    ["optimizer.lr=1e-3,2e-3", "seed=0,1"],
    ["data.batch_size=64,128"],
    ["trainer.max_steps=100,200"],
    ["network.hidden_dims=[8],[16]"],
    ["objective=denoising,stable_target"],
    ["distribution=moons,circles"],
    ["module.ema_decay=0.9,0.99"],
    ["+trainer.gradient_clip_val=1,2"],
    ["seed=0,1"],
]


@pytest.mark.parametrize("arguments", IDLE)
def test_a_key_that_changes_no_training_is_said_at_the_start(arguments, planner, tmp_path):
    assert _check(planner(*arguments, "logger=csv")[1], tmp_path, here=True) == [IDLE[arguments]]


@pytest.mark.parametrize("arguments", EFFECTIVE)
def test_a_key_that_changes_the_training_is_not_called_idle(arguments, planner, tmp_path):
    assert _check(planner(*arguments, "logger=csv")[1], tmp_path, here=True) == []


def test_a_sweep_without_a_name_is_called_by_its_question(planner, tmp_path):
    """The folder keeps its hash; a report takes either, unless two sweeps ask the same."""
    arguments = ("schedule=karras,linear", "weighting=edm,uniform", "seed=0,1")
    name = "schedule × weighting × seed"
    plan = note(tmp_path / "ecf5c3ec", planner(*arguments), command="one", named=False)
    assert plan["name"] == name
    assert find_sweep(name, tmp_path) == find_sweep("ecf5c3ec", tmp_path) == tmp_path / "ecf5c3ec"
    assert find_sweep(str(tmp_path / "ecf5c3ec"), tmp_path) == tmp_path / "ecf5c3ec"
    assert read_sweep(tmp_path / "ecf5c3ec").name == name
    (job, *_) = plan["jobs"]
    assert (
        with_names({"group": None, "name": "", "tags": []}, tmp_path / "ecf5c3ec" / job)["group"]
        == f"{name} (ecf5c3ec)"
    )
    note(tmp_path / "0123abcd", planner(*arguments, "optimizer.lr=1"), command="two", named=False)
    with pytest.raises(NoSweepError, match=r"the name of 2 sweeps; give the folder, .*0123abcd, .*ecf5c3ec"):
        find_sweep(name, tmp_path)
    with pytest.raises(NoSweepError, match="nothing: no such folder"):
        read_sweep(find_sweep("nothing", tmp_path))


def note(folder, planned, *, command, question=None, named=True):
    planner, jobs = planned
    folder.mkdir(exist_ok=True)
    write_plan(folder, jobs, planner, named=named, question=question, command=command)
    return json.loads((folder / "sweep.json").read_text())


def test_a_sweep_is_noted_whole(planner, tmp_path):
    plan = note(tmp_path, planner("seed=0,1", "schedule=karras", "sweep_name=s"), command="one", question="Which?")
    assert (plan["name"], plan["question"], plan["command"]) == (tmp_path.name, "Which?", "one")
    assert plan["factors"] == {"seed": ["0", "1"]}
    assert [job["overrides"] for job in plan["jobs"].values()] == [{"seed": "0"}, {"seed": "1"}]
    assert all(job["fixed"] == ["schedule=karras"] for job in plan["jobs"].values())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".plan", "sweep.json"]


def test_values_added_later_join_the_sweep(planner, tmp_path):
    """And what an earlier command left alone gets the value that it had."""
    first = note(tmp_path, planner("seed=0,1", "optimizer.lr=0.1"), command="one", question="Which?")
    again = note(tmp_path, planner("seed=0,1", "optimizer.lr=0.1"), command="one")
    assert again == first
    plan = note(tmp_path, planner("seed=1,2", "optimizer.lr=0.1", "weighting=edm,uniform"), command="two")
    assert list(plan["jobs"])[:2] == list(first["jobs"])
    assert plan["factors"] == {"seed": ["0", "1", "2"], "weighting": ["inverse_variance", "edm", "uniform"]}
    assert [tuple(job["overrides"].values()) for job in plan["jobs"].values()] == [
        ("0", "inverse_variance"),
        ("1", "inverse_variance"),
        ("1", "edm"),
        ("1", "uniform"),
        ("2", "edm"),
        ("2", "uniform"),
    ]
    assert (plan["command"], plan["question"]) == ("one; two", "Which?")
    plan = note(tmp_path, planner("seed=0", "optimizer.lr=0.2", "logger=csv"), command="three")
    assert plan["factors"]["optimizer.lr"] == ["0.1", "0.2"]  # in which the commands differ, though neither swept it
    assert "logger" not in plan["factors"]
    assert len(read_sweep(tmp_path).jobs) == 7


def test_a_mixture_of_revisions_is_warned_of(planner, tmp_path, monkeypatch, caplog):
    note(tmp_path, planner("seed=0"), command="one")
    with caplog.at_level(logging.WARNING):
        note(tmp_path, planner("seed=0"), command="one")
        assert caplog.text == ""
        monkeypatch.setattr(manifest, "revision", lambda: "another")
        note(tmp_path, planner("seed=0"), command="one")
    assert "begun with another revision" in caplog.text


def test_jobs_of_other_defaults_are_not_mixed_with_those_of_the_same_words(planner, tmp_path, caplog):
    jobs = planner("seed=0,1")
    before = [replace(job, hash=f"before{job.config['seed']}") for job in jobs[1]]
    note(tmp_path, (jobs[0], before), command="one")
    note(tmp_path, planner("seed=2"), command="two")
    with caplog.at_level(logging.WARNING):
        plan = note(tmp_path, jobs, command="one")
    assert sorted(job["overrides"]["seed"] for job in plan["jobs"].values()) == ["0", "1", "2"]
    assert {job.hash for job in jobs[1]} <= plan["jobs"].keys()
    assert "2 jobs of the same words had other defaults; they are left out, and their folders stay" in caplog.text


def test_a_job_is_named_by_the_content_of_its_file(planner, tmp_path):
    path = tmp_path / "points.csv"

    def name():
        (job,) = planner("distribution=points", f"distribution.path={path}")[1]
        return job.hash

    path.write_text("0,0\n1,1\n")
    first = name()
    assert name() == first
    path.write_text("0,0\n1,2\n")
    assert name() != first


def test_a_damaged_sweep_is_not_overwritten(planner, tmp_path):
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(NoSweepError, match=r"sweep\.json"):
        note(tmp_path, planner("seed=0"), command="one")
    assert Path(tmp_path / "sweep.json").read_text() == "{"


@pytest.mark.parametrize("name", ["4294859e70", "0123456789", "abcdef0123"])
def test_a_hash_that_reads_as_a_number_names_its_folder_all_the_same(name, tmp_path):
    runner = JobRunner(tmp_path, launcher=None)
    runner.add([Planned(name, ["seed=0"], ["seed"], {})])
    *_, folder, subfolder = OverridesParser.create().parse_overrides(runner._line(name))
    assert (folder.value(), subfolder.value()) == (str(tmp_path), name)
