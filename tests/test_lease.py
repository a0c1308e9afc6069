"""One process has a job, whatever races, dies, sleeps or is cut off."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ncsn_lightning.core import lease as leases
from ncsn_lightning.core.lease import DOUBT, STALE, Holder, holder, take

CROWD = """
# Many processes that try to take the jobs in some folders, all in the same instant; prints who has which.
import os, sys, time
from pathlib import Path
from ncsn_lightning.core import lease
from ncsn_lightning.core.lease import take
lease.WATCH = 0
gate, *folders = map(Path, sys.argv[1:])
for _ in range(7):
    if os.fork() == 0:
        break
while not gate.exists():
    pass
got = [folder.name for folder in folders if take(folder)]
os.write(1, " ".join([*got, ""]).encode())
time.sleep(2)  # alive until all have tried
"""
TAKER = """
import sys, time
from pathlib import Path
from ncsn_lightning.core.lease import take
with take(Path(sys.argv[1])):
    print("taken", flush=True)
    time.sleep(100)
"""


@pytest.fixture(autouse=True)
def _watched_briefly(monkeypatch):
    monkeypatch.setattr(leases, "WATCH", 0.1)


def leave(folder, number=1, *, age=0.0, text=None, **record):
    """A number as another machine's process left it."""
    path = folder / "lease" / f"{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, **record}) if text is None else text)
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_try_one_succeeds(stale, tmp_path):
    """And each job has exactly one owner, also where a dead one's is taken over."""
    folders = [tmp_path / f"job{index}" for index in range(50)]
    for folder in folders if stale else []:
        leave(folder, age=2 * STALE)
    gate = tmp_path / "gate"
    with subprocess.Popen([sys.executable, "-c", CROWD, gate, *folders], stdout=subprocess.PIPE, text=True) as crowd:
        time.sleep(0.5)
        gate.touch()
        output, _ = crowd.communicate(timeout=60)
    assert sorted(output.split()) == sorted(folder.name for folder in folders)
    assert {holder(folder).number for folder in folders} == {2 if stale else 1}


def test_a_job_is_kept_let_go_and_taken_again(tmp_path):
    assert holder(tmp_path) is None
    with take(tmp_path):
        assert take(tmp_path) is None
        held = holder(tmp_path)
        assert (held.number, held.pid, held.parent, held.is_here()) == (1, os.getpid(), os.getppid(), True)
        assert held.lives(tmp_path / "lease")
    assert not holder(tmp_path).lives(tmp_path / "lease")
    assert holder(tmp_path).beat == 0
    with take(tmp_path):
        assert holder(tmp_path).number == 2


def test_a_dead_process_loses_its_job_at_once(tmp_path):
    with subprocess.Popen([sys.executable, "-c", TAKER, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "taken\n"
        assert take(tmp_path) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    with take(tmp_path) as lease:
        assert lease.path.name == "2.json"


def test_a_silent_machine_loses_its_job_after_a_while(tmp_path):
    leave(tmp_path, age=STALE - 5)
    assert take(tmp_path) is None
    leave(tmp_path, age=STALE + 5)
    assert take(tmp_path) is not None


def test_a_process_number_means_nothing_on_another_machine(tmp_path):
    """Nor in another container of this one."""
    leave(tmp_path, pid=2**22 + 1)
    assert take(tmp_path) is None
    here = leases._myself()
    assert not Holder(1, time.time(), **{**here, "pid": 2**22 + 1}).lives(tmp_path)
    assert Holder(1, time.time(), **{**here, "pid": 2**22 + 1, "pids": "another"}).lives(tmp_path)


def test_signs_of_life_are_read_by_the_file_system_s_clock(tmp_path, monkeypatch):
    leave(tmp_path)
    for now in (0.0, 4e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert holder(tmp_path).lives(tmp_path / "lease")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"colour": "red"}'])
def test_whoever_was_killed_while_taking_counts_by_time(text, tmp_path):
    leave(tmp_path, text=text)
    assert take(tmp_path) is None
    leave(tmp_path, text=text, age=2 * STALE)
    assert take(tmp_path).path.name == "2.json"


def test_signs_of_life_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.01)
    with take(tmp_path) as lease:
        os.utime(lease.path, (0, 0))
        while holder(tmp_path).beat == 0:
            time.sleep(0.01)
        assert not lease.is_lost()


def test_a_process_that_slept_too_long_learns_it(tmp_path):
    """And gives no sign of life any more, so that its successor is never mistaken for it."""
    slept = take(tmp_path)
    os.utime(slept.path, (time.time() - 2 * STALE,) * 2)
    assert take(tmp_path).path.name == "2.json"
    slept.beat -= 2 * DOUBT
    assert slept.is_lost()
    assert not slept.give_sign()
    assert holder(tmp_path).number == 2


def test_a_holder_that_seems_silent_and_gives_a_sign_keeps_its_job(tmp_path, monkeypatch):
    """As where the file system's clock jumps."""
    path = leave(tmp_path, age=2 * STALE)
    told = []
    monkeypatch.setattr(leases.time, "sleep", lambda seconds: os.utime(path))
    assert take(tmp_path, waiting=told.append) is None
    assert [found.host for found in told] == ["elsewhere"]


def test_a_file_server_that_is_away_ends_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(leases, "BEAT", 0.01)
    with take(tmp_path) as lease:
        lease.path.rename(tmp_path / "away")
        while not caplog.records:
            time.sleep(0.01)
        (tmp_path / "away").rename(lease.path)
    assert "no sign of life" in caplog.text
    assert holder(tmp_path).beat == 0


def test_a_batch_system_s_job_is_named_with_its_start(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert leases.batch() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert leases.batch() == "17"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert leases.batch() == "17-2"
