"""Write docs/house.md anew, and its picture: the rooms of the package, their files, and the public names.

make house
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

import ncsn_lightning
from ncsn_lightning.core.atomic_files import replacing

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ncsn_lightning"
PAGE = ROOT / "docs" / "house.md"
PICTURE = ROOT / "docs" / "images" / "house.png"

LIBRARIES = {"hydra": "#d9a441", "lightning": "#7a5cc4", "matplotlib": "#3f9b6c", "torch": "#4a7fb5"}
"""Colours of rooms by the libraries that they import; the first one counts."""

INTRODUCTION = """\
# The house

`make house` writes this page from the code. A file imports only from its own room and from rooms below it;
`make check` enforces that. [CONTRIBUTING](../CONTRIBUTING.md) says what belongs where, and the
[glossary](glossary.md) what the words mean.

![The rooms of the package and their imports](images/house.png)

An arrow leads from a room to one that it imports. Arrows that follow from others are left out: `sweeps` imports `core`
as well.
"""


def layers() -> list[list[str]]:
    """The rooms from the top floor down, those of one floor together, as the contract of the imports has them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [floor.split(" | ") for floor in floors]


def imports() -> dict[str, set[str]]:
    """The rooms that the files of each room import."""
    graph = grimp.build_graph("ncsn_lightning")
    found: dict[str, set[str]] = {room: set() for floor in layers() for room in floor}
    for module in graph.modules - {"ncsn_lightning"}:
        room = module.split(".")[1]
        for imported in graph.find_modules_directly_imported_by(module) - {"ncsn_lightning"}:
            found[room].add(imported.split(".")[1])
    return {room: others - {room} for room, others in found.items()}


def arrows() -> list[tuple[str, str]]:
    """Pairs of rooms, one of which imports the other by no way round a third one."""
    direct = imports()

    def reached(room: str) -> set[str]:
        return direct[room] | {far for near in direct[room] for far in reached(near)}

    return sorted(
        (room, other)
        for room, others in direct.items()
        for other in others
        if not any(other in reached(near) for near in others - {other})
    )


def files(room: str) -> list[Path]:
    """The Python files of a room, sorted."""
    path = PACKAGE / room
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def first_sentence(docstring: str | None) -> str:
    """The first sentence of a docstring, on one line; empty where there is none."""
    text = " ".join(inspect.cleandoc(docstring or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", text)[0].rstrip(":") if text else ""


def floors() -> list[list[str]]:
    """The rooms from the top floor down, each one floor above the highest that it imports."""
    direct = imports()

    def height(room: str) -> int:
        return 1 + max((height(other) for other in direct[room]), default=0)

    heights = {room: height(room) for room in direct}
    rows = [[room for room in heights if heights[room] == floor] for floor in range(max(heights.values()), 0, -1)]
    middles: dict[str, float] = {}
    for row in rows:  # under the middle of the rooms that import them
        row.sort(key=lambda room: _mean([x for other, x in middles.items() if (other, room) in arrows()]))
        middles |= {room: column - (len(row) - 1) / 2 for column, room in enumerate(row)}
    return rows


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def draw() -> Figure:
    """The rooms, floor by floor, with their lines of Python, and the arrows between them."""
    rows = floors()
    places = {
        room: (2.6 * (column - (len(row) - 1) / 2), 1.4 * (len(rows) - floor))
        for floor, row in enumerate(rows)
        for column, room in enumerate(row)
    }
    with matplotlib.rc_context({"font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(7.2, 7.2), dpi=140)
        axes = figure.subplots()
        for room, other in arrows():
            (x, y), (far_x, far_y) = places[room], places[other]
            ends = ((x + 0.12 * (far_x - x), y - 0.3), (far_x - 0.12 * (far_x - x), far_y + 0.3))
            axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, color="#555555", lw=0.9))
        for room, (x, y) in places.items():
            lines = sum(len(path.read_text().splitlines()) for path in files(room))
            box = FancyBboxPatch((x - 1.0, y - 0.27), 2.0, 0.54, boxstyle="round,pad=0.02,rounding_size=0.1")
            box.set(facecolor=_colour(room), edgecolor="none", zorder=2)
            axes.add_patch(box)
            axes.text(x, y + 0.06, room, ha="center", va="center", color="white", weight="bold", zorder=3)
            axes.text(x, y - 0.16, f"{lines:,} lines", ha="center", va="center", color="white", size=7.5, zorder=3)
        top = 1.4 * len(rows)
        for number, (name, colour) in enumerate({"imports": "black", **LIBRARIES}.items()):
            axes.text(-4.0, top - 0.36 * number, name if not number else f"■ {name}", color=colour, size=9, va="center")
        axes.set(xlim=(-4.1, 4.1), ylim=(1.0, top + 0.5))
        axes.axis("off")
        figure.tight_layout(pad=0.2)
    return figure


def _colour(room: str) -> str:
    source = "\n".join(path.read_text() for path in files(room))
    found = (
        colour for name, colour in LIBRARIES.items() if re.search(rf"^\s*(import|from) {name}\b", source, re.MULTILINE)
    )
    return next(found, "#8a8a8a")


def page() -> str:
    """The text of docs/house.md."""
    return "\n".join([INTRODUCTION, *_rooms(), *_names(), ""])


def _rooms() -> Iterator[str]:
    yield "## Rooms and files, from the top floor down"
    for room in (room for floor in layers() for room in floor):
        is_folder = (PACKAGE / room).is_dir()
        yield f"\n### {room}\n" if is_folder else f"\n### {room}.py\n"
        for path in files(room):
            sentence = first_sentence(ast.get_docstring(ast.parse(path.read_text())))
            if (path.name == "__init__.py" and path.parent == PACKAGE / room) or not is_folder:
                yield f"{sentence}\n" if is_folder else sentence
            elif path.name != "__init__.py":
                yield f"- `{path.relative_to(PACKAGE / room)}`: {sentence}"


def _names() -> Iterator[str]:
    yield "\n## Public names\n"
    yield "All of these can be imported from `ncsn_lightning`.\n"
    for name in ncsn_lightning.__all__:
        thing = getattr(ncsn_lightning, name)
        own = thing.__doc__ if getattr(thing, "__module__", "").startswith("ncsn_lightning") else None
        yield f"- `{name}`: {first_sentence(own)}"


def described() -> str:
    """The arrows as text, which the picture carries with it."""
    return json.dumps(arrows())


def main() -> None:
    with replacing(PAGE) as path:
        path.write_text(page())
    with replacing(PICTURE) as path:
        draw().savefig(path, format="png", metadata={"Description": described()})
    with Image.open(PICTURE) as picture:
        print(f"{PAGE.name} and {PICTURE.name}, {picture.width} × {picture.height}")


if __name__ == "__main__":
    main()
