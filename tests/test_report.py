"""What a report writes, whatever state its sweep is in and whatever its configurations hold."""

import base64
import csv
import hashlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import run as script
from synthetic import GRIDS, make_sweep

from ncsn_lightning.report import answer, write_report
from ncsn_lightning.report.curves import step_curves
from ncsn_lightning.report.figures import heat_map
from ncsn_lightning.report.metrics import by_level
from ncsn_lightning.report.payload import payload
from ncsn_lightning.report.pictures import gallery
from ncsn_lightning.report.write import duration, page
from ncsn_lightning.sweeps.folder import read_sweep

SMALL = {"schedule": ["linear", "karras"], "weighting": ["learned", "uniform"], "seed": ["0", "1"]}
NASTY = [
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "'; touch taken; '",
    '$(touch taken) `touch taken` \\ "',
    "<!--<script>",
    "{{ 7 * 7 }}",
    "σ\u2028line\nend",
    "=HYPERLINK(1)",
]


def table_of(folder):
    """The rows of `sweep.csv`."""
    with open(folder / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def data_of(text):
    """The JSON that the page's script reads."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_table_has_a_row_for_every_job(tmp_path):
    folder = make_sweep(tmp_path / "s", SMALL, states={1: "failed", 2: "waiting"}, samples=0)
    write_report(read_sweep(folder))
    rows = table_of(folder)
    assert [row["state"] for row in rows] == ["finished", "failed", "waiting", *["finished"] * 5]
    assert [row["schedule"] for row in rows] == ["linear"] * 4 + ["karras"] * 4
    assert rows[1]["reason"] == "RuntimeError: the loss is failed <b>here</b>"
    assert (rows[1]["score_error"], rows[2]["steps"]) == ("", "")
    measured = json.loads((folder / rows[0]["hash"] / "summary.json").read_text())["metrics"]
    assert float(rows[0]["score_error"]) == measured["score_error"]
    assert rows[0].keys() >= {"state", "hash", *SMALL, "fisher_error", "loss/train", "steps", "wall_time", "reason"}


def test_text_of_a_configuration_stays_text(tmp_path):
    """In the page's elements, in its data, in its commands, and in the table."""
    factors = {"distribution.path": NASTY, "+x": ["1", "2"]}
    folder = make_sweep(tmp_path / "s", factors, samples=0, question=NASTY[0])
    text = page(read_sweep(folder))
    assert text.count("<script") == 2 + text.count('"<script') == text.count("</script>")
    assert "document.title='taken'</script>" not in text
    assert "&lt;/script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    data = data_of(text)
    assert [factor["values"] for factor in data["factors"]] == [NASTY, ["1", "2"]]
    for written, value in zip(data["factors"][0]["written"], NASTY, strict=True):
        assert shlex.split(written) == [f"distribution.path={value}"]
    write_report(read_sweep(folder))
    assert {row["distribution.path"] for row in table_of(folder)} == set(NASTY)


def test_the_page_allows_its_own_script_alone(tmp_path):
    text = page(read_sweep(make_sweep(tmp_path / "s", SMALL, samples=0)))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not re.search(r"""(?:src|href)=["']?(?!data:|#)\w""", text.replace(script, ""))


def test_a_truncated_summary_is_an_interrupted_job(tmp_path):
    folder = make_sweep(tmp_path / "s", SMALL, samples=0)
    summary = next(folder.glob("*/summary.json"))
    summary.write_text(summary.read_text()[:100])
    sweep = read_sweep(folder)
    assert sweep.count() == {"finished": 7, "interrupted": 1}
    data = payload(sweep)
    place = data["jobs"]["state"].index("interrupted")
    assert data["values"]["score_error"][place] is None
    assert "killed" in data["jobs"]["reason"][place]


def test_jobs_of_other_revisions_are_said_at_the_top(tmp_path):
    one = page(read_sweep(make_sweep(tmp_path / "one", SMALL, samples=0)))
    assert "not all made by the same program" not in one
    assert "0123456789ab</code>, which is not the code that wrote this page" in one
    two = page(read_sweep(make_sweep(tmp_path / "two", SMALL, samples=0, revisions={0: "fedcba987654", 3: "0dd"})))
    assert "not all made by the same program" in two
    for text in (
        "6 jobs: revision <code>0123456789ab",
        "1 job: revision <code>fedcba987654",
        "1 job: revision <code>0dd",
    ):
        assert text in two


def test_jobs_of_other_versions_are_said_at_the_top(tmp_path):
    folder = make_sweep(tmp_path / "s", SMALL, samples=0)
    path = next(folder.glob("*/summary.json"))
    summary = json.loads(path.read_text())
    summary["versions"]["torch"] = "2.14.0"
    path.write_text(json.dumps(summary))
    text = page(read_sweep(folder))
    assert "not all made by the same program" in text
    assert "torch: 2.13.0 and 2.14.0" in text


def test_values_that_are_not_finite_leave_gaps(tmp_path):
    folder = make_sweep(tmp_path / "s", SMALL, samples=0)
    path = next(folder.glob("*/summary.json"))
    summary = json.loads(path.read_text())
    summary["metrics"] |= {"score_error": float("nan"), "score_error_per_level": {"0.1": float("inf"), "1": 0.5}}
    path.write_text(json.dumps(summary))
    data = data_of(page(read_sweep(folder)))
    assert data["values"]["score_error"].count(None) == 1
    (row,) = [row for row in data["levels"]["score_error"]["rows"] if len(row) == 3]
    assert row[1:] == [None, 0.5]


def test_curves_of_a_file_that_is_being_written(tmp_path):
    """A last line that is cut counts once it is whole; many steps become few points, their means."""
    folder = make_sweep(tmp_path / "s", SMALL, samples=0)
    sweep = read_sweep(folder)
    log = sweep.jobs[0].folder / "metrics.csv"
    log.write_text("loss/train,step\n1.0,50\n2.0,100\n12345")
    for job in sweep.jobs[1:]:
        (job.folder / "metrics.csv").unlink()
    assert step_curves(sweep.jobs) == {"loss/train": {"steps": [50, 100], "rows": [[1.0, 2.0], *[None] * 7]}}
    log.write_text("loss/train,step\n" + "".join(f"{step / 50},{step}\n" for step in range(50, 50_001, 50)))
    found = step_curves(sweep.jobs)["loss/train"]
    assert len(found["steps"]) <= 40
    np.testing.assert_allclose(np.array(found["rows"][0]) * 50, found["steps"], rtol=5e-3)


def test_numbers_that_cannot_be_read_are_left_out(tmp_path):
    """Of a log and of a summary, whatever has befallen them; the page is written all the same."""
    folder = make_sweep(tmp_path / "s", SMALL, samples=0)
    first = read_sweep(folder).jobs[0].folder
    (first / "metrics.csv").write_text("loss/train,step\n1.0,50\nabc,100\n2.0,none\n3.0,150\n")
    summary = json.loads((first / "summary.json").read_text())
    summary["metrics"]["score_error_per_level"] |= {"low": 0.5}
    (first / "summary.json").write_text(json.dumps(summary))
    jobs = read_sweep(folder).jobs
    assert step_curves(jobs[:1]) == {"loss/train": {"steps": [50, 150], "rows": [[1.0, 3.0]]}}
    assert all(isinstance(sigma, float) for sigma in by_level(jobs[0], "score_error"))
    assert write_report(read_sweep(folder)).is_file()


def test_pictures_share_the_frame_and_the_shades_of_their_truth(tmp_path):
    folder = make_sweep(tmp_path / "s", {"distribution": ["board", "cloud"], "seed": ["0", "1"]}, samples=4000)
    draw = np.random.default_rng(0)
    jobs = read_sweep(folder).jobs
    board = np.load(jobs[0].folder / "samples.npz")["truth"]
    spread = np.concatenate([3 * draw.standard_normal((3999, 2)), [[np.nan, 0]]]).astype(np.float32)
    np.savez(jobs[0].folder / "samples.npz", x=board, truth=board)  # perfect
    np.savez(jobs[1].folder / "samples.npz", x=spread, truth=board)
    np.savez(jobs[2].folder / "samples.npz", x=spread[:, ::-1], truth=(10 + spread[:-1]))
    (jobs[3].folder / "samples.npz").write_bytes(b"PK torn")
    first, second = gallery(jobs)
    assert (set(first["jobs"]), set(second["jobs"])) == ({"0", "1"}, {"2"})
    np.testing.assert_allclose(first["frame"], [-2.4, 2.4, -2.4, 2.4], atol=0.02)
    assert first["jobs"]["0"] == first["truth"]
    images = [Image.open(io.BytesIO(base64.b64decode(first["jobs"][key]))).convert("L") for key in ("0", "1")]
    dark, pale = (np.asarray(image, dtype=float) for image in images)
    assert dark.shape == pale.shape
    assert dark.min() < pale.min()  # the same mass over a larger area
    upper_left = dark[: len(dark) // 3, : len(dark) // 3]
    assert (
        upper_left.mean() > 150 > dark[len(dark) // 2 - 20 : len(dark) // 2 - 5, 8:20].mean()
    )  # the first cell is empty


def test_a_page_of_200_jobs_with_pictures_is_small(tmp_path):
    folder = make_sweep(tmp_path / "s", GRIDS[200], samples=10_000)
    assert write_report(read_sweep(folder)).stat().st_size < 3_000_000


def test_a_search_shows_what_a_forest_says(tmp_path):
    draw = np.random.default_rng(1)
    rates = [f"{10 ** draw.uniform(-4, -2):.4g}" for _ in range(30)]
    folder = make_sweep(tmp_path / "s", {"optimizer.lr": rates, "schedule": ["karras", "linear"]}, samples=0)
    plan = json.loads((folder / "sweep.json").read_text())
    plan["jobs"] = {name: job for index, (name, job) in enumerate(plan["jobs"].items()) if index % 4 in (0, 3)}
    (folder / "sweep.json").write_text(json.dumps(plan))
    data = payload(read_sweep(folder))
    assert data["shares"]["score_error"] is None
    assert data["importance"]["shares"][0][0] == "optimizer.lr"


def test_the_heat_map_as_a_figure(tmp_path):
    folder = make_sweep(tmp_path / "s", SMALL, states={4: "failed", 5: "failed", 0: "failed"}, samples=0)
    sweep = read_sweep(folder)
    axes = heat_map(sweep).axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("schedule", "weighting")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["learned", "uniform"]
    texts = [text.get_text() for text in axes.texts]
    pair = [job.metrics["off_support"] for job in sweep.jobs[2:4]]
    assert len(texts) == 4
    assert texts[2] == "–"
    assert "\n" not in texts[0]  # one seed of two: no spread
    shown = heat_map(sweep, metric="off_support", rows="weighting", columns="schedule").axes[0].texts[2].get_text()
    assert shown == f"{np.mean(pair):.3g}\n± {np.std(pair, ddof=1):.2g}"
    with pytest.raises(ValueError, match="rows=lr: not swept; choose of schedule, weighting, seed"):
        heat_map(sweep, rows="lr")
    with pytest.raises(ValueError, match="needs two swept keys"):
        heat_map(read_sweep(make_sweep(tmp_path / "one", {"seed": ["0", "1"]}, samples=0)))


def test_durations_are_for_people():
    assert [duration(seconds) for seconds in (7.4, 200, 7320)] == ["7 s", "3 min 20 s", "2 h 2 min"]


# The command


def report(*arguments, cwd):
    """`ncsn-report`, as a process that says what it imported."""
    code = (
        "import sys; from ncsn_lightning.report.command import report\n"
        "try:\n    report()\nfinally:\n"
        "    print(*sorted({'torch', 'hydra', 'lightning', 'matplotlib'} & set(sys.modules)), file=sys.stderr, end='')"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_the_command_says_the_answer_and_imports_nothing_slow(tmp_path):
    folder = make_sweep(tmp_path / "s", SMALL, states={0: "waiting"})
    assert make_sweep(tmp_path / "s2", SMALL) != folder
    code, said, wrong = report(folder, cwd=tmp_path)
    assert (code, wrong) == (0, [])
    assert said[0] == "7 finished, 1 waiting"
    assert said[1].startswith("best of 4: schedule=karras weighting=learned")
    assert said[2].startswith(f"score_error {answer(read_sweep(folder)).best.mean:.4g} ± ")
    assert said[3].startswith(f"{folder}/report.html (0.")
    assert {path.name for path in folder.iterdir() if path.is_file()} == {"sweep.json", "sweep.csv", "report.html"}
    for path in folder.glob("*/summary.json"):
        path.unlink()
    code, said, wrong = report(folder, "--metric=off_support", cwd=tmp_path)
    assert (code, said[1], wrong) == (0, "no job has finished yet", [])


def test_a_multirun_ends_with_its_report(tmp_path):
    """Of jobs that finished and jobs that failed."""
    tiny = [
        *("logger=csv", "trainer.max_steps=20", "data.steps_per_epoch=20", "data.batch_size=64", "block_size=10"),
        *("network.hidden_dims=[8]", "network.embedding.dim=8", "data.validation_size=64", "score_test.num_points=16"),
        *("~callbacks.figures", "callbacks.guard.factor=1e-9,1000.0", "hydra.sweep.dir=sweep"),
    ]
    done = script("train", "-m", *tiny, cwd=tmp_path)
    assert done.returncode == 1
    assert f"report: {tmp_path}/sweep/report.html" in done.stdout
    assert sorted(row["state"] for row in table_of(tmp_path / "sweep")) == ["diverged", "finished"]
    data = data_of((tmp_path / "sweep/report.html").read_text())
    assert [factor["key"] for factor in data["factors"]] == ["callbacks.guard.factor"]
    assert list(data["levels"]) == ["score_error"]


def test_what_is_no_sweep_is_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    without = make_sweep(tmp_path / "without", {"seed": []}, samples=0)
    whole = make_sweep(tmp_path / "whole", SMALL, samples=0)
    torn = Path(shutil.copytree(whole, tmp_path / "torn"))
    (torn / "sweep.json").write_text("{")
    taken = Path(shutil.copytree(whole, tmp_path / "taken"))
    (taken / "report.html").mkdir()
    lines = {
        ("nowhere",): "nowhere: no such folder",
        ("empty",): "empty: no sweep's folder, for it has no sweep.json; give one of outputs/sweeps",
        ("torn",): "torn/sweep.json: not written by this program or damaged; run the sweep's command again",
        (
            without,
        ): f"{without}: a sweep without a job; run its command again: python scripts/train.py -m sweep=without",
        ("whole", "--metric=beauty"): "--metric=beauty: no job measured it; choose one of score_error, fisher_error, ",
        ("taken",): "taken/report.html: cannot be written (Is a directory); make room or give access",
    }
    for arguments, line in lines.items():
        code, _, wrong = report(*arguments, cwd=tmp_path)
        assert (code, len(wrong)) == (1, 1)
        assert wrong[0].startswith(line)
    assert not list((tmp_path / "taken").glob(".*"))
