"""A sweep killed at random moments ends as one that nothing disturbed; `make torture` at any size."""

import os
import subprocess
import sys
from pathlib import Path

TORTURE = Path(__file__).parents[2] / "scripts/torture.py"


def test_nothing_is_lost_and_nothing_differs(tmp_path):
    """Three trials, the last of which is shared by two copies of the command."""
    process = subprocess.run(
        [sys.executable, str(TORTURE), "--trials", "3", "--seed", "1"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    last = process.stdout.splitlines()[-1]
    assert last.startswith("3 of 3 trials: nothing lost, nothing differs; signals: {'SIG")
    assert not list(tmp_path.glob("torture-*"))
