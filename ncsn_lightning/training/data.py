"""The stream of batches: everything random in a training, as a pure function of the batch's number.

Batches are drawn in groups of `DRAW`, keyed by (seed, group). Therefore the numbers depend neither on how many batches
a call of Lightning's takes, nor on how many ranks share them, nor on where a run was resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain, islice
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..core.randomness import keyed_generator
from ..core.validation import Count, Index, column, strict
from ..distributions.base import Distribution
from ..objectives.regression_targets import Objective, StableTarget
from ..schedules import Levels
from .internals import batches_taken

log = logging.getLogger(__name__)

FAR = 3.0
"""Standard deviations between the data's mean and the origin, beyond which a warning says that they are not centred."""

DRAW = 50
"""Batches drawn at once, for about 20 µs each; drawn one by one they cost three times as much."""


class Batch(NamedTuple):
    """The data of one optimiser step: P points at each of G levels.

    Attributes:
        x_noisy: `[G, P, 2]`, noisy points.
        sigma: `[G, 1]`, their levels.
        target: `[G, P, 2]`, what the score is regressed on at these points.
    """

    x_noisy: Tensor
    sigma: Tensor
    target: Tensor


class Stream:
    """The infinite stream of one target's batches; a rank sees its share of each.

    Args:
        distribution: the target.
        levels: the training density of σ.
        objective: gives what the score is regressed on.
        batch_size: rows of the global batch, over all ranks.
        seed: the seed of every draw.
        purpose: distinguishes streams of the same seed.
        draw: how many batches are drawn at once.
        size: how many points a fixed training set has, which depends on the seed alone and from which all rows are
            drawn with replacement; None for fresh points.
        rank, world_size: this rank's share is every `world_size`-th level, from number `rank` on.
        device: where the batches go, a whole draw at once.
    """

    def __init__(
        self,
        distribution: Distribution,
        levels: Levels,
        objective: Objective,
        *,
        batch_size: int,
        seed: int,
        purpose: str = "train",
        draw: int = DRAW,
        size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.distribution, self.levels, self.objective = distribution, levels, objective
        self.fixed = None if size is None else training_set(distribution, size, seed=seed)
        self.seed, self.purpose, self.draw, self.device = seed, purpose, draw, device
        self.groups = levels.groups or batch_size
        self.points = batch_size // self.groups
        self.share = slice(rank, None, world_size)
        self._draw = lru_cache(maxsize=2)(self._draw)  # type: ignore[method-assign]

    def _draw(self, index: int) -> list[Batch]:
        """This rank's share of the batches `draw * index` to `draw * (index + 1)`."""
        generator = keyed_generator(self.seed, self.purpose, index)
        shape = (self.draw, self.groups, self.points, 2)
        x = self._rows(shape[0] * shape[1] * shape[2], generator).view(shape)
        sigma = self.levels.sample(self.draw, self.groups, generator=generator).unsqueeze(-1)
        noise = torch.randn(shape, generator=generator)
        x, sigma, noise = (field[:, self.share] for field in (x, sigma, noise))
        target = self.objective.target(x, sigma, noise, generator=generator)
        fields = (field.to(self.device) for field in (x + column(sigma, x) * noise, sigma, target))
        return [Batch(*batch) for batch in zip(*(field.unbind() for field in fields), strict=True)]

    def _rows(self, n: int, generator: torch.Generator) -> Tensor:
        """Points of the target, `[n, 2]`: fresh ones, or from the fixed training set."""
        if self.fixed is None:
            return self.distribution.sample(n, generator=generator)
        return self.fixed[torch.randint(len(self.fixed), (n,), generator=generator)]

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches from number `start` to `stop`; another thread draws them while earlier ones are trained on."""
        first, last = start // self.draw, -(-stop // self.draw)
        draws = ahead(self._draw(index) for index in range(first, last))
        return islice(chain.from_iterable(draws), start - self.draw * first, stop - self.draw * first)


def training_set(distribution: Distribution, size: int, *, seed: int) -> Tensor:
    """The points that a training with `train_size=size` sees, `[size, 2]`."""
    return distribution.sample(size, generator=keyed_generator(seed, "training set"))


class Epoch:
    """The batches of a stream from the trainer's step to the next multiple of `length` optimiser steps.

    The number of a batch is how many the run has trained on before, which Lightning keeps in its checkpoints. Where
    the trainer is to overfit some batches, every epoch begins with the first batch.

    Raises:
        RuntimeError: the epoch before made no optimiser step; neither would any that follows.
    """

    def __init__(self, stream: Stream, trainer: Any, *, length: int) -> None:
        self.stream, self.trainer, self.length = stream, trainer, length
        self.began: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        step = self.trainer.global_step
        if self.began == step:
            raise RuntimeError(
                f"an epoch of training has ended at step {step}, where it began: {_suspect(self.trainer)}"
            )
        start = 0 if self.trainer.overfit_batches else batches_taken(self.trainer)
        yield from self.stream.batches(start, start + 1)  # Lightning fetches this one before the epoch's first hook
        self.began = step
        last = self._end(step)
        if self.trainer.max_steps >= 0:
            last = min(last, self.trainer.max_steps)
        yield from self.stream.batches(start + 1, start + (last - step) * self.trainer.accumulate_grad_batches)

    def _end(self, step: int) -> int:
        """The step at which an epoch ends that begins at `step`, unless Lightning ends it earlier."""
        limit = self.trainer.limit_train_batches
        shorter = isinstance(limit, int) and limit < self.length * self.trainer.accumulate_grad_batches
        return step + self.length if shorter else (step // self.length + 1) * self.length

    def state_dict(self) -> dict[str, int]:
        """Nothing; Lightning takes a loader that has this method for one that can be resumed."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore nothing: the trainer's counters say where the stream goes on."""


def _suspect(trainer: L.Trainer) -> str:
    """The likely reason why a module makes no optimiser steps."""
    name = type(trainer.lightning_module).__name__
    if not trainer.lightning_module.automatic_optimization:
        return f"{name} optimises by hand; call self.optimizers().step() in its training_step"
    return f"look at {name}.on_train_batch_start, which skips the rest of an epoch where it returns -1"


def ahead(draws: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
    """The same draws; another thread makes the next one while the present one is trained on."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:
        draw = thread.submit(next, draws, None)
        while (made := draw.result()) is not None:
            draw = thread.submit(next, draws, None)
            yield made


class StreamingDataModule(L.LightningDataModule):
    """Infinite batches of a target for training, and one fixed batch for validation.

    Args:
        distribution: the target, about its mean (`centred()`).
        levels: the training density of σ.
        objective: gives what the score is regressed on; stable targets by default.
        batch_size: rows of a step, over all ranks; a multiple of `levels.groups`.
        steps_per_epoch: optimiser steps between validations (and checkpoints).
        validation_size: rows of the validation batch, which are never taken from the training set.
        train_size: how many points a fixed training set has, from which all rows are drawn with replacement; None for
            an infinite stream of fresh points.
        seed: the seed of every draw.
    """

    @strict
    def __init__(
        self,
        *,
        distribution: Distribution,
        levels: Levels,
        objective: Objective | None = None,
        batch_size: Count = 1024,
        steps_per_epoch: Count = 2000,
        validation_size: Count = 4096,
        train_size: Count | None = None,
        seed: Index = 0,
    ) -> None:
        super().__init__()
        objective = objective or StableTarget(distribution=distribution)
        if train_size is not None and not objective.of_rows_alone:
            raise ValueError(
                f"train_size={train_size}: {type(objective).__name__} asks the target for more than these points; "
                "use objective=denoising, or train_size=null"
            )
        for name, size in (("batch_size", batch_size), ("validation_size", validation_size)):
            if levels.groups is not None and size % levels.groups:
                raise ValueError(
                    f"{name}={size} is no multiple of levels.groups={levels.groups}: change one of them, "
                    "or set levels.groups=null for one level a row"
                )
        if (away := float(distribution.mean.norm())) > FAR * distribution.sigma_data:
            log.warning(
                "distribution: its mean lies %.3g deviations from the origin, about which networks learn; give "
                "distribution.centred() to all parts of the training",
                away / distribution.sigma_data,
            )
        self.distribution, self.levels = distribution, levels
        self.batch_size, self.validation_size = batch_size, validation_size
        self.steps_per_epoch, self.objective = steps_per_epoch, objective
        self.train_size, self.seed = train_size, seed

    def check_ranks(self, ranks: int) -> None:
        """Raise ValueError where `ranks` processes cannot share a batch evenly."""
        groups = self.levels.groups or self.batch_size
        if groups % ranks:
            raise ValueError(f"levels.groups={groups} cannot be shared by {ranks} ranks: choose a multiple of {ranks}")

    def setup(self, stage: str) -> None:
        """Raise ValueError where the trainer's ranks cannot share a batch evenly."""
        assert self.trainer is not None
        self.check_ranks(self.trainer.world_size)

    def train_dataloader(self) -> Epoch:
        """This rank's share of the training stream, an epoch at a time."""
        assert self.trainer is not None
        stream = Stream(
            *(self.distribution, self.levels, self.objective),
            batch_size=self.batch_size,
            seed=self.seed,
            size=self.train_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            device=self.trainer.strategy.root_device,
        )
        return Epoch(stream, self.trainer, length=self.steps_per_epoch)

    def val_dataloader(self) -> DataLoader[Batch]:
        """One batch, the same on every rank and at every validation."""
        stream = Stream(
            *(self.distribution, self.levels, self.objective),
            batch_size=self.validation_size,
            seed=self.seed,
            purpose="validation",
            draw=1,
        )
        return DataLoader([*stream.batches(0, 1)], batch_size=None)  # type: ignore[arg-type]  # a list is a map-style data set
