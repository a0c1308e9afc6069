"""`summary.json`, which a run writes however it ends, with the versions of the software. Imports nothing slow."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from ..core.atomic_files import replacing

Status = Literal["finished", "failed", "diverged", "preempted"]

PACKAGES = ("ncsn-lightning", "torch", "lightning", "hydra-core", "omegaconf", "wandb", "matplotlib")


def write_summary(folder: Path, *, status: Status, error: str | None, **facts: Any) -> None:
    """Write a run's `summary.json`.

    Args:
        folder: the run's folder.
        status: how the run ended.
        error: the traceback of the exception that ended it, None for a finished run.
        facts: seed, steps, wall_time, metrics, overrides, config_hash.
    """
    summary = {"status": status, **facts, "versions": versions(), "revision": revision(), "error": error}
    with replacing(folder / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def read_summary(folder: Path) -> dict[str, Any]:
    """The `summary.json` of a run that ended; empty where there is none, or where it cannot be read."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    ended = isinstance(summary, dict) and summary.get("status") in get_args(Status)
    return summary if ended else {}


def versions() -> dict[str, str]:
    """The versions of Python and of the packages on which the numbers depend."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def said_version() -> str:
    """The text that `--version` prints."""
    return f"ncsn-lightning {version('ncsn-lightning')}"


def revision() -> str | None:
    """The Git revision of a checkout, with `-dirty` where files outside of docs/ have changed; None without Git."""
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file():
        return None
    try:
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs")
        return _git(root, "describe", "--always", "--abbrev=12") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
