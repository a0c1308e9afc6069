"""What every test shares: one thread (the tests run in parallel processes) and no W&B account."""

import os

import pytest
import torch

os.environ["WANDB_MODE"] = "offline"
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """Fixed randomness for a test."""
    return torch.Generator().manual_seed(20261124)
