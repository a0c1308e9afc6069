"""A search finds what is better, goes on where it was killed as if it had not been, and trains nothing twice."""

import json
import math
import os
import signal

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from processes import Script, wait_for

from ncsn_lightning.config.plain import Refusal
from ncsn_lightning.sweeps import optuna_study
from ncsn_lightning.sweeps.folder import read_sweep
from ncsn_lightning.sweeps.optuna_study import Journal, distribution, text

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

TINY = [
    *("logger=csv", "network.hidden_dims=[8]", "network.embedding.dim=8", "objective.pool_size=1000"),
    *("data.batch_size=64", "data.validation_size=64", "score_test.num_points=16", "trainer.max_steps=50"),
    *("data.steps_per_epoch=50", "~callbacks.figures", "sweep_name=s"),
]
SPACE = ["optimizer.lr=tag(log,interval(1e-4,1e-1))", "schedule=karras,linear", "seed=0,1"]


def parsed(line):
    (override,) = OverridesParser.create().parse_overrides([line])
    return override


RANGES = {
    "a=interval(0,1)": FloatDistribution(0, 1),
    "a=tag(log,interval(1e-4,1e-2))": FloatDistribution(1e-4, 1e-2, log=True),
    "a=int(interval(2,9))": IntDistribution(2, 9),
    "a=tag(log,int(interval(2,900)))": IntDistribution(2, 900, log=True),
    "a=range(1,10,3)": IntDistribution(1, 7, step=3),
    "a=range(9,0,-2)": IntDistribution(1, 9, step=2),
    "a=range(0.5,2,0.5)": FloatDistribution(0.5, 1.5, step=0.5),
    "a=choice(x,1e-3,true)": CategoricalDistribution(["x", "0.001", "True"]),
    "a=x,'y,z'": CategoricalDistribution(["x", "'y,z'"]),
}


@pytest.mark.parametrize("line", RANGES)
def test_hydras_sweeps_are_optunas_distributions(line):
    assert distribution(parsed(line)) == RANGES[line]


@pytest.mark.parametrize("line", ["a=interval(2,1)", "a=tag(log,interval(0,1))", "a=range(3,1)"])
def test_what_is_no_range_is_refused(line):
    with pytest.raises(Refusal, match=r"^a="):
        distribution(parsed(line))


def test_a_proposed_number_is_short_and_close():
    for value in (math.pi * 10**power for power in range(-9, 9)):
        assert float(text(value)) == pytest.approx(value, rel=1e-4)
        assert len(text(value).replace("e-", "").replace("e+", "").replace(".", "").lstrip("0")) <= 7


def space():
    return {"lr": FloatDistribution(1e-4, 1, log=True), "kind": CategoricalDistribution(["a", "b", "c"])}


def value(trial):
    """Least at lr = 0.01 and kind = b."""
    return abs(math.log10(trial.params["lr"]) + 2) + {"a": 2, "b": 0, "c": 1}[trial.params["kind"]]


def run(folder, *, trials, rounds=1, disturb=lambda journal: None):
    """Search a cheap function: a process of its own, as it were, for every round."""
    while True:
        journal = Journal(folder, space(), {})
        with journal.held() as found:
            for trial in journal.whole(found):
                if not trial.state.is_finished():
                    found.tell(trial.number, value(trial))
            left = trials - len(journal.whole(found))
            proposed = journal.propose(found, until=min(trials, len(journal.whole(found)) + rounds))
        disturb(folder / "study/journal.log")
        if not left:
            return [(trial.params, trial.value) for trial in proposed]


def test_a_search_finds_the_better_region(tmp_path):
    """Three times; the first ten trials are random."""
    searches = [[found for _, found in run(tmp_path / name, trials=40)] for name in ("s", "t", "u")]
    assert max(map(min, searches)) < 0.05
    assert sum(sum(values[10:]) / 30 for values in searches) < 0.7 * sum(sum(values[:10]) / 10 for values in searches)


def cut(path):
    """Leave a whole proposal without its parameters, and half a line, as a process that is killed may."""
    lines = path.read_bytes().splitlines(keepends=True)
    begun = next(line for line in lines if b'"op_code":4' in line)
    path.write_bytes(b"".join([*lines, begun, begun[:40]]))


def test_a_search_that_is_cut_off_proposes_what_it_would_have(tmp_path):
    whole = run(tmp_path / "a" / "s", trials=15, rounds=3)
    assert run(tmp_path / "b" / "s", trials=15, rounds=3, disturb=cut) == whole
    assert run(tmp_path / "c" / "other", trials=15, rounds=3) != whole
    assert len({str(params) for params, _ in whole}) == 15


def test_another_setting_is_another_study(tmp_path):
    with Journal(tmp_path, space(), {"a": "1", "b": "2"}).held():
        pass
    with pytest.raises(Refusal) as refusal:
        Journal(tmp_path, space(), {"a": "1", "b": "3", "c": "4"}).trials()
    place = f"the study in {tmp_path}/study"
    assert str(refusal.value).splitlines() == [
        f"b=3: {place} has b=2; begin another one with sweep_name=…",
        f"c=4: {place} has no c; begin another one with sweep_name=…",
    ]


def start(*arguments, cwd, **options):
    return Script("train", "-m", *TINY, *SPACE, *arguments, cwd=cwd, together=True, **options)


def trials(folder):
    """Parameters and value of each."""
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "study/journal.log"))
    )
    found = optuna.load_study(study_name="s", storage=storage).trials
    return [(trial.params, trial.value) for trial in found if trial.params]


def forget_the_last_values(path, count):
    """What a journal holds where a search was killed between its jobs' end and the study's being told."""
    lines = path.read_text().splitlines(keepends=True)
    told = [line for line in lines if '"op_code":6' in line]
    path.write_text("".join(line for line in lines if line not in told[-count:]))


def test_a_killed_search_ends_as_an_undisturbed_one(command, capsys, tmp_path):
    """Though it ran in parallel; and what had been trained is not trained again."""
    search = [*SPACE, "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=4"]
    assert command("train", "-m", *TINY, *search, "paths.root=whole") == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sweep s: search of 4 trials of 2 jobs, 0 trials done before; ")
    assert sum(line.startswith("trial ") for line in lines) == 4
    whole, killed = tmp_path / "whole/sweeps/s", tmp_path / "killed/sweeps/s"
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = start(*search, *parallel, "paths.root=killed", cwd=tmp_path, start_new_session=True)
    wait_for(lambda: len(list(killed.glob("*/summary.json"))) >= 5, process)
    os.killpg(process.pid, signal.SIGKILL)  # its children too, which would save first
    process.communicate()
    before = {path: path.read_text() for path in killed.glob("*/summary.json")}
    assert command("train", "-m", *TINY, *search, "paths.root=killed") == []
    assert trials(killed) == trials(whole)
    assert {path: path.read_text() for path in before} == before
    assert read_sweep(killed).count() == {"finished": 8}
    forget_the_last_values(killed / "study/journal.log", 2)
    capsys.readouterr()
    assert command("train", "-m", *TINY, *SPACE, "hydra.sweeper.n_trials=5", "paths.root=killed") == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sweep s: search of 5 trials of 2 jobs, 2 trials done before; ")
    assert trials(killed)[:4] == trials(whole)
    assert read_sweep(killed).count() == {"finished": 10}
    best = min(found for _, found in trials(killed))
    assert any(line.startswith(f"best: score error {best:.4g} at optimizer.lr=") for line in lines)


def test_two_copies_share_one_search(tmp_path):
    for process in [start("hydra.sweeper.n_trials=4", cwd=tmp_path) for _ in range(2)]:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    sweep = read_sweep(tmp_path / "outputs/sweeps/s")
    found = trials(sweep.folder)
    assert len(found) == 4
    assert sweep.count() == {"finished": 8}
    errors = {}
    for job in sweep.jobs:
        assert (job.folder / "train.log").read_text().count("score error") == 1
        errors.setdefault(job.overrides["optimizer.lr"], []).append(job.metrics["score_error"])
    assert sorted(sum(pair) / 2 for pair in errors.values()) == pytest.approx(sorted(value for _, value in found))


def test_diverged_trials_count_as_bad_and_failed_ones_are_tried_again(command, tmp_path, monkeypatch):
    from ncsn_lightning.runs import lifecycle

    build = lifecycle.build

    def break_down(config, **options):
        if config["seed"] == 1 and options.get("callbacks"):  # not when it is only checked
            raise KeyError("lost")
        return build(config, **options)

    monkeypatch.setattr(lifecycle, "build", break_down)
    arguments = [*TINY, "optimizer=sgd", "optimizer.lr=1e6,1e-3", "seed=0,1", "hydra.sweeper.n_trials=5"]
    (line,) = command("train", "-m", *arguments)
    assert line == "2 of 4 jobs did not finish (2 failed); the same command tries them again"
    folder = tmp_path / "outputs/sweeps/s"
    assert {params["optimizer.lr"] for params, found in trials(folder)} == {"1000000.0", "0.001"}
    assert [found for _, found in trials(folder)] == 5 * [None]
    monkeypatch.setattr(lifecycle, "build", build)
    assert command("train", "-m", *arguments) == []
    for params, found in trials(folder):
        assert (found is None) == (params["optimizer.lr"] == "1000000.0")
    assert read_sweep(folder).count() == {"finished": 2, "diverged": 2}


REFUSED = {
    "hydra.sweeper.n_trials=0 seed=0,1": "hydra.sweeper.n_trials=0: give a whole number of at least 1",
    "hydra.sweeper.n_trials=many seed=0,1": "hydra.sweeper.n_trials=many: give a whole number of at least 1",
    "hydra.sweeper.n_trials=2 hydra.sweeper.n_jobs=0 seed=0,1": "hydra.sweeper.n_jobs=0: give a whole number of at lea",
    "hydra.sweeper.n_trials=2 seed=0,1": "hydra.sweeper.n_trials: nothing to search; give a key interval(…), range(…)",
    "hydra.sweeper.n_trials=2 optimizer.lr=interval(2,1)": "optimizer.lr=interval(2,1): ",
    "hydra.sweeper.n_trials=2 optimiser.lr=interval(1,2)": "optimiser.lr=1.0: no such key; did you mean optimizer.lr?",
    "hydra.sweeper.n_trials=2 threads=1,2": "threads=1,2: changes no result, so all its jobs would be one",
    "hydra.sweeper.n_trials=2 optimizer.lr=interval(-1,1)": "optimizer.lr=-1: ",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_search_is_refused_whole_and_leaves_nothing(line, command, tmp_path):
    lines = command("train", "-m", *TINY, *line.split())
    assert lines[0].startswith(REFUSED[line])
    assert list(tmp_path.iterdir()) == []


def test_a_search_says_what_it_can_learn_nothing_about(command, tmp_path, capfd):
    """A sampler's step never reaches the score error; a schedule does where training takes its levels, which it may."""
    space = ["schedule=karras,linear", "sampler.step_ratio=interval(0.1,0.3)", "optimizer.lr=interval(1e-3,1e-2)"]
    search = ["hydra.sweeper.n_trials=1", "trainer.max_steps=2"]
    why = "no training, only what follows it, such as the sampling, so a search by score_error learns nothing about"
    for levels, line in {
        "levels=ladder,tilted": f"sampler.step_ratio: changes {why} it; leave it out",
        "levels=tilted": f"schedule and sampler.step_ratio: change {why} them; leave them out; with levels=ladder ",
    }.items():
        assert command("train", "-m", *TINY, *space, *search, levels, f"sweep_name={levels[7:10]}") == []
        (said,) = [text for text in capfd.readouterr().out.splitlines() if "learns nothing" in text]
        assert said.startswith(line)


def test_a_search_without_optuna_names_the_extra(command, tmp_path, monkeypatch):
    monkeypatch.setattr(optuna_study, "find_spec", lambda name: None)
    (line,) = command("train", "-m", *TINY, "sweep=search")
    assert line == "hydra.sweeper.n_trials: needs Optuna; install it with: pip install 'ncsn-lightning[search]'"
    assert list(tmp_path.iterdir()) == []


def test_the_search_of_the_package_can_be_built(command, tmp_path):
    assert command("train", "-m", *TINY, "sweep=search", "hydra.sweeper.n_trials=1", "seed=0") == []
    plan = json.loads((tmp_path / "outputs/sweeps/s/sweep.json").read_text())
    assert plan["question"].endswith("?")
    assert len(plan["factors"]) == 6
    assert os.listdir(tmp_path) == ["outputs"]
