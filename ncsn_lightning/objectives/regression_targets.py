r"""What a score is fitted to.

An *objective* regresses $s_\theta(\tilde x, \sigma)$, $\tilde x = x + \sigma z$, on a field whose conditional mean is
the score. Objectives differ only in how noisy that field is. The error of a row is $e = \|s_\theta - target\|^2$,
summed over dimensions, without a ½.

The denoising loss is the Fisher error plus a constant below which no network can get,
$\mathrm{DSM}(\sigma) = \mathbb E\|s_\theta - s\|^2 + D/\sigma^2 - \mathbb E\|s\|^2$.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ..core.validation import Count, Sigma, Vectors, column, described, strict
from ..distributions.base import Distribution
from .cell_list import CellList

ROWS = 1024
"""Rows whose targets are computed at once: few enough for their references to stay in the processor's cache."""


def squared_error(score: Vectors, target: Vectors) -> Float[Tensor, "*batch"]:
    """e = ‖score − target‖² of every row, in 1 / data units², neither weighted nor averaged."""
    return (score - target).square().sum(-1)


class Objective(ABC):
    """What the score at noisy points is regressed on.

    Attributes:
        of_rows_alone: whether a row's target follows from that row alone, without anything else about the data.
    """

    of_rows_alone: bool = False

    __repr__ = described

    @abstractmethod
    def target(self, x: Vectors, sigma: Sigma, noise: Vectors, *, generator: Generator | None = None) -> Vectors:
        """The field at `x + sigma * noise`, in 1 / data units.

        Args:
            x: clean points, in data units.
            sigma: their noise levels, in data units.
            noise: z, of unit variance.
            generator: source of all other random numbers. How many are drawn does not depend on the number of rows, so
                that a rank which passes its part of a batch gets its part of the batch's targets.
        """


class Denoising(Objective):
    r"""Denoising score matching: the target is $-z / \sigma$.

    Source: A Connection Between Score Matching and Denoising Autoencoders, Vincent, 2011, eq. 11; Generative Modeling
    by Estimating Gradients of the Data Distribution, Song & Ermon, 2019, eq. 5.
    """

    of_rows_alone = True

    def target(self, x: Vectors, sigma: Sigma, noise: Vectors, *, generator: Generator | None = None) -> Vectors:
        """−z / σ, in 1 / data units."""
        return -noise / column(sigma, x)


class StableTarget(Objective):
    r"""The posterior mean over reference points: the same expectation with far less variance.

    $$\mathrm{target} = \frac{1}{\sigma^2}\Bigl(\sum_j w_j r_j - \tilde x\Bigr), \qquad
    w_j \propto \exp\bigl(-\|\tilde x - r_j\|^2 / 2\sigma^2\bigr)$$

    over the row's own x and `num_references` further points $r_j$ of the data. Source: Stable Target Field for Reduced
    Variance Score Estimation in Diffusion Models, Xu, Tong & Jaakkola, 2023, eq. 6.

    Where σ is small, references drawn from all of the data have no weight, and the target falls back to plain
    denoising. So they are drawn from a large pool of fresh data, and only from its cells around $\tilde x$, each some 2
    to 3 σ wide. That choice depends on $\tilde x$ alone, so the row's own point and its references stay exchangeable,
    and the target is unbiased but for the posterior's mass outside the cells.

    Args:
        distribution: the data, from which pools are drawn.
        num_references: references of each row, besides its own point.
        pool_size: points in the largest pool; levels with wide cells need fewer, and get a smaller pool.
    """

    @strict
    def __init__(self, *, distribution: Distribution, num_references: Count = 256, pool_size: Count = 2**19) -> None:
        self.distribution = distribution
        self.num_references, self.pool_size = num_references, pool_size

    @cached_property
    def _distances(self) -> Float[Tensor, "pairs"]:
        """Distances between typical points in the maximum norm, in data units, ascending."""
        x = self.distribution.typical_points[:1024].float().cpu()
        return torch.pdist(x, p=float("inf")).sort().values

    def target(self, x: Vectors, sigma: Sigma, noise: Vectors, *, generator: Generator | None = None) -> Vectors:
        """The posterior mean's field, (Σ w_j r_j − x̃) / σ², in 1 / data units; rows of similar σ share a cell list."""
        pool = self.distribution.sample(self.pool_size, generator=generator).to(x.dtype)
        levels = sigma.expand(x.shape[:-1]).reshape(-1)
        rows, noises = x.reshape(-1, 2), noise.reshape(-1, 2)
        field = torch.empty_like(rows)
        octaves = (2 * levels.log2()).floor()  # half octaves: one width of cells serves levels within a factor of √2
        for octave in octaves.unique():
            width = WIDTH * 2.0 ** (float(octave + 1) / 2)
            cells = CellList(pool[: self._needed(width)], width=width)
            for chunk in (octaves == octave).nonzero().squeeze(-1).split(ROWS):
                field[chunk] = self._posterior_mean(rows[chunk], levels[chunk], noises[chunk], cells)
        return field.view(x.shape)

    def _needed(self, width: float) -> int:
        """How large the pool must be to hold, around a typical point, twice the references that are asked for."""
        near = torch.searchsorted(self._distances, 1.5 * width) / len(self._distances)
        return min(self.pool_size, 2**17 + int(2 * self.num_references / float(near.clamp(min=1e-9))) + 1)

    def _posterior_mean(
        self,
        x: Float[Tensor, "rows 2"],
        sigma: Float[Tensor, "rows"],
        noise: Float[Tensor, "rows 2"],
        cells: CellList,
    ) -> Float[Tensor, "rows 2"]:
        """The target of some rows of similar σ, from a cell list that suits their levels."""
        scale = column(sigma, x)
        noisy = x + scale * noise
        offset = (1024 * noise[:, 0]).remainder(1)  # as good as a random number, without a draw for each row
        references, found = cells.near(noisy, self.num_references, offset=offset)
        away = [r.sub_(noisy[:, d : d + 1]).div_(scale) for d, r in enumerate(references)]  # in units of σ
        weight = away[0].square().addcmul_(away[1], away[1]).mul_(-0.5).exp_().mul_(found)
        own = (noise.square().sum(-1, keepdim=True) / -2).exp()  # keeps the sum of the weights above 0
        mean = torch.stack([torch.linalg.vecdot(weight, a) for a in away], dim=-1)
        return (mean - own * noise) / (weight.sum(-1, keepdim=True) + own) / scale


WIDTH = 2.2
"""Least width of a cell in units of σ: the 3 × 3 cells hold all that is within 2.2 σ of a point in the middle one."""


class Exact(Objective):
    """The exact score itself: targets without noise, so that the error that remains is the network's own.

    Args:
        distribution: the target whose exact score is regressed on.
    """

    @strict
    def __init__(self, *, distribution: Distribution) -> None:
        self.distribution = distribution

    def target(self, x: Vectors, sigma: Sigma, noise: Vectors, *, generator: Generator | None = None) -> Vectors:
        """The exact score at `x + sigma * noise`, in 1 / data units, `ROWS` points at a time."""
        noisy, levels = (x + column(sigma, x) * noise).reshape(-1, 2), sigma.expand(x.shape[:-1]).reshape(-1)
        pieces = zip(noisy.split(ROWS), levels.split(ROWS), strict=True)
        return torch.cat([self.distribution.score(*piece) for piece in pieces]).view(x.shape)
