"""One training, cut in every way: the numbers may not change."""

import itertools

import pytest
import torch

from ncsn_lightning import BlockCallback, Denoising
from ncsn_lightning.runs import lifecycle
from ncsn_lightning.training.average_and_rate import LearningRate
from ncsn_lightning.training.checkpoints import latest_checkpoint
from ncsn_lightning.training.data import Stream
from ncsn_lightning.training.flat_adam import FlatAdam, FlatAdamW, FlatParameter


def fit(config):
    """Train and return the module and its checkpoint's numbers."""
    job = lifecycle.build(config, overrides=[])
    lifecycle.fit(job)
    return job


def tensors(job):
    """Everything a step changes: weights, average, learned weighting, optimiser state."""
    state = dict(job.module.state_dict())
    for index, values in job.trainer.optimizers[0].state_dict()["state"].items():
        state |= {f"{index}.{name}": value for name, value in values.items()}
    return state


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


PLAIN = ["~callbacks.figures"]
QUICK = [*PLAIN, "weighting=learned"]


@pytest.mark.parametrize("recipe", [["experiment=default"], ["experiment=primer", "weighting=learned"]])
def test_block_size_never_changes_a_number(configure, recipe):
    sizes = (1, 7, 50)
    jobs_ = [
        fit(configure(*recipe, *QUICK, "trainer.max_steps=120", f"block_size={size}", folder=f"b{size}"))
        for size in sizes
    ]
    for job in jobs_[1:]:
        assert_same(tensors(jobs_[0]), tensors(job))
    assert [job.trainer.global_step for job in jobs_] == [120] * 3


def test_steps_mean_optimiser_steps_everywhere(configure, tmp_path):
    """The x axis, the scheduler, the checkpoint and the stream count the same steps, though blocks are of 30."""
    config = configure("block_size=30", "trainer.log_every_n_steps=25", "~callbacks.figures")
    job = fit(config)
    rows = [line.split(",") for line in (tmp_path / "run/metrics.csv").read_text().splitlines()]
    header, rows = rows[0], rows[1:]

    def logged(name):
        column, step = header.index(name), header.index("step")
        return [int(row[step]) for row in rows if row[column]]

    before_the_step = [24, 49, 74, 99]  # as Lightning counts what is logged in training
    assert logged("loss/train") == logged("lr") == before_the_step
    assert logged("loss/validation") == logged("score_error") == [50, 100]
    assert job.trainer.lr_scheduler_configs[0].scheduler.last_epoch == 100
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 100
    assert {int(state["step"]) for state in checkpoint["optimizer_states"][0]["state"].values()} == {100}


def test_the_step_is_adam_on_the_denoising_loss(configure):
    """Against the same steps written out with plain PyTorch."""
    config = configure("experiment=primer", "trainer.max_steps=60", *PLAIN)
    job = lifecycle.build(config, overrides=[])
    model = job.module.model
    reference = type(model)(network=type(model.network)(embedding=model.network.embed[0], hidden_dims=[16, 16]))
    reference.load_state_dict(model.state_dict())
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3, fused=True)
    stream = Stream(job.data.distribution, job.data.levels, Denoising(), batch_size=64, seed=job.data.seed)
    for x_noisy, sigma, target in stream.batches(0, 60):
        error = (reference(x_noisy, sigma) - target).square().sum(-1)
        optimizer.zero_grad()
        (sigma**2 * error).mean().backward()
        optimizer.step()
    lifecycle.fit(job)
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(job.module.model.state_dict()[name], weight, rtol=1e-5, atol=1e-6)


OPTIONS = [{"fused": True}, {"amsgrad": True, "weight_decay": 0.1}, {"maximize": True}]


@pytest.mark.parametrize("flat", [FlatAdam, FlatAdamW])
@pytest.mark.parametrize("options", OPTIONS)
def test_adam_over_flat_memory_is_torchs_own(flat, options):
    """The same weights, with several groups, types and rates, a frozen parameter, and going on from a checkpoint.

    At some steps the loss does not reach the second group, which both leave alone there.
    """
    torchs = flat.__mro__[2 if flat is FlatAdamW else 1]
    ends = []
    for kind in (torchs, flat):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(2, 16), torch.nn.Linear(16, 3, dtype=torch.float64), torch.nn.Linear(3, 1)]
        layers[0].bias.requires_grad_(False)
        state, steps = None, itertools.count()
        for _ in range(2):
            groups = [{"params": [*layers[0].parameters(), *layers[1].parameters()]}]
            groups += [{"params": [*layers[2].parameters()], "lr": 0.03}]
            optimizer = kind(groups, lr=0.01, **options)
            if state:
                optimizer.load_state_dict(state)
            for step in itertools.islice(steps, 10):
                optimizer.zero_grad()
                h = layers[1](layers[0](torch.randn(8, 2)).tanh().double()).float()
                (h if step in (4, 13) else layers[2](h)).square().sum().backward()
                optimizer.step()
            state = optimizer.state_dict()
        ends.append({f"{i}.{name}": p for i, layer in enumerate(layers) for name, p in layer.named_parameters()})
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("clears", ["optimizer", "module", "none"])
def test_gradients_may_be_given_scaled_clipped_and_cleared_in_any_way(clears):
    """What a callback may do to gradients between `backward` and the step: as with torch's own Adam."""
    ends = []
    for kind in (torch.optim.Adam, FlatAdam):
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        optimizer = kind(layer.parameters(), lr=0.1)
        for step in range(6):
            if clears == "none":
                for p in layer.parameters():
                    p.grad = None
            else:
                {"optimizer": optimizer, "module": layer}[clears].zero_grad()
            layer(torch.randn(5, 3)).square().sum().backward()
            if step % 2:
                layer.weight.grad = layer.weight.grad * 3
                layer.bias.grad.mul_(0.5)
            given = [p for group in optimizer.param_groups for p in group["params"]]  # as Lightning clips
            norm = torch.nn.utils.clip_grad_norm_(given, 0.7)
            optimizer.step()
        ends.append([norm, *layer.parameters()])
    for theirs, ours in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_flat_memory_follows_its_parameters_wherever_they_go():
    """Moved to other memory, copied and loaded, the optimiser goes on with what the parameters are now."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = FlatAdam(layer.parameters(), lr=0.1, fused=True)

    def step():
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).sum().backward()
        before = [p.detach().clone() for p in layer.parameters()]
        optimizer.step()
        return [p - old for p, old in zip(layer.parameters(), before, strict=True)]

    first = step()
    layer.double().float()  # gives every parameter other memory
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first, step(), strict=True))
    layer.load_state_dict({name: torch.zeros_like(p) for name, p in layer.state_dict().items()})
    assert all(torch.allclose(p, moved) for p, moved in zip(layer.parameters(), step(), strict=True))


def test_the_average_follows_its_recursion(configure, monkeypatch):
    job = lifecycle.build(configure(*PLAIN, "module.ema_decay=0.9", "trainer.max_steps=50"), overrides=[])
    model, average = job.module.model, job.module.average
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    steps, follow = itertools.count(), type(average).follow

    def spy(average, model, optimizer, step):
        assert isinstance(optimizer.param_groups[0]["params"][0], FlatParameter)
        optimizer.register_step_post_hook(note)
        follow(average, model, optimizer, step)

    def note(*_):
        decay = min(0.9, (1 + (t := next(steps))) / (10 + t))
        for name, p in model.named_parameters():
            expected[name] += (1 - decay) * (p.detach() - expected[name])

    monkeypatch.setattr(type(average), "follow", spy)
    lifecycle.fit(job)
    assert next(steps) == 50
    for name, p in average.model.named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=1e-4, atol=1e-6)


def test_without_average_validation_sees_the_weights_themselves(configure):
    job = fit(configure("module.ema_decay=0.0", *PLAIN))
    assert_same(dict(job.module.model.state_dict()), dict(job.module.average.model.state_dict()))


def test_learned_weighting_is_trained_without_decay_and_without_average(configure):
    job = fit(configure("weighting=learned", "optimizer=adamw", *PLAIN))
    network, weighting = job.trainer.optimizers[0].param_groups
    assert (network["weight_decay"], weighting["weight_decay"]) == (0.01, 0.0)
    assert (job.module.weighting.readout.weight != 0).any()
    assert not any("readout" in name for name, _ in job.module.average.named_parameters())


@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_learning_rate_is_a_pure_function_of_the_step(decay):
    rate = LearningRate(warmup_steps=4, total_steps=104, decay=decay)
    assert [rate(s) for s in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    expected = {"constant": (1.0, 1.0, 1.0), "cosine": (1.0, 0.5, 0.0)}[decay]
    assert [rate(s) for s in (4, 54, 104)] == pytest.approx(expected, abs=1e-12)


def test_runs_of_the_same_seed_are_identical_and_of_another_are_not(configure):
    first, again, other = (fit(configure(*QUICK, f"seed={s}", folder=f"{i}")) for i, s in enumerate([3, 3, 4]))
    assert_same(tensors(first), tensors(again))
    assert not torch.equal(first.module.model.network.last.weight, other.module.model.network.last.weight)


COMPILED = [*QUICK, "compile=true", "network.hidden_dims=[8]", "objective=stable_target", "objective.pool_size=1000"]


of_the_compiler = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


@of_the_compiler
@pytest.mark.parametrize(
    "optimizer",
    [
        ["optimizer=adamw", "optimizer.weight_decay=0.1", "+optimizer.amsgrad=true", "+optimizer.maximize=true"],
        ["optimizer.weight_decay=0.1", "optimizer.betas=[0.8,0.9]", "+optimizer.eps=1.0e-3"],
    ],
)
def test_the_compiled_step_is_the_same_step(optimizer, configure):
    """Forward, backward, Adam, average and learned weighting in one function, against the eager ones."""
    eager, compiled = (
        fit(configure(*COMPILED, *optimizer, "trainer.max_steps=10", f"compile={value}", folder=value))
        for value in ("false", "true")
    )
    assert compiled.trainer.global_step == 10
    assert tensors(compiled).keys() == tensors(eager).keys()
    for name, value in tensors(eager).items():
        gap = (tensors(compiled)[name] - value).abs().max()
        assert gap <= 2e-5 * value.abs().max(), f"{name}: {gap:.2g}"  # float32's rounding in ten steps


class Interruption(BlockCallback):
    """Ends a training with an exception once it is past a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step > self.step:
            raise InterruptedError


@of_the_compiler
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists", "ignore:.*could not find the monitored key")
def test_a_compiled_training_is_bit_identical_in_any_blocks_and_resumed(configure, tmp_path):
    cut = [*COMPILED, "trainer.max_steps=60", "data.steps_per_epoch=20", "trainer.log_every_n_steps=20"]
    undisturbed, *others = (fit(configure(*cut, f"block_size={size}", folder=f"b{size}")) for size in (50, 1, 7))
    job = lifecycle.build(configure(*cut, folder="stopped"), overrides=[])
    job.trainer.callbacks.insert(0, Interruption(20))
    with pytest.raises(InterruptedError):
        lifecycle.fit(job)
    resumed = lifecycle.build(configure(*cut, folder="stopped"), overrides=[])
    lifecycle.fit(resumed, checkpoint=latest_checkpoint(tmp_path / "stopped")[0])
    for job in (*others, resumed):
        assert_same(tensors(undisturbed), tensors(job))
