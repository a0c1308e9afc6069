"""A run killed at any moment and resumed ends as the run that nothing disturbed, bit for bit."""

import os
import random
import time

import pytest
import torch
from processes import SCRIPTS, Script, assert_same_end, finish, fresh, kill, start, wait_for

from ncsn_lightning.core.atomic_files import replacing
from ncsn_lightning.training.checkpoints import latest_checkpoint, read_checkpoint

DAWDLE = """
# Runs a script whose fourth checkpoint takes two seconds to write; a marker tells when it is half-way.
import runpy, sys, time, torch
save, calls = torch.save, []
def dawdle(checkpoint, path, *rest, **more):
    save(checkpoint, path, *rest, **more)
    calls.append(path)
    if len(calls) == 4:
        whole = open(path, "rb").read()
        open(path, "wb").write(whole[: len(whole) // 2])
        open(marker, "w").close()
        time.sleep(2)
        open(path, "wb").write(whole)
torch.save = dawdle
marker, *sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(*fresh(folder)))
    return folder


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_inside_an_epoch(seed, undisturbed, tmp_path):
    folder = tmp_path / "run"
    process = start(*fresh(folder))
    wait_for(lambda: (folder / "checkpoints/last.ckpt").exists(), process)
    time.sleep(random.Random(seed).uniform(0.05, 0.5))
    kill(process)
    assert not (folder / "summary.json").exists()
    finish(start(f"resume={folder}"))
    assert_same_end(folder, undisturbed)


def test_killed_while_a_checkpoint_is_written(undisturbed, tmp_path):
    folder, marker = tmp_path / "run", tmp_path / "half-way"
    (tmp_path / "dawdle.py").write_text(DAWDLE)
    process = Script(tmp_path / "dawdle", marker, SCRIPTS / "train.py", *fresh(folder), together=True)
    wait_for(marker.exists, process)
    kill(process)
    assert list((folder / "checkpoints").glob(".*.part.*"))
    finish(start(f"resume={folder}"))
    assert_same_end(folder, undisturbed)
    assert not list(folder.rglob(".*.part.*"))


def test_killed_before_the_first_checkpoint(undisturbed, tmp_path):
    folder = tmp_path / "run"
    process = start(*fresh(folder))
    wait_for((folder / "config.yaml").exists, process)
    kill(process)
    assert "resuming from the start" in finish(start(f"resume={folder}"))
    assert_same_end(folder, undisturbed)


def test_a_torn_checkpoint_is_survived(undisturbed, tmp_path):
    folder = tmp_path / "run"
    process = start(*fresh(folder))
    wait_for((folder / "checkpoints/last.ckpt").exists, process)
    kill(process)
    last = folder / "checkpoints/last.ckpt"
    os.truncate(last, last.stat().st_size // 3)
    assert "truncated" in finish(start(f"resume={folder}"))
    assert_same_end(folder, undisturbed)


def test_a_finished_run_is_left_as_it_is(undisturbed):
    def content():
        return {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file() and path.suffix != ".log"}

    before = content()
    assert "finished before" in finish(start(f"resume={undisturbed}"))
    assert content() == before


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_furthest_whole_checkpoint_is_found(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name, step in {"a": 10, "b": 30, "c": 20}.items():
        torch.save({"config": {}, "state_dict": {}, "global_step": step}, folder / f"{name}.ckpt")
    furthest, torn = latest_checkpoint(tmp_path)
    assert (furthest.path, furthest.content["global_step"], torn) == (folder / "b.ckpt", 30, [])
    (folder / "b.ckpt").write_bytes((folder / "b.ckpt").read_bytes()[:100])
    furthest, torn = latest_checkpoint(tmp_path)
    assert furthest.path == folder / "c.ckpt"
    assert len(torn) == 1
    assert "b.ckpt" in torn[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "truncated or no checkpoint"),
        (b"not a zip file at all", "not loaded|no checkpoint"),
        ({"weights": torch.zeros(2)}, "not written by ncsn-lightning"),
        ([1, 2], "not written by ncsn-lightning"),
    ],
)
def test_files_that_are_no_checkpoints_are_refused(content, words, tmp_path):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        read_checkpoint(path)
