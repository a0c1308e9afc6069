"""The present name of a class that a configuration names where it was before files of this package were moved."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def present_name(name: str) -> str | None:
    """The dotted name by which `conf/` would name a class of this package today.

    The class is looked for by the last word of its name. Sources are read as text, so that only the package of the
    class found is imported.

    Args:
        name: dotted, as an old configuration gives it.

    Returns:
        None for a name outside this package, and where no class or several have this last word.
    """
    word = name.rpartition(".")[2]
    if not name.startswith(f"{PACKAGE.name}.") or not word.isidentifier():
        return None
    definition = re.compile(rf"^class {word}\b", re.MULTILINE)
    files = [path for path in PACKAGE.rglob("*.py") if definition.search(path.read_text(encoding="utf-8"))]
    if len(files) != 1:
        return None
    module = ".".join((PACKAGE.name, *files[0].relative_to(PACKAGE).with_suffix("").parts))
    parent = module.rpartition(".")[0]
    is_exported = parent != PACKAGE.name and hasattr(import_module(parent), word)
    return f"{parent if is_exported else module}.{word}"
