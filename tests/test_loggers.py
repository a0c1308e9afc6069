"""W&B never blocks and its offline run can be read back; the other loggers get their media."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from processes import finish, start

from ncsn_lightning.runs import lifecycle

LEET = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json"]


def inspect(run, *flags):
    out = subprocess.run([*LEET, *flags, str(run)], capture_output=True, text=True, timeout=120, check=False)
    assert out.returncode == 0, out.stderr
    return out.stdout


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A small offline W&B run, trained as a process with neither key nor network."""
    folder = tmp_path_factory.mktemp("wandb") / "run"
    small = [
        "distribution=moons",
        "schedule=karras",
        "weighting=learned",
        "network.hidden_dims=[16,16]",
        "trainer.max_steps=100",
        "data.batch_size=64",
        "data.steps_per_epoch=50",
        "callbacks.figures.num_samples=50",
        "callbacks.figures.every_n_steps=50",
        "callbacks.score_split.every_n_epochs=1",
        "sampler.steps_per_level=2",
        "group=a-group",
    ]
    output = finish(start(*small, f"hydra.run.dir={folder}"))
    return folder, output


@pytest.fixture(scope="module")
def records(offline):
    """What the run's .wandb file holds, by the type of its records, in their order."""
    (run,) = (offline[0] / "wandb").glob("offline-run-*")
    found = {}
    for line in inspect(run).splitlines():
        record = json.loads(line)
        found.setdefault(record["type"], []).append(record[record["type"]])
    return found


@pytest.fixture(scope="module")
def history(records):
    """By the name of what was logged, the optimiser step of each of its values and the value."""
    curves = {}
    for row in records["history"]:
        step = row["item"]["trainer/global_step"]  # beside everything that is logged
        for name, value in row["item"].items():
            curves.setdefault(name.partition("._")[0], []).append((step, value))
    return curves


def test_the_sync_command_is_said_once_and_works_from_its_folder(offline):
    folder, output = offline
    lines = [line for line in output.splitlines() if "wandb sync" in line]
    assert len(lines) == 1
    assert Path(lines[0].split("wandb sync ")[1]).is_dir()
    assert folder.name in lines[0]


PICTURES = (
    *("samples", "filmstrip", "annealing", "score_field", "score_error", "loss_levels", "score_split"),
    *("schedule", "learned_weighting"),
)


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_there_during_training_and_at_the_end(name, history):
    assert sorted({step for step, _ in history[f"figures/{name}"]}) == [50, 100]


def test_every_curve_runs_over_the_optimiser_step(records, history):
    definitions = records["metric"]
    assert {definition.get("glob_name") for definition in definitions} >= {"*"}
    for definition in definitions:
        assert definition.get("name") == "trainer/global_step" or definition["step_metric"] == "trainer/global_step"
    for name in ("loss/train", "gradient_norm", "steps_per_second", "lr/pg1"):
        assert [step for step, _ in history[name]] == [49, 99], name  # as Lightning counts: the last step taken is 49
    for name in ("loss/validation", "score_error", "score_error/gradient", "sample_quality/density_tv"):
        assert [step for step, _ in history[name]] == [50, 100], name
    assert {"score_error_per_level", "samples"} <= history.keys()


def test_samples_are_measured_over_time_beside_their_floors(history):
    names = {name for name in history if name.startswith("sample_quality/")}
    metrics = {name for name in names if not name.endswith("_floor")}
    assert names == metrics | {f"{name}_floor" for name in metrics}
    assert {"sample_quality/energy_distance", "sample_quality/sliced_wasserstein2"} <= metrics


def test_summaries_are_the_least_and_the_last_where_less_is_better(records, history):
    summary = {}
    for record in records["summary"]:
        summary |= record["update"]
    for name in ("loss/train", "loss/validation", "score_error", "score_error/0.01", "sample_quality/density_tv"):
        values = [value for _, value in history[name]]
        assert summary[name] == pytest.approx({"min": min(values), "last": values[-1]}, rel=1e-6), name
    for name in ("lr/pg1", "gradient_norm", "steps_per_second"):
        assert summary[name] == pytest.approx(history[name][-1][1]), name
    assert summary["final/score_error"] > 0


def test_the_config_holds_what_runs_are_grouped_by(records):
    config = {}
    for record in records["config"]:
        config |= {key: value for key, value in record["update"].items() if not key.startswith("_wandb")}
    assert config.items() >= {
        ("distribution", "moons"), ("schedule", "karras"), ("weighting", "learned"), ("sampler", "annealed_langevin"),
        ("network", "film"), ("network/embedding", "fourier"), ("module", "NCSN"), ("seed", 0), ("trainer", "cpu"),
        ("trainer/max_steps", 100), ("data/batch_size", 64), ("sampler/steps_per_level", 2),
    }  # fmt: skip
    assert config["network/hidden_dims"] == [16, 16]
    assert config["schedule/sigma_max"] > 3  # `auto` in the configuration
    text = json.dumps(config)
    assert "${" not in text
    assert "auto" not in [value for key, value in config.items() if key != "loop"]
    assert not [key for key in config if key.startswith(("callbacks", "logger", "paths", "evaluation/", "_"))]
    assert all(isinstance(value, str | int | float | bool | list | None) for value in config.values())


def test_the_console_is_captured(offline, records):
    said = "".join(record["line"] for record in records["output_raw"])
    for line in offline[1].splitlines():
        if "step 50 of 100" in line or "fast loop" in line:
            assert line in said
    assert "step 50 of 100" in said


def test_an_offline_run_has_its_media_on_disk(offline):
    (run,) = (offline[0] / "wandb").glob("offline-run-*")
    media = {path.suffix for path in run.rglob("media/**/*") if path.is_file()}
    assert {".png", ".gif", ".json"} <= media


def test_all_that_wandb_writes_lies_in_one_folder_of_the_run(offline):
    folder = offline[0]
    assert not (Path.cwd() / "wandb").exists()
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        ".hydra",
        "checkpoints",
        "figures",
        "lease",
        "wandb",
    }
    staged = [json.loads(path.read_text()) for path in (folder / "wandb/artifacts/staging").iterdir()]
    assert {tuple(table["columns"]) for table in staged} == {("x1", "x2"), ("sigma", "relative_error")}


UNREACHABLE = """
import logging, sys, time
from ncsn_lightning.training import loggers

logging.basicConfig(stream=sys.stdout, level=logging.INFO)
loggers.CONNECT_SECONDS = 3
started = time.monotonic()
logger = loggers.WandbRun(project="p", folder=sys.argv[1], run_id="r", name="n")
assert time.monotonic() - started < 20
assert logger.experiment.offline
loggers.wandb.finish()
"""


@pytest.fixture
def service():
    """A W&B service of this process, which its children inherit."""
    wandb.setup()
    yield
    wandb.teardown()


@pytest.mark.parametrize("inherited", [True, False])
def test_an_unreachable_server_is_given_up_soon(inherited, service, tmp_path):
    unreachable = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    run = subprocess.run(
        [sys.executable, "-c", UNREACHABLE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={k: v for k, v in {**os.environ, **unreachable}.items() if inherited or k != "WANDB_SERVICE"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "W&B did not answer" in run.stdout
    assert run.stdout.count("wandb sync") == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of mlflow's own use of sqlalchemy
@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_other_loggers_get_metrics_and_pictures(kind, configure, tmp_path):
    pytest.importorskip({"tensorboard": "tensorboard", "mlflow": "mlflow"}[kind])
    job = lifecycle.build(configure(f"logger={kind}", f"paths.root={tmp_path}"), overrides=[])
    lifecycle.fit(job)
    assert (tmp_path / "run/metrics.csv").stat().st_size > 0
    if kind == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "run/tensorboard"))
        events.Reload()
        assert [e.step for e in events.Scalars("loss/train")] == [49, 99]
        assert "figures/samples" in events.Tags()["images"]
    else:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        (run,) = client.search_runs([client.get_experiment_by_name("ncsn-lightning").experiment_id])
        assert [m.step for m in client.get_metric_history(run.info.run_id, "loss/train")] == [49, 99]
        assert "figures/samples.png" in {a.path for a in client.list_artifacts(run.info.run_id, "figures")}
