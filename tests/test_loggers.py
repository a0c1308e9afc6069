"""W&B never blocks and its offline run can be read back; the other loggers get their media."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
from processes import finish, start

from ncsn_lightning import jobs

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
        "network.hidden_dims=[16,16]",
        "trainer.max_steps=100",
        "data.batch_size=64",
        "data.steps_per_epoch=50",
        "callbacks.figures.num_samples=50",
        "sampler.steps_per_level=2",
        "weighting=learned",
        "group=a-group",
    ]
    started = time.monotonic()
    output = finish(start(*small, f"hydra.run.dir={folder}"))
    return folder, output, time.monotonic() - started


def test_the_sync_command_is_said_once_and_works_from_its_folder(offline):
    folder, output, _ = offline
    lines = [line for line in output.splitlines() if "wandb sync" in line]
    assert len(lines) == 1
    assert Path(lines[0].split("wandb sync ")[1]).is_dir()
    assert folder.name in lines[0]


def test_an_offline_run_holds_metrics_media_tables_and_config(offline):
    (run,) = (offline[0] / "wandb").glob("offline-run-*")
    everything = inspect(run)
    for key in ("loss/train", "loss/validation", "score_error", "figures/samples", "figures/annealing", "samples"):
        assert key in everything, key
    for key in ("score_error_per_level", "figures/score_field", "figures/learned_weighting", "lr-FlatAdam"):
        assert key in everything, key
    summary = json.loads(inspect(run, "--summary"))
    text = json.dumps(summary)
    assert "final/score_error" in text
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
from ncsn_lightning import loggers

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
    job = jobs.build(configure(f"logger={kind}", f"paths.root={tmp_path}"), overrides=[])
    jobs.fit(job)
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
