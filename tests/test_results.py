"""docs/results.md is written by the sweeps, its sentences by hand."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import run as script
from synthetic import GRIDS, make_sweep

from ncsn_lightning.report.gallery import sample_gallery
from ncsn_lightning.report.metrics import plus_minus
from ncsn_lightning.sweeps.folder import read_sweep

ROOT = Path(__file__).parents[1]
PAGE = "# Results\n\nBefore.\n\n<!-- sweep: {} -->\nold\n<!-- end -->\n\nAfter: \\1 $x$.\n"
TINY = [
    *("network.hidden_dims=[8]", "network.embedding.dim=8", "objective.pool_size=1000", "data.batch_size=64"),
    *("data.validation_size=64", "score_test.num_points=16", "trainer.max_steps=40", "data.steps_per_epoch=20"),
    *("block_size=20", "callbacks.figures.num_samples=100", "sampler.steps_per_level=2"),
]


@pytest.fixture(scope="module")
def results():
    sys.path.insert(0, str(ROOT / "scripts/studies"))
    import results

    sys.path.remove(str(ROOT / "scripts/studies"))
    return results


@pytest.fixture(scope="module")
def page(results):
    return sys.modules["page"]


@pytest.fixture(scope="module")
def reproduce(results):
    sys.path.insert(0, str(ROOT / "scripts/studies"))
    import reproduce

    sys.path.remove(str(ROOT / "scripts/studies"))
    return reproduce


def test_a_number_and_its_error_have_the_same_digits():
    assert plus_minus(0.012344, 0.00042) == "0.01234 ± 0.00042"
    assert plus_minus(12.345, 1.2) == "12.3 ± 1.2"
    assert plus_minus(1234.5, 56.0) == "1234 ± 56"
    assert plus_minus(0.012345, float("nan")) == "0.0123"
    assert plus_minus(0.5, 0.0) == "0.5"


def test_the_table_has_every_configuration_and_says_what_ties(results, tmp_path):
    sweep = read_sweep(make_sweep(tmp_path / "schedule_weighting", GRIDS[72], samples=0))
    text = results.section(sweep, results.RESULTS["schedule_weighting"], "images/x.png")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0][:2] == ["schedule", "weighting"]
    assert len(rows) == 2 + 24
    means = [float(row[2].split(" ± ")[0]) for row in rows[2:]]
    assert means == sorted(means)
    assert rows[2][3] == "the best"
    assert rows[2][:2] == ["karras", "inverse_variance"]
    ties = {f"schedule={row[0]} weighting={row[1]}" for row in rows if row[3].endswith(", a tie")}
    assert "schedule=karras weighting=learned" in ties
    assert "schedule=linear weighting=uniform" not in ties
    (verdict,) = [line for line in text.splitlines() if line.startswith("Best:")]
    assert set(re.findall("`([^`]+)`", verdict)) == {"schedule=karras weighting=inverse_variance", *ties}
    assert "-m trainer.max_steps=2000 schedule=karras weighting=inverse_variance seed=0,1,2\n```" in text
    assert "72 jobs, 15 min 0 s" in text


def test_what_stands_between_the_marks_alone_is_written(page):
    text = PAGE.format("a") + PAGE.format("b")
    once = page.written(text, "b", "new \\1")
    assert once == PAGE.format("a") + PAGE.format("b").replace("old\n", "new \\1\n\n")
    assert page.written(once, "b", "new \\1") == once
    with pytest.raises(SystemExit, match="<!-- sweep: c -->"):
        page.written(text, "c", "")


def test_a_gallery_shows_each_target_once_and_the_best_first(tmp_path):
    factors = {"distribution": ["moons", "rings", "circles"], "seed": ["0", "1", "2"]}
    sweep = read_sweep(make_sweep(tmp_path / "targets", factors, samples=500))
    figure = sample_gallery(sweep)
    titles = [axes.get_title().split("\n") for axes in figure.axes if axes.get_title()]
    assert {name for name, _ in titles} == set(factors["distribution"])
    means = [float(mean.split(" ± ")[0]) for _, mean in titles]
    assert means == sorted(means)
    for axes in figure.axes[:3]:
        x = np.asarray(axes.collections[0].get_offsets())[:, 0]
        assert len(x) > 100
        assert x.min() > sum(axes.get_xlim()) / 2
    for path in sweep.folder.rglob("samples.npz"):
        path.unlink()
    with pytest.raises(ValueError, match="no finished job left samples"):
        sample_gallery(sweep)


def test_make_results_trains_draws_and_keeps_the_sentences(tmp_path):
    page = tmp_path / "results.md"
    page.write_text(PAGE.format("targets"))
    options = ["--only", "targets", "--root", tmp_path / "runs", "--page", page, "--launcher", "basic"]
    for _ in range(2):  # the second time there is nothing to train
        done = script("studies/results", *options, *TINY, "distribution=moons,circles", "seed=0", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        text = page.read_text()
        assert text.startswith("# Results\n\nBefore.\n")
        assert text.endswith("<!-- end -->\n\nAfter: \\1 $x$.\n")
        assert "| moons | " in text
        assert "| circles | " in text
        assert "![What the networks drew, over their targets](images/result_targets.png)" in text
    picture = tmp_path / "images/result_targets.png"
    assert picture.stat().st_size < 300_000
    with Image.open(picture) as image:
        assert image.width > 8 * 70  # eight inches at the tests' resolution


def test_the_page_has_the_marks(results, reproduce):
    text = results.PAGE.read_text()
    assert re.findall(r"<!-- sweep: (\w+) -->\n.*?<!-- end -->", text, re.DOTALL) == [
        *results.RESULTS,
        *reproduce.REPRODUCTIONS,
    ]
