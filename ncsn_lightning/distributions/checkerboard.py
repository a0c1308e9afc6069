r"""The checkerboard, in closed form.

It is uniform on the cells (i, j), −2 ≤ i, j < 2, of a grid with side c for which i + j is even: i and j are both even
or both odd. The smoothed indicators of even and odd columns, E and O, are sums of differences of the normal
distribution function Φ over the cells, and

$$p_\sigma(x) = \frac{E(x_1) E(x_2) + O(x_1) O(x_2)}{8 c^2}, \qquad
  E(u) = \sum_{i\ \mathrm{even}} \Phi\Big(\frac{u - ic}{\sigma}\Big) - \Phi\Big(\frac{u - (i+1)c}{\sigma}\Big).$$

Everything is computed in logarithms and in the lower tail of Φ, because far from a cell both Φ are 1 to all digits.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.validation import Positive, Rows, Values, strict
from .base import Distribution

CELLS = ((-2, 0), (-1, 1))
"""Lower ends of the even and of the odd columns, in cells."""

MARGIN = 2.0**-22
"""Distance that samples keep from a cell's edges, in cells, so that float32 rounds none onto an edge."""

SATURATED = 9.0
"""Φ(9) = 1 in float64; beyond 9 the second derivative of log Φ overflows."""

Stripes = Float64[Tensor, "n coordinate=2 parity=2 cell=2"]


class Checkerboard(Distribution):
    r"""Uniform on the eight cells (i, j) of a 4 × 4 grid with i + j even: [−2, 2]² for cells of side 1.

    $$p(x) = \frac{1}{8 c^2} \text{ where } \lfloor x_1 / c \rfloor + \lfloor x_2 / c \rfloor \text{ is even}$$

    Its entropy is ln(8 c²). At σ = 0 the score is 0 everywhere, though it exists only inside the cells.

    Args:
        cell_size: c, in data units.
    """

    edges: Tensor

    @strict
    def __init__(self, *, cell_size: Positive = 1.0) -> None:
        # Columns are equally likely, and both parities agree, so that E[x₁ x₂] = E[E[x₁ | parity]²] = (c/2)².
        shared = cell_size**2 / 4
        variance = (4 * cell_size) ** 2 / 12
        covariance = torch.tensor([[variance, shared], [shared, variance]], dtype=torch.float64)
        super().__init__(mean=torch.zeros(2), covariance=covariance, scale=cell_size, blur=0.0, unit=cell_size)
        self.cell_size = cell_size
        self._constant("edges", cell_size * torch.tensor(CELLS, dtype=torch.float64))

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw a cell, then a point in it."""
        device = self.edges.device
        parity = torch.randint(2, (n, 1), device=device, generator=generator)
        column = torch.randint(2, (n, 2), device=device, generator=generator)
        inside = torch.rand(n, 2, dtype=torch.float64, device=device, generator=generator)
        return (self.edges[parity, column] + self.cell_size * inside.clamp(MARGIN, 1 - MARGIN)).float()

    def _log_prob(self, x: Rows, sigma: Values) -> Values:
        level = torch.where(sigma > 0, sigma, 1.0)[:, None]
        smooth = torch.logsumexp(self._stripes(x, level)[0].logsumexp(-1).sum(1), dim=-1)
        return torch.where(sigma > 0, smooth, self._log_indicator(x)) - math.log(8 * self.cell_size**2)

    def _score(self, x: Rows, sigma: Values) -> Rows:
        level = torch.where(sigma > 0, sigma, 1.0)[:, None]
        log_cells, slopes = self._stripes(x, level)
        cell_shares = torch.softmax(log_cells, dim=-1)
        parity_shares = torch.softmax(log_cells.logsumexp(-1).sum(1), dim=-1)[:, None]
        score = (parity_shares * (cell_shares * slopes).sum(-1)).sum(-1)
        return torch.where(sigma[:, None] > 0, score, 0.0)

    def _log_indicator(self, x: Rows) -> Values:
        """0 on the cells, −∞ elsewhere."""
        column = (x / self.cell_size).floor()
        inside = ((column >= -2) & (column < 2)).all(-1) & (column.sum(-1).remainder(2) == 0)
        return torch.where(inside, 0.0, -torch.inf).to(x.dtype)

    def _stripes(self, x: Rows, sigma: Float64[Tensor, "n 1"]) -> tuple[Stripes, Stripes]:
        """log(Φ(upper) − Φ(lower)) for every coordinate and column, and its derivative in x."""
        centred = x[..., None, None] - self.edges - self.cell_size / 2
        side = torch.where(centred > 0, -1.0, 1.0)  # reflect into the lower tail of Φ
        scale = sigma[..., None, None]
        lower = (side * centred - self.cell_size / 2) / scale
        upper = lower + self.cell_size / scale
        log_lower = _log_ndtr(lower)
        log_upper = _log_ndtr(upper.clamp(max=SATURATED))
        log_mass = log_upper + torch.log(-torch.expm1(log_lower - log_upper))
        log_peak = -0.5 * math.log(2 * math.pi) - log_mass
        slope = (torch.exp(log_peak - 0.5 * upper.square()) - torch.exp(log_peak - 0.5 * lower.square())) / scale
        return log_mass, side * slope


def _log_ndtr(u: Float64[Tensor, "*any"]) -> Float64[Tensor, "*any"]:
    """log Φ(u) for u ≤ `SATURATED`; torch's own function has no rule for vmap."""
    return torch.log(0.5 * torch.special.erfcx(-u / math.sqrt(2))) - 0.5 * u.square()
