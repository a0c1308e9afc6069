"""Trains in this process and its sibling ranks; run by test_ranks.py: `python ranks.py folder devices`."""

import sys

import torch

from ncsn_lightning import jobs
from ncsn_lightning.configuration import composed

folder, devices = sys.argv[1:]
torch.set_num_threads(1)
overrides = [
    "trainer=ddp",
    "trainer.accelerator=cpu",
    f"trainer.devices={devices}",
    "logger=csv",
    "weighting=learned",
    "network.hidden_dims=[16,16]",
    "objective.num_references=16",
    "data.batch_size=64",
    "data.steps_per_epoch=50",
    "data.validation_size=64",
    "trainer.max_steps=100",
    "score_test.num_points=64",
    "~callbacks.figures",
    "data.block_ends=[]",
]
jobs.fit(jobs.build(composed(*overrides, folder=folder), overrides=[]))
