"""The stream: everything random that training consumes, as a pure function of the optimiser step.

Draws are made in fixed groups of `DRAW` steps, keyed by (seed, group). How many of them one training batch consumes (a
*block*), how many ranks share them and where a run was resumed therefore never change a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .arguments import Count, Index, column, strict
from .distributions import Distribution
from .objectives import Objective
from .randomness import keyed_generator
from .schedules import Levels

DRAW = 50
"""Steps drawn at once: about 20 µs a step; one draw a step costs three times as much."""


class Block(NamedTuple):
    """What K optimiser steps consume: K batches of G levels × P points.

    Attributes:
        x_noisy: `[K, G, P, 2]`, noisy points.
        sigma: `[K, G, 1]`, their levels.
        target: `[K, G, P, 2]`, what the score is regressed on there.
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
        draw: steps drawn at once.
        size: of a fixed set of the target's points, a function of the seed, from which all rows are drawn with
            replacement; None for fresh ones.
        rank, world_size: the share: every `world_size`-th level, from `rank`.
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
    ) -> None:
        self.distribution, self.levels, self.objective = distribution, levels, objective
        self.fixed = None if size is None else training_set(distribution, size, seed=seed)
        self.seed, self.purpose, self.draw = seed, purpose, draw
        self.groups = levels.groups or batch_size
        self.points = batch_size // self.groups
        self.share = slice(rank, None, world_size)
        self._draw = lru_cache(maxsize=2)(self._draw)  # type: ignore[method-assign]

    def _draw(self, index: int) -> Block:
        """Steps `draw * index` to `draw * (index + 1)`, this rank's share."""
        generator = keyed_generator(self.seed, self.purpose, index)
        shape = (self.draw, self.groups, self.points, 2)
        x = self._rows(shape[0] * shape[1] * shape[2], generator).view(shape)
        sigma = self.levels.sample(self.draw, self.groups, generator=generator).unsqueeze(-1)
        noise = torch.randn(shape, generator=generator)
        x, sigma, noise = (field[:, self.share] for field in (x, sigma, noise))
        target = self.objective.target(x, sigma, noise, generator=generator)
        return Block(x + column(sigma, x) * noise, sigma, target)

    def _rows(self, n: int, generator: torch.Generator) -> Tensor:
        if self.fixed is None:
            return self.distribution.sample(n, generator=generator)
        return self.fixed[torch.randint(len(self.fixed), (n,), generator=generator)]

    def block(self, start: int, stop: int) -> Block:
        """The batches of steps `start` to `stop`."""
        pieces = []
        while start < stop:
            index, offset = divmod(start, self.draw)
            count = min(stop - start, self.draw - offset)
            pieces.append([field[offset : offset + count] for field in self._draw(index)])
            start += count
        return Block(*(fields[0] if len(pieces) == 1 else torch.cat(fields) for fields in zip(*pieces, strict=True)))


def training_set(distribution: Distribution, size: int, *, seed: int) -> Tensor:
    """The points that a training with `train_size=size` sees, `[size, 2]`."""
    return distribution.sample(size, generator=keyed_generator(seed, "training set"))


class Epoch:
    """One epoch of a stream: from the trainer's step to the next validation, cut into blocks.

    A block ends at every multiple of `block_size` and of each of `ends`, so that whatever happens every N optimiser
    steps finds the trainer at that step. The step is the only state, and the trainer keeps it.
    """

    def __init__(self, stream: Stream, trainer: L.Trainer, *, block_size: int, length: int, ends: list[int]) -> None:
        self.stream, self.trainer = stream, trainer
        self.length, self.ends = length, [block_size, *ends]

    def __iter__(self) -> Iterator[Block]:
        return ahead(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        step = self.trainer.global_step
        last = min(_next_multiple(step, self.length), self.trainer.max_steps)
        while step < last:
            stop = min(last, *(_next_multiple(step, end) for end in self.ends))
            yield self.stream.block(step, stop)
            step = stop

    def state_dict(self) -> dict[str, int]:
        """Nothing of its own; its presence tells Lightning that the loader resumes."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to restore."""


def ahead(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same blocks, each made by another thread while the one before is trained on."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:
        block = thread.submit(next, blocks, None)
        while (made := block.result()) is not None:
            block = thread.submit(next, blocks, None)
            yield made


def _next_multiple(step: int, of: int) -> int:
    return (step // of + 1) * of


class StreamingDataModule(L.LightningDataModule):
    """Infinite batches of a target for training, and one fixed batch for validation.

    Args:
        distribution: the target.
        levels: training density of σ.
        batch_size: rows a step, over all ranks; a multiple of `levels.groups`.
        block_size: optimiser steps that one `training_step` takes; it changes the speed, never a number.
        steps_per_epoch: optimiser steps between validations (and checkpoints).
        block_ends: optimiser steps at whose multiples a block must end, besides.
        objective: what the score is regressed on.
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
        batch_size: Count,
        block_size: Count,
        steps_per_epoch: Count,
        block_ends: list[Count],
        objective: Objective,
        validation_size: Count,
        train_size: Count | None = None,
        seed: Index,
    ) -> None:
        super().__init__()
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
        self.distribution, self.levels = distribution, levels
        self.batch_size, self.validation_size = batch_size, validation_size
        self.block_size, self.steps_per_epoch, self.block_ends = block_size, steps_per_epoch, block_ends
        self.objective, self.train_size, self.seed = objective, train_size, seed

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
        )
        return Epoch(
            stream, self.trainer, block_size=self.block_size, length=self.steps_per_epoch, ends=self.block_ends
        )

    def on_before_batch_transfer(self, batch: Block, dataloader_idx: int) -> Block:
        """Give Lightning's own callbacks the optimiser step as their x axis, before any of them looks."""
        assert self.trainer is not None
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step
        return batch

    def val_dataloader(self) -> DataLoader[Block]:
        stream = Stream(
            *(self.distribution, self.levels, self.objective),
            batch_size=self.validation_size,
            seed=self.seed,
            purpose="validation",
            draw=1,
        )
        return DataLoader([stream.block(0, 1)], batch_size=None)  # type: ignore[arg-type]  # a list is a map-style data set
