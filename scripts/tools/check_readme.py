"""Type the commands of pages, so that they cannot lie; the pages side by side, each in a folder of its own.

    python scripts/tools/check_readme.py README.md docs/extending.md

A block of code that follows `<!-- file: NAME -->` is written to that file; one that follows `<!-- checked -->` is run
in the same, at first empty, folder, Python as a whole and shell line by line. Trainings are made short. The first that
fails ends it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"^<!-- (checked|file: \S+) -->\n```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = {
    "trainer.max_steps": "20",
    "data.steps_per_epoch": "20",
    "data.validation_size": "64",
    "score_test.num_points": "64",
    "network.hidden_dims": "[16,16]",
    "sampler.steps_per_level": "5",
    "logger": "csv",
}
DRAWN = {"callbacks.figures.num_samples": "50", "callbacks.figures.every_n_steps": "20"}
UNDRAWN = {"~callbacks.figures": ""}


class Block(NamedTuple):
    """A marked block of code: `file` is None where it is to be run."""

    file: str | None
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """The marked blocks of a page, in order."""
    for mark, language, text in BLOCK.findall(page.read_text()):
        yield Block(mark.removeprefix("file: ") if mark != "checked" else None, language, text)


def commands(block: Block) -> list[str]:
    """What there is to run, without remarks."""
    if block.language == "python":
        return [f"python -c {shlex.quote(block.text)}"]
    lines = (re.sub(r"(^|\s+)#.*", "", line) for line in block.text.splitlines())
    return [line.strip() for line in lines if line.strip()]


def shortened(command: str, *, drawn: bool) -> str:
    """A training of a few steps, with pictures or without; any other command, and what it chooses itself, as it is."""
    if "ncsn-train" not in command or "resume=" in command or "--help" in command:
        return command
    settings = {**SMALL, **(DRAWN if drawn else UNDRAWN)}
    chosen = re.findall(r" ([\w.]+)=", command)
    groups = {key.partition(".")[0] for key in chosen if key.endswith("._target_")} | {*chosen}  # of another class
    kept = [key for key in settings if key not in chosen and key.partition(".")[0] not in groups]
    return f"{command} {shlex.join(f'{key}={settings[key]}'.removesuffix('=') for key in kept)}"


def run(page: Path, folder: Path) -> Iterator[str]:
    """Go through a page in `folder`; yield what was done, raise SystemExit where a command fails."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": paths, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    drawn = True
    for block in blocks(page):
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text)
            continue
        for command in commands(block):
            started, short = time.perf_counter(), shortened(command, drawn=drawn)
            drawn &= short == command  # the first training draws, for all
            done = subprocess.run(short, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{page.name}: {command}\n{done.stdout}{done.stderr}".rstrip())
            yield f"{page.name}: {time.perf_counter() - started:4.1f} s  {command.splitlines()[0]}"


def check(page: Path) -> None:
    """Go through a page in a folder that is gone afterwards, and print what was done."""
    with tempfile.TemporaryDirectory() as folder:
        for line in run(page, Path(folder)):
            print(line, flush=True)


def main() -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pages:
        for checked in [pages.submit(check, Path(page)) for page in sys.argv[1:]]:
            checked.result()


if __name__ == "__main__":
    main()
