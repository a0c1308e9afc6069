"""What every test shares: one thread (the tests run in parallel processes) and no W&B account."""

import os

import pytest
import torch
from hydra import compose, initialize_config_dir

from ncsn_lightning.configuration import config_folder, plain

os.environ["WANDB_MODE"] = "offline"
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """Fixed randomness for a test."""
    return torch.Generator().manual_seed(20261124)


@pytest.fixture
def configure(tmp_path):
    """Compose the plain configuration of a small run in `tmp_path`, as the command line would."""

    def compose_plain(*overrides: str, folder: str = "run") -> dict:
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
            "sampler.steps_per_level=2",
            "name=test",
            "tags=[]",
            "+trainer.enable_progress_bar=false",
            "~callbacks.progress",
            f"paths.folder={tmp_path / folder}",
        ]
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            config = plain(compose("train", [*small, *overrides]))
        return {**config, "run_id": folder}

    return compose_plain
