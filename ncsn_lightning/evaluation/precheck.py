"""A check of the command lines of `ncsn-sample` and `ncsn-evaluate` that needs no torch, and so answers at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..config.plain import Refusal

SAMPLE: dict[str, Any] = {"counts": ("n",), "suffixes": (".npz", ".csv"), "needs_out": True}
EVALUATE: dict[str, Any] = {"counts": ("n", "num_seeds", "num_levels"), "suffixes": (".json",), "needs_out": False}
"""For each command the keyword arguments of `check`."""

OPTIONAL = ("num_levels",)
"""Counts that may be null, for then the run's own is taken."""


def check(config: dict[str, Any], *, counts: tuple[str, ...], suffixes: tuple[str, ...], needs_out: bool) -> None:
    """Raise Refusal for a run that does not exist, a file that cannot be written, or a number that is none.

    Args:
        config: the plain configuration of the command.
        counts: the keys whose values should be whole numbers of at least 1.
        suffixes: the endings that the file `out` may have.
        needs_out: whether `out` must be given.
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
    if not isinstance(path, str):  # None, or a value that the builder will refuse with a better message
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
