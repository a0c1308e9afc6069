"""The pages are true: their Python runs, and what they name exists. `make check` types their commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parents[1]
PYTHON = re.compile(r"^(?:<!-- (checked|file: (\S+)) -->\n)?```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`((?:ncsn_lightning|tests|scripts|conf)/[\w./]*?)(?:::(\w+))?`")


def script(name, *arguments):
    command = [sys.executable, str(ROOT / "scripts/tools" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*deprecated", "ignore:.*does not have many workers", "ignore:.*`srun` command"
)
@pytest.mark.parametrize("page", ["README.md", "docs/lightning.md", "docs/your_points.md", "docs/extending.md"])
def test_python_runs(page, importable, monkeypatch):
    """Blocks in order, in one folder; those that need a trained run are run with the page's commands."""
    monkeypatch.chdir(importable)
    names = {}
    blocks = PYTHON.findall((ROOT / page).read_text())
    assert blocks
    for mark, file, text in blocks:
        if file:
            (importable / file).parent.mkdir(parents=True, exist_ok=True)
            (importable / file).write_text(text)
        if mark != "checked":
            exec(compile(text, page, "exec"), names)


def test_a_failing_command_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- checked -->\n```bash\ntrue  # a remark\nfalse\ntrue\n```\n")
    done = script("check_readme", page)
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (1, 1, "page.md: false\n")


def test_links_lead_somewhere():
    done = script("check_links")
    assert (done.returncode, done.stdout) == (0, "")


def test_broken_links_are_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts/tools")
    import check_links

    monkeypatch.setattr(check_links, "ROOT", tmp_path)
    page = tmp_path / "README.md"
    page.write_text(
        "# One `two`\n[a](#one-two) [b](#two)\n`[c](none.md)` $x[d](e)$\n[f](none.md) ![g](none.png) [h](https://x.y)\n"
    )
    assert list(check_links.broken(page)) == [
        "README.md:2: #two: no such heading",
        "README.md:4: none.md: no such file",
        "README.md:4: none.png: no such file",
    ]


@pytest.mark.parametrize(
    "page", ["README.md", "docs/mathematics.md", "docs/extending.md", "docs/sweeps.md", "docs/cluster.md"]
)
def test_files_and_tests_that_are_named_exist(page):
    named = NAMED.findall((ROOT / page).read_text())
    assert named
    for file, test in named:
        assert (ROOT / file).exists(), file
        assert not test or f"\ndef {test}(" in (ROOT / file).read_text(), test


def test_the_sweep_that_is_shown_is_the_file():
    assert (ROOT / "conf/sweep/targets.yaml").read_text() in (ROOT / "docs/sweeps.md").read_text()


def test_the_readme_names_every_option():
    """The table of groups is the folder conf/, the option of `make train` first."""
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        choices = compose("train", return_hydra_config=True).hydra.runtime.choices
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} - {"callbacks", "hydra", "paths"}
    for group in groups:
        options = [re.match(r"\[?(\w+)", word.strip())[1] for word in rows[group].split(",")]
        assert set(options) == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}, group
        assert choices[group] in (options[0], None)  # no sweep unless one is chosen


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200
