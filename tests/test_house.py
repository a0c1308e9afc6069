"""The page of the house and its picture show the code as it is; `make house` writes them anew."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture
def house(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts/tools")
    import house

    yield house
    del sys.modules["house"]


def test_the_page_is_what_the_code_says(house):
    assert (ROOT / "docs/house.md").read_text() == house.page()


def test_the_picture_has_the_arrows_of_the_code(house):
    with Image.open(house.PICTURE) as picture:
        assert json.loads(picture.text["Description"]) == [[*arrow] for arrow in house.arrows()]
    assert house.PICTURE.stat().st_size < 300_000


def test_every_public_name_and_file_has_a_sentence(house):
    sentences = [line.partition("`: ")[2] for line in house.page().splitlines() if line.startswith("- `")]
    assert len(sentences) > 150
    assert all(sentences)


def test_arrows_that_follow_from_others_are_left_out(house, monkeypatch):
    monkeypatch.setattr(house, "imports", lambda: {"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert house.arrows() == [("a", "b"), ("b", "c")]
    assert house.floors() == [["a"], ["b"], ["c"]]
