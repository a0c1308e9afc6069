"""What a terminal shows of a sweep, and what it shows elsewhere."""

import io
import itertools
import re
from pathlib import Path

import pytest
from rich.console import Console

from ncsn_lightning.sweeps import terminal
from ncsn_lightning.sweeps.folder import Job
from ncsn_lightning.sweeps.terminal import View, table


class Stage:
    """In place of a runner: jobs whose states a test sets."""

    def __init__(self, states):
        self.jobs = {}
        for name, state in states.items():
            self.set(name, state)

    def read(self, name):
        return self.jobs[name]

    def steps(self, name):
        return 1000

    def set(self, name, state, **summary):
        errors = {"failed": "Traceback …\nKeyError: 'lost'"}
        summary = {"status": state, "error": errors.get(state), "metrics": {}, **summary} if state != "waiting" else {}
        overrides = {"schedule": "karras", "seed": name}
        self.jobs[name] = Job(name, Path.cwd() / "sweep" / name, overrides, [], state, summary)


def watch(stage, console, seen):
    def look(jobs):
        seen.append(len(jobs))

    return View(stage, total=len(stage.jobs), console=console, look=look)


def test_elsewhere_a_line_for_every_job_that_ends(monkeypatch):
    monkeypatch.setattr(terminal, "SECONDS", 0.01)
    stage, seen = Stage({"0": "finished", "1": "waiting", "2": "waiting"}), []
    console = Console(file=io.StringIO(), width=1000)
    with watch(stage, console, seen):
        stage.set("1", "finished", metrics={"score_error": 0.0123})
        stage.set("2", "failed")
    assert sorted(console.file.getvalue().splitlines()) == [
        "2 of 3 finished; schedule=karras seed=1 finished, score error 0.0123",
        "2 of 3 finished; schedule=karras seed=2 failed: KeyError: 'lost'",
    ]
    assert set(seen) == {3}


def test_a_job_that_was_ended_before_makes_no_line():
    console = Console(file=io.StringIO(), width=1000)
    with watch(Stage({"0": "failed", "1": "finished"}), console, []):
        pass
    assert console.file.getvalue() == ""


def test_on_a_terminal_one_view_of_the_whole_sweep(monkeypatch):
    stage = Stage({str(index): "waiting" for index in range(6)})
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    view = watch(stage, console, [])
    shown = rendered(view, console)
    assert re.fullmatch(r" {31}0 of 6 finished, 0 running *\n", shown)
    assert "left" not in shown
    view.started -= 60
    stage.set("0", "finished", metrics={"score_error": 0.02})
    stage.set("1", "finished", metrics={"score_error": 0.01})
    stage.set("2", "finished", metrics={"score_error": float("nan")})
    stage.set("3", "diverged")
    stage.set("4", "running")
    with view:
        pass
    shown = rendered(view, console)
    assert re.match(r"━{15} {16}3 of 6 finished, 1 running, 1 diverged, 1:0\d left *\n", shown)
    assert "best so far: schedule=karras seed=1 finished, score error 0.01\n" in shown
    assert re.search(r"running: schedule=karras seed=4 +no step yet", shown)


def test_a_minute_has_sixty_seconds():
    assert [terminal._minutes(seconds) for seconds in (0.4, 59.7, 60, 119.6)] == ["0:00", "1:00", "1:00", "2:00"]


def test_the_time_left_falls_while_a_job_runs(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    stage = Stage({str(index): "waiting" for index in range(4)})
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    view = watch(stage, console, [])
    for at, states, left in [(10, "fr", "0:30"), (15, "fr", "0:25"), (20, "ffr", "0:20"), (50, "ffr", None)]:
        now[0] = 100.0 + at
        for name, state in enumerate(states):
            stage.set(str(name), {"f": "finished", "r": "running"}[state])
        view.update()
        said = re.search(r"running, (.*) left", rendered(view, console))
        assert (said and said[1]) == left


def test_a_running_job_shows_its_step_its_loss_and_the_time_left(monkeypatch, tmp_path):
    """By its metrics.csv, whose last line may be half written."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.chdir(tmp_path)
    stage = Stage({"0": "running"})
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    view = watch(stage, console, [])
    log = tmp_path / "sweep/0/metrics.csv"
    log.parent.mkdir(parents=True)
    log.write_text("epoch,loss/train,step\n0,0.5,99\n")
    assert re.search(r"seed=0 +step 99 of 1000 +loss 0.5 *\n", rendered(view, console))
    now[0] += 60
    log.write_text(log.read_text() + "".join(f"0,0.{step},{step}\n0,,{step}\n" for step in range(100, 400)) + "0,7.0,9")
    assert re.search(r"step 399 of 1000 +loss 0.399 +2:00 left *\n", rendered(view, console))
    log.write_text(log.read_text() + "99\n0,,1000\n")
    assert re.search(r"step 1000 of 1000 +loss 7 +samples, pictures *\n", rendered(view, console))
    log.write_text("epoch,loss/train,step\n0,0.5,49\n")  # begun anew
    assert re.search(r"step 49 of 1000 +loss 0.5 *\n", rendered(view, console))
    log.write_text("")
    assert "no step yet" in rendered(view, console)


def rendered(view, console):
    with console.capture() as capture:
        console.print(view.render())
    return capture.get()


def test_the_table_names_settings_status_score_or_reason_and_folder():
    stage = Stage({"0": "finished", "1": "failed", "2": "waiting"})
    stage.set("0", "finished", metrics={"score_error": 0.0123456})
    console = Console(file=io.StringIO(), width=1000)
    console.print(table(list(stage.jobs.values()), console))
    first, *lines = console.file.getvalue().splitlines()
    assert first.strip() == "jobs in sweep, all with schedule=karras"
    assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
        ["seed", "status", "score error, or reason", "folder"],
        ["0", "finished", "0.01235", "0"],
        ["1", "failed", "KeyError: 'lost'", "1"],
        ["2", "waiting", "2"],
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_a_narrow_table_is_folded_and_loses_nothing(width):
    """Whatever tells two rows apart, and every reason, is still there, letter by letter."""
    jobs = []
    for index, (schedule, path) in enumerate(
        itertools.product(["geometric", "karras"], ["long/" * 4 + "a", "long/" * 4 + "b"])
    ):
        overrides = {
            "schedule": schedule,
            "distribution.path": path,
            "sampler.steps_per_level": str(100 + index),
            "seed": "0",
        }
        summary = {"status": "failed", "error": f"KeyError: 'lost {index}'" + " and more" * 12}
        jobs.append(Job(f"a{index}b2c3d4e5", Path.cwd() / "s" / f"a{index}b2c3d4e5", overrides, [], "failed", summary))
    console = Console(file=io.StringIO(), width=width)
    console.print(table(jobs, console))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "seed=0" in text.splitlines()[0]
    letters = "".join(text.split())
    for job in jobs:
        assert job.hash in text
        assert job.overrides["sampler.steps_per_level"] in text
    assert "…" not in text
    assert letters.count("more") == 4 * 12
    assert letters.count("karras") == 2
