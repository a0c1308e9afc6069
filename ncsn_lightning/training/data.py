"""The stream: everything random that training consumes, as a pure function of the batch's number.

Draws are made in fixed groups of `DRAW` batches, keyed by (seed, group). How many of them one call of Lightning's
takes, how many ranks share them and where a run was resumed therefore never change a number.
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
"""Deviations of the data from the origin, beyond which their mean is a mistake."""

DRAW = 50
"""Batches drawn at once: about 20 µs a batch; one draw a batch costs three times as much."""


class Batch(NamedTuple):
    """What one optimiser step consumes: G levels × P points.

    Attributes:
        x_noisy: `[G, P, 2]`, noisy points.
        sigma: `[G, 1]`, their levels.
        target: `[G, P, 2]`, what the score is regressed on there.
    """

    x_noisy: Tensor
    sigma: Tensor
    target: Tensor


class Stream:
    """The infinite stream of one target's batches, of which a rank sees its share.

    Args:
        distribution: the target.
        levels: training density of σ.
        objective: what the score is regressed on.
        batch_size: rows of the global batch, over all ranks.
        seed: of every draw.
        purpose: keeps streams of the same seed apart.
        draw: batches drawn at once.
        size: of a fixed set of the target's points, a function of the seed, from which all rows are drawn with
            replacement; None for fresh ones.
        rank, world_size: the share: every `world_size`-th level, from `rank`.
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
        """Batches `draw * index` to `draw * (index + 1)`, this rank's share."""
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
        if self.fixed is None:
            return self.distribution.sample(n, generator=generator)
        return self.fixed[torch.randint(len(self.fixed), (n,), generator=generator)]

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches from number `start` to `stop`, drawn by another thread while those before are trained on."""
        first, last = start // self.draw, -(-stop // self.draw)
        draws = ahead(self._draw(index) for index in range(first, last))
        return islice(chain.from_iterable(draws), start - self.draw * first, stop - self.draw * first)


def training_set(distribution: Distribution, size: int, *, seed: int) -> Tensor:
    """The points that a training with `train_size=size` sees, `[size, 2]`."""
    return distribution.sample(size, generator=keyed_generator(seed, "training set"))


class Epoch:
    """The batches of a stream from the trainer's step to the next multiple of `length` optimiser steps.

    A batch's number is the count of those that the run has taken, which Lightning keeps in its checkpoints. Where the
    trainer is to overfit some batches, every epoch begins with the first one.

    Raises:
        RuntimeError: the epoch before made no optimiser step, and so would all that follow.
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
        yield from self.stream.batches(start, start + 1)  # Lightning fetches one before the epoch's first hook
        self.began = step
        last = self._end(step)
        if self.trainer.max_steps >= 0:
            last = min(last, self.trainer.max_steps)
        yield from self.stream.batches(start + 1, start + (last - step) * self.trainer.accumulate_grad_batches)

    def _end(self, step: int) -> int:
        """The step at which the epoch ends that begins at one, unless Lightning ends it earlier."""
        limit = self.trainer.limit_train_batches
        shorter = isinstance(limit, int) and limit < self.length * self.trainer.accumulate_grad_batches
        return step + self.length if shorter else _next_multiple(step, self.length)

    def state_dict(self) -> dict[str, int]:
        """Nothing of its own; its presence tells Lightning that the loader resumes."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to restore."""


def _suspect(trainer: L.Trainer) -> str:
    """What of a module keeps a training from going on."""
    name = type(trainer.lightning_module).__name__
    if not trainer.lightning_module.automatic_optimization:
        return f"{name} optimises by hand; call self.optimizers().step() in its training_step"
    return f"look at {name}.on_train_batch_start, which skips the rest of an epoch where it returns -1"


def ahead(draws: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
    """The same draws, each made by another thread while the one before is trained on."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:
        draw = thread.submit(next, draws, None)
        while (made := draw.result()) is not None:
            draw = thread.submit(next, draws, None)
            yield made


def _next_multiple(step: int, of: int) -> int:
    return (step // of + 1) * of


class StreamingDataModule(L.LightningDataModule):
    """Infinite batches of a target for training, and one fixed batch for validation.

    Args:
        distribution: the target, about its mean (`centred()`).
        levels: training density of σ.
        objective: what the score is regressed on; stable targets, unless one is given.
        batch_size: rows a step, over all ranks; a multiple of `levels.groups`.
        steps_per_epoch: optimiser steps between validations (and checkpoints).
        validation_size: rows of the validation batch, always fresh.
        train_size: points of a fixed training set, from which all rows are drawn with replacement; None for an infinite
            stream of fresh ones.
        seed: of every draw.
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
        assert self.trainer is not None
        self.check_ranks(self.trainer.world_size)

    def train_dataloader(self) -> Epoch:
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
        stream = Stream(
            *(self.distribution, self.levels, self.objective),
            batch_size=self.validation_size,
            seed=self.seed,
            purpose="validation",
            draw=1,
        )
        return DataLoader([*stream.batches(0, 1)], batch_size=None)  # type: ignore[arg-type]  # a list is a map-style data set
