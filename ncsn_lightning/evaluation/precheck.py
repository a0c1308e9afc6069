"""What is wrong with a command line that samples or measures, as far as torch is not needed to see it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..config.plain import Refusal

SAMPLE: dict[str, Any] = {"counts": ("n",), "suffixes": (".npz", ".csv"), "needs_out": True}
EVALUATE: dict[str, Any] = {"counts": ("n", "num_seeds", "num_levels"), "suffixes": (".json",), "needs_out": False}
"""Of each command: its keys that are whole numbers of at least 1, the endings of its file, whether it needs one."""

OPTIONAL = ("num_levels",)
"""Counts of which the run has its own."""


def check(config: dict[str, Any], *, counts: tuple[str, ...], suffixes: tuple[str, ...], needs_out: bool) -> None:
    """Raise Refusal for a run that is not there, a file that cannot be written, and counts that are none.

    Args:
        config: the plain configuration of the command.
        counts, suffixes, needs_out: see above.
    """
    lines = []
    for name, least in (*((name, 1) for name in (*counts, "threads")), ("seed", 0)):
        value = config[name]
        if value is None and name in OPTIONAL:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            lines.append(f"{name}={value!r}: give a whole number of at least {least}")
    out = config["out"]
    if (out is not None or needs_out) and (line := _not_writable(Path(str(out)).expanduser(), suffixes)):
        lines.append(line)
    lines += [line for key in ("run", "ceiling") if (line := _missing_run(key, config.get(key)))]
    if lines:
        raise Refusal("\n".join(lines))


def _missing_run(key: str, path: Any) -> str:
    if path == "???":
        return f"{key}: missing; give {key}=…"
    if not isinstance(path, str):  # None, or what the builder has more to say about
        return ""
    place = Path(path).expanduser()
    if not place.exists():
        return f"{key}={path}: no such file; give a run's folder or one of its checkpoints/*.ckpt"
    if place.is_dir() and (place / "sweep.json").is_file():
        return f"{key}={path}: a sweep; give the folder of one of its jobs"
    return ""


def _not_writable(out: Path, suffixes: tuple[str, ...]) -> str:
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if out.suffix not in suffixes:
        return f"out={out}: give a name that ends in {' or '.join(suffixes)}"
    if not folder.is_dir() or not os.access(folder, os.W_OK) or out.is_dir():
        return f"out={out}: cannot be written; choose another place"
    return ""
