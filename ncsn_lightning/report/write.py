"""`report.html`: one file that contains everything it shows, opens from disk and uses no network."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..core.atomic_files import replacing
from ..sweeps.folder import Sweep
from .metrics import METRIC
from .payload import payload, provenance
from .table import write_table

SCRIPTS = (
    "charts.js",
    "view.js",
    "groups.js",
    "elements.js",
    "answer.js",
    "variance.js",
    "plots.js",
    "heatmap.js",
    "parallel.js",
    "samples.js",
    "jobs.js",
    "main.js",
)
"""The scripts of the page in the order in which they build on each other; they share one scope."""


def write_report(sweep: Sweep, *, metric: str = METRIC) -> Path:
    """Write `sweep.csv` and `report.html` into the sweep's folder, whatever the state of its jobs.

    Args:
        sweep: as read a moment ago.
        metric: the one that the page shows when it opens; less is better.

    Returns:
        The page.
    """
    write_table(sweep)
    path = sweep.folder / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(page(sweep, metric=metric), encoding="utf-8")
    return path


def page(sweep: Sweep, *, metric: str = METRIC) -> str:
    """The text of `report.html`.

    All values of a configuration reach the page as text: escaped by the template, or as JSON without `<`, `>`, `&`.
    Besides, the page's content security policy lets the browser run only these scripts, and use no network.

    Args:
        sweep, metric: see `write_report`.
    """
    environment = Environment(
        loader=PackageLoader("ncsn_lightning.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    script = f'"use strict";(() => {{\n{"".join(map(_file, SCRIPTS))}\n}})();'
    return environment.get_template("report.html").render(
        sweep=sweep,
        counts=sweep.count(),
        data=_json(payload(sweep, metric)),
        provenance=provenance(sweep),
        style=Markup(_file("style.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def _file(name: str) -> str:
    return (files(__package__) / "page" / name).read_text(encoding="utf-8")


def _json(data: Any) -> Markup:
    """JSON that can stand inside a script element, since its strings cannot end the element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def duration(seconds: float) -> str:
    """Seconds as text for people: `42 s`, `3 min 20 s`, `5 h 12 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
