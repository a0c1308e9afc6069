"""Two ranks with half the batch each are one rank with the whole batch."""

import json

import pytest
import torch
from processes import finish, start

from ncsn_lightning import Denoising, Geometric, LogUniform, StableTarget, TwoGaussians
from ncsn_lightning.training.data import Batch, Stream

RECIPE = [
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "logger=csv",
    "weighting=learned",
    "schedule.sigma_max=2.0",  # less than half the board's diameter
    "network.hidden_dims=[16,16]",
    "objective.pool_size=1000",
    "data.batch_size=64",
    "data.steps_per_epoch=50",
    "data.validation_size=64",
    "trainer.max_steps=100",
    "score_test.num_points=64",
    "~callbacks.figures",
]


def train(folder, devices):
    """Train with this many ranks; the last checkpoint."""
    finish(start(*RECIPE, f"trainer.devices={devices}", f"hydra.run.dir={folder}"))
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs of one rank and of two."""
    parent = tmp_path_factory.mktemp("ranks")
    return {devices: parent / str(devices) for devices in (1, 2)}


@pytest.fixture(scope="module")
def checkpoints(folders):
    return [train(folder, devices) for devices, folder in folders.items()]


def test_two_gloo_ranks_equal_one(checkpoints, folders):
    one, two = checkpoints
    assert one["global_step"] == two["global_step"] == 100
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(
            two["state_dict"][name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    errors = [json.loads((f / "summary.json").read_text())["metrics"]["score_error"] for f in folders.values()]
    assert errors[1] == pytest.approx(errors[0], rel=1e-2)


@pytest.mark.usefixtures("checkpoints")
def test_two_ranks_leave_what_one_leaves(folders):
    one, two = ({path.relative_to(folder) for path in folder.rglob("*")} for folder in folders.values())
    assert one == two
    logs = [(folder / "train.log").read_text() for folder in folders.values()]
    assert [log.count("the primer's guidelines are broken") for log in logs] == [1, 1]
    assert len(logs[0].splitlines()) == len(logs[1].splitlines())


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_one_global_batch(ranks):
    """Their shares interleave to the batch of a single rank, the targets from a common pool too."""
    levels = LogUniform(schedule=Geometric(sigma_min=0.1, sigma_max=1.0), groups=8, stratified=True)

    def block(rank=0, world_size=1):
        target = TwoGaussians()
        objective = StableTarget(distribution=target, pool_size=1000)
        stream = Stream(target, levels, objective, batch_size=32, seed=3, rank=rank, world_size=world_size)
        batches = stream.batches(40, 60)  # across the boundary of two draws
        return Batch(*(torch.stack(field) for field in zip(*batches, strict=True)))

    whole, shares = block(), [block(rank, ranks) for rank in range(ranks)]
    for field in Batch._fields:
        together = torch.stack([getattr(share, field) for share in shares], dim=2).flatten(1, 2)
        assert torch.equal(together, getattr(whole, field))


def test_a_batch_is_a_function_of_its_step_alone():
    levels = LogUniform(schedule=Geometric(sigma_min=0.1, sigma_max=1.0))

    def stream(seed=0, purpose="train"):
        return Stream(TwoGaussians(), levels, Denoising(), batch_size=8, seed=seed, purpose=purpose)

    late = [*stream().batches(1234, 1236)]
    walked = [*stream().batches(1200, 1236)][-2:]
    for one, other in zip(walked, late, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for other in (stream(seed=1), stream(purpose="validation")):
        assert not torch.equal(next(other.batches(1234, 1236)).x_noisy, late[0].x_noisy)
