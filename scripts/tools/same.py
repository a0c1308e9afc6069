"""Prove a refactor: 200 training steps at another revision and here give the same weights, bit for bit.

make same REF=main
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from ncsn_lightning import load_run

ROOT = Path(__file__).parents[2]
RECIPES = {
    "default": ["experiment=default", "weighting=learned"],
    "primer": ["experiment=primer"],
}
SHORT = [
    "logger=csv",
    "trainer.max_steps=200",
    "callbacks.figures.num_samples=100",
    "sampler.steps_per_level=5",
    "score_test.num_points=256",
]

RENAMED = {"loss.weighting.": "weighting."}
"""How names of tensors began at an earlier revision, and how they begin now."""


def weights(tree: Path, recipe: list[str], folder: Path) -> dict[str, torch.Tensor]:
    """Train with the code in `tree` and return everything that its last checkpoint holds of the module."""
    command = [sys.executable, str(tree / "scripts/train.py"), *recipe, *SHORT, f"hydra.run.dir={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return {renamed(name): tensor for name, tensor in state.items()}


def renamed(name: str) -> str:
    """What a tensor is called now."""
    for before, now in RENAMED.items():
        if name.startswith(before):
            return now + name.removeprefix(before)
    return name


def differences(
    here: dict[str, torch.Tensor], there: dict[str, torch.Tensor], *, constant: frozenset[str] = frozenset()
) -> list[str]:
    """One line for each tensor that is missing on a side or differs; those in `constant` may be new."""
    lines = [f"{name}: only on one side" for name in (here.keys() ^ there.keys()) - constant]
    for name in here.keys() & there.keys():
        if not torch.equal(here[name], there[name]):
            gap = (here[name].double() - there[name].double()).abs().max()
            lines.append(f"{name}: differs by up to {gap:.3g}")
    return sorted(lines)


def main() -> None:
    reference = sys.argv[1] if len(sys.argv) > 1 else "main"
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), reference], check=True)
        try:
            for name, recipe in RECIPES.items():
                here = weights(ROOT, recipe, Path(scratch) / f"{name}-here")
                there = weights(tree, recipe, Path(scratch) / f"{name}-there")
                buffers = frozenset(dict(load_run(Path(scratch) / f"{name}-here").module.named_buffers()))
                lines = differences(here, there, constant=buffers)
                failed |= bool(lines)
                print(f"{name}: {'the same' if not lines else 'different'} ({len(here)} tensors)", *lines, sep="\n  ")
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)], check=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
