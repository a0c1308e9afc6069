"""What a terminal shows of a sweep, and what it shows elsewhere."""

import io
import re
from pathlib import Path

from rich.console import Console

from ncsn_lightning.sweeps import view as views
from ncsn_lightning.sweeps.folder import Job
from ncsn_lightning.sweeps.view import View, table


class Stage:
    """In place of a conductor: jobs whose states a test sets."""

    def __init__(self, states):
        self.jobs = {}
        for name, state in states.items():
            self.set(name, state)

    def read(self, name):
        return self.jobs[name]

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
    monkeypatch.setattr(views, "SECONDS", 0.01)
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
    assert "running: schedule=karras seed=4" in shown


def rendered(view, console):
    with console.capture() as capture:
        console.print(view.render())
    return capture.get()


def test_the_table_names_job_status_score_or_reason_and_folder():
    stage = Stage({"0": "finished", "1": "failed", "2": "waiting"})
    stage.set("0", "finished", metrics={"score_error": 0.0123456})
    console = Console(file=io.StringIO(), width=1000)
    console.print(table(list(stage.jobs.values())))
    rows = [re.split(r"\s{2,}", line.strip()) for line in console.file.getvalue().splitlines()]
    assert rows == [
        ["job", "status", "score error, or reason", "folder"],
        ["schedule=karras seed=0", "finished", "0.01235", "sweep/0"],
        ["schedule=karras seed=1", "failed", "KeyError: 'lost'", "sweep/1"],
        ["schedule=karras seed=2", "waiting", "sweep/2"],
    ]
