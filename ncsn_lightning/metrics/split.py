r"""The error of a score, split exactly into what moves the marginals of its flow and what does not.

In L²(p_σ) every error $e = s_\theta - s$ is, in exactly one way, the sum of a gradient and a field without divergence:

$$e = \nabla\varphi + r, \qquad \nabla \cdot (p_\sigma r) = 0, \qquad
\mathrm E\|e\|^2 = \mathrm E\|\nabla\varphi\|^2 + \mathrm E\|r\|^2 \quad\text{under } p_\sigma .$$

Only $\nabla\varphi$ changes the densities that the flow passes through: r moves points, but no density. Source:
Khelifa, Turner & Venkataramanan, 2026, arXiv 2606.06179, who estimate the two parts. With the exact p_σ in two
dimensions, φ solves one weighted Poisson equation, $\nabla\cdot(p_\sigma\nabla\varphi) = \nabla\cdot(p_\sigma e)$. It
is solved here in symmetric finite volumes: φ lives in the cells of a grid, p_σ and the normal component of e on the
faces between them, so that Gᵀ P G φ = Gᵀ P e with the differences G. On the grid, too, the two parts add up to the
whole to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from torch import Tensor, nn

from ..core.validation import Count, Positive, strict
from ..distributions.base import Distribution
from ..models.scores import Score
from ..schedules import Geometric
from .score_error import by_level

NEGLIGIBLE = 1e-8
"""Cells below this share of the largest density are left out; `ScoreShares.mass` says how much mass remains."""
COARSEST = 64
"""Fewest cells along the longer side, however smooth p_σ is."""

Array = NDArray[np.float64]


class ScoreShares(NamedTuple):
    """The relative error E‖s_θ − s‖² / E‖s‖² of each level in two parts; NaN where the grid cannot resolve p_σ.

    Attributes:
        sigmas: the levels, in data units.
        gradient: the share of ∇φ, which moves the marginals.
        divergence_free: the share of r, which does not.
        mass: the part of p_σ that lies on the cells.
    """

    sigmas: Float[Tensor, "levels"]
    gradient: Float[Tensor, "levels"]
    divergence_free: Float[Tensor, "levels"]
    mass: Float[Tensor, "levels"]

    @property
    def means(self) -> dict[str, float]:
        """The mean of either share over the levels that have one; empty where none has."""
        resolved = ~self.gradient.isnan()
        if not resolved.any():
            return {}
        return {name: float(getattr(self, name)[resolved].mean()) for name in ("gradient", "divergence_free")}

    @property
    def gradient_per_level(self) -> dict[str, float]:
        """The gradient share of each level that has one, by the level's name in summaries."""
        return _resolved(self.sigmas, self.gradient)

    @property
    def divergence_free_per_level(self) -> dict[str, float]:
        """The divergence-free share of each level that has one, by the level's name in summaries."""
        return _resolved(self.sigmas, self.divergence_free)


def _resolved(sigmas: Float[Tensor, "levels"], shares: Float[Tensor, "levels"]) -> dict[str, float]:
    """The shares that are not NaN, by their levels."""
    return by_level(sigmas[~shares.isnan()], shares[~shares.isnan()])


class ScoreSplit(nn.Module):
    """Splits the error of any score at the levels of a geometric grid from σ_max to σ_min.

    The finest structure that p_σ can have is √(σ² + τ²) wide, with τ the target's own blur. A level's cells are half as
    wide as that, as far as `resolution` allows. Where they must be wider than the structure itself, the shares are NaN.
    All that does not depend on the score is computed once, at the first use.

    Args:
        distribution: the target.
        sigma_min, sigma_max: ends of the grid of levels, in data units.
        num_levels: levels on it.
        resolution: largest number of cells along the longer side.
    """

    @strict
    def __init__(
        self,
        *,
        distribution: Distribution,
        sigma_min: Positive,
        sigma_max: Positive,
        num_levels: Count = 10,
        resolution: Count = 192,
    ) -> None:
        super().__init__()
        self.distribution, self.resolution = distribution, resolution
        self.sigmas = Geometric(sigma_min=sigma_min, sigma_max=sigma_max, num_levels=num_levels).sigmas

    @cached_property
    def _levels(self) -> list[_Level | None]:
        """The problem of each level, None where the grid is too coarse for it."""
        return [_level(self.distribution, float(sigma), self.resolution) for sigma in self.sigmas]

    @torch.no_grad()
    def forward(self, score: Score) -> ScoreShares:
        """Split the error of a score at all levels, on the CPU."""
        shares = [
            (math.nan, math.nan, math.nan) if level is None else level.split(score, sigma)
            for level, sigma in zip(self._levels, self.sigmas, strict=True)
        ]
        return ScoreShares(self.sigmas, *torch.tensor(shares, dtype=torch.float64).unbind(-1))


class _Level(NamedTuple):
    """The weighted Poisson problem of one level.

    Attributes:
        faces: midpoints of the faces, first those across which x₁ changes, `[m, 2]`, in data units.
        axis: the coordinate that changes across each face, `[m]`.
        exact: the exact score's component along that axis, `[m]`.
        weight: p_σ at the face times the area of a cell, `[m]`.
        gradient: G, differences between neighbouring cells over their distance; one cell of each connected part is
            held at 0.
        solve: applies (Gᵀ P G)⁻¹.
        mass: of p_σ, in the cells.
    """

    faces: Tensor
    axis: Tensor
    exact: Array
    weight: Array
    gradient: sparse.csr_matrix
    solve: Callable[[Array], Array]
    mass: float

    def split(self, score: Score, sigma: Tensor) -> tuple[float, float, float]:
        """The gradient share, the divergence-free share and the mass."""
        values = score(self.faces.float(), sigma).double()
        error = values.gather(1, self.axis[:, None])[:, 0].numpy() - self.exact
        slope = self.gradient @ self.solve(self.gradient.T @ (self.weight * error))
        norm = self.weight @ np.square(self.exact)
        parts = (self.weight @ np.square(part) / norm for part in (slope, error - slope))
        return *parts, self.mass


def _level(target: Distribution, sigma: float, resolution: int) -> _Level | None:
    """Set up the problem at σ; None where the grid is too coarse for it."""
    width = math.hypot(sigma, target.blur)
    points = target.noisy_points(sigma).double().cpu()
    low, high = points.amin(0) - 2 * width, points.amax(0) + 2 * width
    side = float((high - low).max())
    h = side / min(resolution, max(COARSEST, math.ceil(2 * side / width)))
    if h > width:
        return None
    columns, rows = (math.ceil(length / h) for length in (high - low).tolist())
    density = _density(target, sigma, low, h, (columns, rows))
    kept = density >= NEGLIGIBLE * density.max()
    number = np.where(kept, np.cumsum(kept).reshape(kept.shape) - 1, -1)
    return _assemble(target, sigma, low, h, number, mass=float(density[kept].sum()) * h**2)


def _density(target: Distribution, sigma: float, low: Tensor, h: float, shape: tuple[int, int]) -> Array:
    """p_σ at the centre of every cell, `[columns, rows]`."""
    ticks = (low[i] + (torch.arange(n, dtype=torch.float64) + 0.5) * h for i, n in enumerate(shape))
    centres = torch.stack(torch.meshgrid(*ticks, indexing="ij"), dim=-1)
    return target.log_prob(centres.to(target.mean.device), sigma).exp().cpu().numpy()


def _assemble(
    target: Distribution, sigma: float, low: Tensor, h: float, number: NDArray[np.int64], *, mass: float
) -> _Level:
    """Set up the operators between the kept cells, which have numbers from 0; all others have −1."""
    first, second, faces, axis = [], [], [], []
    for direction in range(2):
        near, far = (number.take(range(*ends), axis=direction) for ends in _neighbours(number.shape[direction]))
        inside = (near >= 0) & (far >= 0)
        first.append(near[inside])
        second.append(far[inside])
        places = np.argwhere(inside) + 0.5
        places[:, direction] += 0.5
        faces.append(low + h * torch.from_numpy(places))
        axis.append(torch.full((len(places),), direction))
    midpoints, along = torch.cat(faces), torch.cat(axis)
    points = midpoints.to(target.mean.device)
    exact = target.score(points, sigma).cpu().gather(1, along[:, None])[:, 0].numpy()
    weight = target.log_prob(points, sigma).exp().cpu().numpy() * h**2
    gradient = _differences(np.concatenate(first), np.concatenate(second)) / h
    solve = splu((gradient.T @ sparse.diags(weight) @ gradient).tocsc(), permc_spec="MMD_AT_PLUS_A").solve
    return _Level(midpoints, along, exact, weight, gradient, solve, mass)


def _neighbours(n: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The ranges of the first and the second cell of all pairs of neighbours among `n` cells in a row."""
    return (0, n - 1), (1, n)


def _differences(first: NDArray[np.int64], second: NDArray[np.int64]) -> sparse.csr_matrix:
    """The matrix of second − first for pairs of cells, without the column of one cell of each connected part."""
    m, cells = len(first), int(max(first.max(), second.max())) + 1
    face, ones = np.arange(m), np.ones(m)
    matrix = sparse.csr_matrix((np.r_[-ones, ones], (np.r_[face, face], np.r_[first, second])), shape=(m, cells))
    part = connected_components(abs(matrix.T) @ abs(matrix), directed=False)[1]
    held = np.unique(part, return_index=True)[1]
    return matrix[:, np.setdiff1d(np.arange(cells), held)]
