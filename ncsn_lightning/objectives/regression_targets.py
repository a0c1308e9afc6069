r"""What a score is fitted to.

An *objective* regresses $s_\theta(\tilde x, \sigma)$, $\tilde x = x + \sigma z$, on a field whose conditional mean is
the score; objectives differ in that field's noise alone. The error of a row is $e = \|s_\theta - target\|^2$, summed
over dimensions, without a ½.

Denoising score matching is the Fisher error plus a constant no network can undercut,
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
"""Rows whose targets are found at once: what they need stays in the processor's cache."""


def squared_error(score: Vectors, target: Vectors) -> Float[Tensor, "*batch"]:
    """e of every row, unweighted and unreduced."""
    return (score - target).square().sum(-1)


class Objective(ABC):
    """What the score at noisy points is regressed on.

    Attributes:
        of_rows_alone: whether a target depends on its own row alone, and on nothing else that is known of the data.
    """

    of_rows_alone: bool = False

    __repr__ = described

    @abstractmethod
    def target(self, x: Vectors, sigma: Sigma, noise: Vectors, *, generator: Generator | None = None) -> Vectors:
        """The field at `x + sigma * noise`, in 1 / data units.

        Args:
            x: clean points, in data units.
            sigma: their levels.
            noise: of unit variance.
            generator: of whatever else is drawn, which does not depend on the number of rows: a rank that asks for its
                share of a batch gets its share of the targets.
        """


class Denoising(Objective):
    r"""Denoising score matching: the target is $-z / \sigma$.

    Source: A Connection Between Score Matching and Denoising Autoencoders, Vincent, 2011, eq. 11; Generative Modeling
    by Estimating Gradients of the Data Distribution, Song & Ermon, 2019, eq. 5.
    """

    of_rows_alone = True

    def target(self, x: Vectors, sigma: Sigma, noise: Vectors, *, generator: Generator | None = None) -> Vectors:
        return -noise / column(sigma, x)


class StableTarget(Objective):
    r"""The posterior mean over reference points: the same expectation with far less variance.

    $$\mathrm{target} = \frac{1}{\sigma^2}\Bigl(\sum_j w_j r_j - \tilde x\Bigr), \qquad
    w_j \propto \exp\bigl(-\|\tilde x - r_j\|^2 / 2\sigma^2\bigr)$$

    over the row's own x and `num_references` further points of the data. Source: Stable Target Field for Reduced
    Variance Score Estimation in Diffusion Models, Xu, Tong & Jaakkola, 2023, eq. 6.

    Where σ is small, points drawn anywhere weigh nothing and the target is plain denoising. Here they are drawn from
    the cells around $\tilde x$, some 2 to 3 σ wide, of a large pool of fresh data: a choice that depends on $\tilde x$
    alone leaves the row's own point and the others exchangeable, and so the target unbiased, but for the posterior's
    mass outside the cells.

    Args:
        distribution: the data, of which pools are drawn.
        num_references: further points for each row.
        pool_size: points in the largest pool; levels whose cells are wide need, and get, smaller ones.
    """

    @strict
    def __init__(self, *, distribution: Distribution, num_references: Count = 256, pool_size: Count = 2**19) -> None:
        self.distribution = distribution
        self.num_references, self.pool_size = num_references, pool_size

    @cached_property
    def _distances(self) -> Float[Tensor, "pairs"]:
        """How far typical points lie apart along the axis that parts them more, in data units, ascending."""
        x = self.distribution.typical_points[:1024].float().cpu()
        return torch.pdist(x, p=float("inf")).sort().values

    def target(self, x: Vectors, sigma: Sigma, noise: Vectors, *, generator: Generator | None = None) -> Vectors:
        pool = self.distribution.sample(self.pool_size, generator=generator).to(x.dtype)
        levels = sigma.expand(x.shape[:-1]).reshape(-1)
        rows, noises = x.reshape(-1, 2), noise.reshape(-1, 2)
        field = torch.empty_like(rows)
        octaves = (2 * levels.log2()).floor()  # half ones: cells of one width serve levels that differ by less than √2
        for octave in octaves.unique():
            width = WIDTH * 2.0 ** (float(octave + 1) / 2)
            cells = CellList(pool[: self._needed(width)], width=width)
            for chunk in (octaves == octave).nonzero().squeeze(-1).split(ROWS):
                field[chunk] = self._posterior_mean(rows[chunk], levels[chunk], noises[chunk], cells)
        return field.view(x.shape)

    def _needed(self, width: float) -> int:
        """How many points the pool must have for twice as many references around a typical one."""
        near = torch.searchsorted(self._distances, 1.5 * width) / len(self._distances)
        return min(self.pool_size, 2**17 + int(2 * self.num_references / float(near.clamp(min=1e-9))) + 1)

    def _posterior_mean(
        self,
        x: Float[Tensor, "rows 2"],
        sigma: Float[Tensor, "rows"],
        noise: Float[Tensor, "rows 2"],
        cells: CellList,
    ) -> Float[Tensor, "rows 2"]:
        scale = column(sigma, x)
        noisy = x + scale * noise
        offset = (1024 * noise[:, 0]).remainder(1)  # as good as random, and needs no draw of a row's own
        references, found = cells.near(noisy, self.num_references, offset=offset)
        away = [r.sub_(noisy[:, d : d + 1]).div_(scale) for d, r in enumerate(references)]  # in units of σ
        weight = away[0].square().addcmul_(away[1], away[1]).mul_(-0.5).exp_().mul_(found)
        own = (noise.square().sum(-1, keepdim=True) / -2).exp()  # never so small that the sum would vanish
        mean = torch.stack([torch.linalg.vecdot(weight, a) for a in away], dim=-1)
        return (mean - own * noise) / (weight.sum(-1, keepdim=True) + own) / scale


WIDTH = 2.2
"""Least width of a cell in σ: three of them hold what is nearer than 2.2 σ to any of the points in the middle one."""


class Exact(Objective):
    """The true score itself: the ceiling that tells a network's capacity from the noise of its targets.

    Args:
        distribution: the target whose exact score is regressed on.
    """

    @strict
    def __init__(self, *, distribution: Distribution) -> None:
        self.distribution = distribution

    def target(self, x: Vectors, sigma: Sigma, noise: Vectors, *, generator: Generator | None = None) -> Vectors:
        noisy, levels = (x + column(sigma, x) * noise).reshape(-1, 2), sigma.expand(x.shape[:-1]).reshape(-1)
        pieces = zip(noisy.split(ROWS), levels.split(ROWS), strict=True)
        return torch.cat([self.distribution.score(*piece) for piece in pieces]).view(x.shape)
