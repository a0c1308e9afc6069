"""What is said of a command that samples, measures or draws, on a terminal and elsewhere."""

import logging

import pytest

from ncsn_lightning.core import progress_bars
from ncsn_lightning.core.progress_bars import Stages, tracked


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(progress_bars, "on_terminal", lambda: True)


def test_items_pass_and_a_line_says_what_is_left(caplog):
    with caplog.at_level(logging.INFO):
        assert list(tracked(range(3), "sampling 9 chains", total=3, bar=False, later="drawing is")) == [0, 1, 2]
    assert [record.getMessage() for record in caplog.records] == ["sampling 9 chains; drawing is left after that"]


def test_a_bar_is_taken_away_when_it_is_full(capsys):
    assert list(tracked(range(3), "sampling", total=3, bar=True)) == [0, 1, 2]
    shown = capsys.readouterr().err
    assert "sampling" in shown
    assert shown.rstrip(" ").endswith("\r")


def test_stages_count_their_parts(caplog, capsys):
    with caplog.at_level(logging.INFO), Stages(4) as all_of_them:
        assert all_of_them.run("score error", lambda: 7) == 7
        assert list(all_of_them.over("walks", [1, 2])) == [1, 2]
        assert all_of_them.run("likelihood", lambda: "x") == "x"
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "score error; 4 of 4 parts are left",
        "walks; 3 of 4 parts are left",
        "likelihood; 1 of 4 parts are left",
    ]
    assert all_of_them.done == all_of_them.parts
    assert capsys.readouterr().err == ""


def test_on_a_terminal_stages_are_one_bar(terminal, capsys, caplog):
    with caplog.at_level(logging.INFO), Stages(2) as all_of_them:
        all_of_them.run("score error", lambda: None)
        assert "score error" in capsys.readouterr().err
    assert not caplog.records
