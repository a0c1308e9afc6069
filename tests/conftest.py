"""What every test shares: one thread (the tests run in parallel processes) and no W&B account."""

import logging
import os
import signal
import sys

import jaxtyping
import pytest
import torch
from wandb.sdk.lib.logger_capture import LoggerHandler

from ncsn_lightning import cli
from ncsn_lightning.config.plain import composed
from ncsn_lightning.plotting import style

for signum in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(signum) == signal.SIG_IGN:  # as where nohup or a script's background job runs the tests
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
os.environ["WANDB_MODE"] = "offline"
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """Fixed randomness for a test."""
    return torch.Generator().manual_seed(20261124)


@pytest.fixture(autouse=True)
def _wandb_leaves_nothing():
    """A W&B run in this process has ended with its test, and its places are no choice of the next test's user."""
    yield
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        os.environ.pop(name, None)
    root = logging.getLogger()
    left = [handler for handler in root.handlers if isinstance(handler, LoggerHandler)]
    for handler in left:
        root.removeHandler(handler)
    assert not left, "a W&B run goes on"


@pytest.fixture
def unchecked():
    """No shapes are checked during the test: the compiler would trace the checks too, and a long chain takes longer."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """`tmp_path`, whose modules can be imported during the test and are forgotten after it."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - known:
        module = sys.modules[name]
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]  # a bare folder has no file
        if any(str(place).startswith(str(tmp_path)) for place in places):
            del sys.modules[name]


OTHER_SAMPLERS = ("sampler=", "experiment=table2", "experiment=edm2_toy")
"""Overrides after which the sampler may have no number of steps per level."""


@pytest.fixture
def configure(tmp_path, monkeypatch):
    """Compose the plain configuration of a small run in `tmp_path`, as the command line would, with coarse figures."""
    monkeypatch.setitem(style.RC, "figure.dpi", 70)

    def compose_small(*overrides: str, folder: str = "run") -> dict:
        small = [
            "logger=csv",
            "network.hidden_dims=[16,16]",
            "network.embedding.dim=8",
            "trainer.max_steps=100",
            "data.batch_size=64",
            "data.steps_per_epoch=50",
            "data.validation_size=64",
            "score_test.num_points=64",
            "callbacks.figures.num_samples=50",
            *(["sampler.steps_per_level=2"] if not any(o.startswith(OTHER_SAMPLERS) for o in overrides) else []),
            "+trainer.enable_progress_bar=false",
            "~callbacks.progress",
        ]
        return composed(*small, *overrides, folder=tmp_path / folder)

    return compose_small


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run one of the commands here, in an empty folder, and return the lines with which it ended ([] for a success)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(logging, "raiseExceptions", True)
    root, before = logging.getLogger(), list(logging.getLogger().handlers)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        try:
            getattr(cli, name)()
        except SystemExit as end:
            return end.code.splitlines()
        finally:
            for handler in set(root.handlers) - set(before):
                handler.close()
            root.handlers[:] = before
        return []

    return run
