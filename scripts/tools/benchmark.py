"""Time training and sampling against the primer's own loops, interleaved in one process, and the exact scores.

    make benchmark ARGS="--repeats 5"

Every figure is a ratio of neighbours measured in turn: the machine's speed drifts, and their ratio does not. Training
is timed by the wall and by the processor, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import ncsn_lightning
from ncsn_lightning import (
    NCSN,
    AnnealedLangevin,
    Batch,
    BlockCallback,
    Checkerboard,
    Denoising,
    FastLoop,
    GaussianMixture,
    Geometric,
    Heun,
    Karras,
    Likelihood,
    LogUniform,
    Points,
    RungeKutta,
    StreamingDataModule,
)
from ncsn_lightning.config.build import fill_automatic
from ncsn_lightning.config.plain import composed, config_folder
from ncsn_lightning.distributions import TwoGaussians
from ncsn_lightning.models.scores import Score
from ncsn_lightning.runs import lifecycle
from ncsn_lightning.training.callbacks import StepProgressBar

BATCH, BLOCK, WARM = 256, 50, 1000
SIGMAS = Geometric(sigma_min=0.01, sigma_max=2.0, num_levels=10).sigmas


class PrimerNetwork(nn.Module):
    """The primer's network: a σ embedding for every row, concatenated with x."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("omega", torch.exp(torch.arange(32) * -(np.log(10000) / 31)))
        self.embed = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64))
        self.layers = nn.ModuleList(map(nn.Linear, (66, 128, 128), (128, 128, 128)))
        self.last = nn.Linear(128, 2)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        phase = sigma.unsqueeze(-1) * self.omega
        h = torch.cat([x, self.embed(torch.cat([phase.sin(), phase.cos()], dim=-1))], dim=-1)
        for layer in self.layers:
            h = F.silu(layer(h))
        return self.last(h)


def plain_training(*, fused: bool) -> Iterator[None]:
    """The primer's training loop on fresh data: Adam, no logs, no average; a step at a time."""
    network, target = PrimerNetwork(), Checkerboard()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=fused)
    data = target.sample(50_000)
    while True:
        x = data[torch.randint(len(data), (BATCH,))]
        sigma = SIGMAS[torch.randint(len(SIGMAS), (BATCH,))]
        noise = torch.randn_like(x)
        error = network(x + sigma.unsqueeze(-1) * noise, sigma) + noise / sigma.unsqueeze(-1)
        loss = (error.square().sum(-1) * sigma**2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        yield


def clocks() -> np.ndarray:
    """Seconds by the wall and by the processor."""
    return np.array([time.perf_counter(), time.process_time()])


class Interleaved(BlockCallback):
    """After each block of ours, as many steps of the plain loops; the seconds that each took after `WARM` steps."""

    def __init__(self) -> None:
        self.loops = {"plain": plain_training(fused=False), "fused": plain_training(fused=True)}
        self.seconds = {name: np.zeros(2) for name in ("ours", *self.loops)}
        self.mark, self.compiling, self.steps = clocks(), 0.0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.mark = clocks()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step > WARM:
            self.seconds["ours"] += clocks() - self.mark
        elif not self.steps:
            self.compiling = (clocks() - self.mark)[0]
        taken, self.steps = trainer.global_step - self.steps, trainer.global_step
        for name, loop in self.loops.items():
            started = clocks()
            for _ in range(taken):
                next(loop)
            if trainer.global_step > WARM:
                self.seconds[name] += clocks() - started
        self.mark = clocks()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds["ours"] += clocks() - self.mark


def lightning_training(steps: int, *, compiled: bool) -> Interleaved:
    """Our training of the same network, with bar, logs, average, validation and checkpoints."""
    interleaved = Interleaved()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "experiment=primer",
            "module.ema_decay=0.999",
            "levels.groups=64",
            "logger=csv",
            "~callbacks.figures",
            f"block_size={BLOCK}",
            f"trainer.max_steps={steps}",
            f"compile={compiled}",
        ]
        job = lifecycle.build(composed(*overrides, folder=folder), overrides=[])
        job.trainer.callbacks.append(interleaved)
        for callback in job.trainer.callbacks:
            if isinstance(callback, StepProgressBar):
                callback._refresh_rate = 1  # draw the bar though nobody may be looking
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            lifecycle.fit(job)
    return interleaved


class UsualModule(L.LightningModule):
    """The same network as anybody would train it in Lightning, with a value logged at every step or without."""

    def __init__(self, *, logs: bool) -> None:
        super().__init__()
        self.score, self.logs = our_score(), logs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        error = (self.score(batch.x_noisy, batch.sigma) - batch.target).square().sum(-1)
        loss = (batch.sigma.square() * error).mean()
        if self.logs:
            self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)


class Clock(BlockCallback):
    """Seconds from the first step of a training to its last."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.started


def loop_seconds(module: L.LightningModule, *, fast: bool, steps: int) -> float:
    """Seconds of a training in plain Python on the stream."""
    target, clock = Checkerboard(), Clock()
    levels = LogUniform(schedule=Geometric(sigma_min=0.01, sigma_max=2.0), groups=64, stratified=True)
    data = StreamingDataModule(
        distribution=target, levels=levels, objective=Denoising(), batch_size=BATCH, steps_per_epoch=steps
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    callbacks = [clock, FastLoop()] if fast else [clock]
    trainer = L.Trainer(max_steps=steps, accelerator="cpu", callbacks=callbacks, enable_model_summary=False, **quiet)
    trainer.fit(module, datamodule=data)
    return clock.seconds


def loops(console: Console, *, repeats: int, steps: int) -> None:
    """The two loops, and somebody's own module in both, in turn."""
    ours, plain, logging_ = (
        lambda: NCSN(score=our_score()),
        lambda: UsualModule(logs=False),
        lambda: UsualModule(logs=True),
    )
    pairs = {
        "standard loop, NCSN × a usual module that logs": ((logging_, False), (ours, False)),
        "fast loop × standard loop, NCSN": ((ours, False), (ours, True)),
        "fast loop, a usual module × NCSN": ((ours, True), (plain, True)),
        "fast loop, a usual module that logs at every step × NCSN": ((ours, True), (logging_, True)),
    }
    table = Table("loops", "×", title=f"whole trainings of {steps} steps, {torch.get_num_threads()} threads")
    for name, (theirs, mine) in pairs.items():
        seconds = [
            [loop_seconds(make(), fast=fast, steps=steps) for make, fast in (theirs, mine)] for _ in range(repeats)
        ]
        table.add_row(name, ratios([a for a, _ in seconds], [b for _, b in seconds]))
    console.print(table)


def plain_sampling(network: nn.Module, n: int) -> float:
    """The primer's sampling loop, one embedding a row. Seconds."""
    started = time.perf_counter()
    with torch.no_grad():
        x = 2 * torch.randn(n, 2)
        for sigma in SIGMAS:
            eps = 1e-5 * (sigma / SIGMAS[-1]) ** 2
            for _ in range(10):
                x = x + eps * network(x, sigma.expand(n)) + (2 * eps).sqrt() * torch.randn_like(x)
    return time.perf_counter() - started


def our_sampling(score: nn.Module, n: int) -> float:
    """The same chain by our sampler. Seconds."""
    sampler = AnnealedLangevin(base_step=1e-5, steps_per_level=10)
    started = time.perf_counter()
    sampler(score, 2 * torch.randn(n, 2), SIGMAS)
    return time.perf_counter() - started


def our_score() -> nn.Module:
    embedding = ncsn_lightning.SinusoidalEmbedding(dim=64)
    return ncsn_lightning.Raw(network=ncsn_lightning.MLP(embedding=embedding, hidden_dims=[128, 128, 128]))


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Median ratio of the pairs of seconds, and their range."""
    pairs = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(pairs):.2f} ({min(pairs):.2f} … {max(pairs):.2f})"


def training(console: Console, *, repeats: int, steps: int, compiled: bool) -> None:
    title = f"steps a second, {torch.get_num_threads()} threads"
    table = Table("training", "clock", "× plain", "× plain with fused Adam", "", title=title)
    for name, compiles in (
        {"as it comes": False, "compile=true": True}.items() if compiled else [("as it comes", False)]
    ):
        runs = [lightning_training(steps, compiled=compiles) for _ in range(repeats)]
        cold, warm = runs[0].compiling, min(run.compiling for run in runs)
        notes = [f"{(steps - WARM) / statistics.median(run.seconds['ours'][0] for run in runs):.0f} steps/s"]
        notes.append(f"first block {cold:.0f} s, {warm:.1f} s from the cache" if compiles else "")
        for clock, (label, note) in enumerate(zip(("wall", "processor"), notes, strict=True)):
            ours = [run.seconds["ours"][clock] for run in runs]
            theirs = ([run.seconds[loop][clock] for run in runs] for loop in ("plain", "fused"))
            table.add_row(name, label, *(ratios(seconds, ours) for seconds in theirs), note)
    console.print(table)


def sampling(console: Console, *, repeats: int, n: int) -> None:
    network, score = PrimerNetwork(), our_score()
    plain_sampling(network, n), our_sampling(score, n)
    pairs = [(plain_sampling(network, n), our_sampling(score, n)) for _ in range(2 * repeats)]
    table = Table("sampling", "× plain", title=f"annealed Langevin, {n} chains, 100 evaluations")
    table.add_row("ours", ratios([theirs for theirs, _ in pairs], [ours for _, ours in pairs]))
    console.print(table)


def default_network(console: Console) -> None:
    """What the default network's samples, likelihoods and `evaluation=quick` cost; its weights do not matter."""
    builder = lifecycle.Builder(composed(folder="nowhere"))
    fill_automatic(builder)
    score, target = builder.build("score"), builder.build("distribution")
    ladder = Karras(sigma_min=0.01, sigma_max=target.diameter, num_levels=18)
    likelihood = Likelihood(distribution=target, schedule=ladder, solver=RungeKutta(steps=32), num_points=10_000)
    double = copy.deepcopy(score).double()
    heun, x = Heun(), target.sample(10_000, generator=torch.Generator().manual_seed(0)).double()
    table = Table("default network, 10 000 points", "s", title=f"{torch.get_num_threads()} threads")
    walk = milliseconds(lambda: list(heun.walk(score, target, ladder.sigmas, n=10_000, seed=0)))
    table.add_row("samples by Heun, 18 levels", f"{walk / 1000:.2f}")
    table.add_row("likelihood, 32 steps, float64", f"{milliseconds(lambda: likelihood.log_prob(double, x)) / 1000:.2f}")
    table.add_row("evaluation=quick, from nothing", f"{milliseconds(lambda: quick(score, x.float())) / 1000:.2f}")
    console.print(table)


def quick(score: Score, x: Tensor) -> None:
    """What a training says of its samples and score at its end; floors and factorisations are made for it."""
    builder = lifecycle.Builder(composed(folder="nowhere"))
    fill_automatic(builder)
    builder.build("evaluation.samples").measure(x)
    builder.build("evaluation.split")(score)


def exact_scores(console: Console) -> None:
    table = Table("exact score of 10 000 points", "σ scalar, ms", "σ a row, ms")
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "points.npy", TwoGaussians().sample(2000, generator=generator).numpy())
        targets = {
            option.stem: make_target(option.stem, folder) for option in (config_folder() / "distribution").glob("*")
        }
    for name, target in sorted(targets.items()):
        x = target.sample(10_000, generator=generator)
        times = [milliseconds(lambda s=s, x=x, t=target: t.score(x, s)) for s in (0.1, torch.full((10_000,), 0.1))]
        table.add_row(name, *(f"{t:.1f}" for t in times))
    console.print(table)


def mixtures(console: Console) -> None:
    """Mixtures whose components have a covariance each, beside torch's own with autograd, in turn."""
    title = f"log p and score of 5000 points under K covariances, {torch.get_num_threads()} threads"
    table = Table("K", "", "ours, ms", "torch's, ms", "× faster", title=title)
    for modes in (1, 2, 4, 8, 64, 512):
        for turned in (False, True):
            target = covariances(modes, turned=turned)
            x = target.sample(5000, generator=torch.Generator().manual_seed(0)).double()
            ask = partial(exact_both, target, x), partial(torchs, target, x)
            ours, theirs = zip(*([milliseconds(call) for call in ask] for _ in range(3)), strict=True)
            times = (f"{statistics.median(t):.2f}" for t in (ours, theirs))
            table.add_row(str(modes), "rotated" if turned else "along the axes", *times, ratios(theirs, ours))
    console.print(table)


def covariances(modes: int, *, turned: bool) -> GaussianMixture:
    generator = torch.Generator().manual_seed(modes)
    angle = 3.0 * torch.rand(modes, generator=generator) * turned
    return GaussianMixture(
        4 * torch.randn(modes, 2, generator=generator),
        weights=torch.ones(modes),
        variances=torch.rand(modes, 2, generator=generator) + 0.1,
        directions=torch.stack([angle.cos(), angle.sin()], dim=-1),
        scale=0.3,
    )


def exact_both(target: GaussianMixture, x: Tensor, sigma: float = 0.1) -> tuple[Tensor, Tensor]:
    return target.log_prob(x, sigma), target.score(x, sigma)


def torchs(target: GaussianMixture, x: Tensor, sigma: float = 0.1) -> tuple[Tensor, Tensor]:
    """log p_σ by torch's classes, and the score by differentiation."""
    x = x.clone().requires_grad_()
    turned = target.directions.flip(-1) * torch.tensor([-1.0, 1.0])
    frames = torch.stack([target.directions, turned], dim=-1)
    covariance = frames @ torch.diag_embed(target.deviations.square() + sigma**2) @ frames.mT
    modes = MultivariateNormal(target.means, covariance, validate_args=False)
    weights = Categorical(target.weights, validate_args=False)
    log_p = MixtureSameFamily(weights, modes, validate_args=False).log_prob(x)
    return log_p, torch.autograd.grad(log_p.sum(), x)[0]


def many_points(console: Console) -> None:
    """What the number of points of one's own costs."""
    table = Table("points", "first call, s", "score of 10 000, ms", title="distribution=points, σ = .1")
    for count in (10_000, 100_000, 1_000_000):
        target = Points(path=torch.randn(count, 2, generator=torch.Generator().manual_seed(0)), bandwidth=0.03)
        x = target.sample(10_000, generator=torch.Generator().manual_seed(1))
        started = time.perf_counter()
        target.score(x, 0.1)
        first = time.perf_counter() - started
        table.add_row(f"{count:,}", f"{first:.1f}", f"{milliseconds(lambda t=target, x=x: t.score(x, 0.1)):.0f}")
    console.print(table)


def make_target(option: str, folder: str) -> ncsn_lightning.Distribution:
    if option == "points":
        return Points(path=f"{folder}/points.npy")
    return lifecycle.Builder(composed(f"distribution={option}", folder=folder)).build("distribution")


def milliseconds(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--chains", type=int, default=10_000)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)
    console = Console()
    with tempfile.TemporaryDirectory() as cache:  # an empty one: the first compilation is timed as a user meets it
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        training(console, repeats=arguments.repeats, steps=arguments.steps, compiled=not arguments.no_compile)
    loops(console, repeats=arguments.repeats, steps=1000)
    sampling(console, repeats=arguments.repeats, n=arguments.chains)
    default_network(console)
    exact_scores(console)
    mixtures(console)
    many_points(console)


if __name__ == "__main__":
    main()
