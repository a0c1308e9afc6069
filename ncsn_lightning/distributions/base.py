"""The interface of a target distribution: samples, and its exact smoothed density and score at every noise level.

The base class owns shapes and dtypes; a target owns the mathematics of rows: `sample`, `_log_prob` and, where there
is a better way than differentiation, `_score`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from ..arguments import described
from ..randomness import keyed_generator


class Distribution(nn.Module, ABC):
    r"""A 2-D target p whose Gaussian smoothings are known exactly.

    $$p_\sigma = p * \mathcal N(0, \sigma^2 I), \qquad s(x, \sigma) = \nabla_x \log p_\sigma(x)$$

    Computations run in float64 and return the dtype of `x`, for differences of nearly equal numbers occur at both
    ends of the noise range. Everything tensor-valued is a buffer, so `.to(device)` moves it; no buffer enters a
    state dict, for the constructor's arguments determine them all.

    Attributes:
        dim: dimension of the data, 2.
        scale: smallest length of the target in data units (a component's standard deviation, a cell's side): σ_min
            should lie well below it.
        blur: the standard deviation τ, in data units, of noise that the target already carries: p = q ∗ N(0, τ²I) for
            some q, so that p_σ changes little below σ = τ. 0 where there are hard edges.
        mean: exact.
        covariance: exact.
    """

    dim: int = 2
    scale: float
    blur: float
    mean: Float[Tensor, "2"]
    covariance: Float[Tensor, "2 2"]

    def __init__(
        self, *, mean: Float[Tensor, "2"], covariance: Float[Tensor, "2 2"], scale: float, blur: float
    ) -> None:
        super().__init__()
        self.scale, self.blur = scale, blur
        self._constant("mean", mean)
        self._constant("covariance", covariance)

    __repr__ = described

    @property
    def files(self) -> dict[str, Float[Tensor, "..."]]:
        """Arguments of the constructor that named files, as what was read: a checkpoint keeps it in their place."""
        return {}

    def _constant(self, name: str, value: Float[Tensor, "..."]) -> None:
        """Keep a float64 constant that moves with the module and is not part of its state."""
        self.register_buffer(name, value.to(torch.float64), persistent=False)

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw `n` independent points in float32, on the device of the buffers (the generator's device must agree)."""

    def sample_noisy(self, n: int, sigma: float, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw `n` independent points of p_σ, as `sample` does of p."""
        clean = self.sample(n, generator=generator)
        return clean + sigma * torch.randn(clean.shape, generator=generator, device=clean.device)

    @abstractmethod
    def _log_prob(self, x: Float64[Tensor, "n 2"], sigma: Float64[Tensor, "n"]) -> Float64[Tensor, "n"]:
        """log p_σ of rows."""

    def _score(self, x: Float64[Tensor, "n 2"], sigma: Float64[Tensor, "n"]) -> Float64[Tensor, "n 2"]:
        """∇ₓ log p_σ of rows; by differentiation or better."""
        return torch.func.grad(lambda x: self._log_prob(x, sigma).sum())(x)

    def log_prob(
        self, x: Float[Tensor, "*#batch 2"], sigma: Float[Tensor, "*#batch"] | float = 0.0
    ) -> Float[Tensor, "*batch"]:
        """log p_σ(x) in nats; −inf outside the support of a noise-free bounded target.

        Args:
            x: points, in data units.
            sigma: noise level in data units, of any shape that broadcasts against the batch.
        """
        shape, points, levels = self._rows(x, sigma)
        return self._log_prob(points, levels).reshape(shape).to(x.dtype)

    def score(
        self, x: Float[Tensor, "*#batch 2"], sigma: Float[Tensor, "*#batch"] | float
    ) -> Float[Tensor, "*batch 2"]:
        """∇ₓ log p_σ(x) in 1 / data units; arguments as in `log_prob`."""
        shape, points, levels = self._rows(x, sigma)
        return self._score(points, levels).reshape(*shape, self.dim).to(x.dtype)

    def _rows(
        self, x: Float[Tensor, "*#batch 2"], sigma: Float[Tensor, "*#batch"] | float
    ) -> tuple[torch.Size, Float64[Tensor, "n 2"], Float64[Tensor, "n"]]:
        """Broadcast points and levels against each other, flatten the batch, go to float64."""
        level = torch.as_tensor(sigma, dtype=torch.float64, device=x.device)
        shape = torch.broadcast_shapes(x.shape[:-1], level.shape)
        points = x.to(torch.float64).expand(*shape, self.dim).reshape(-1, self.dim)
        return shape, points, level.expand(shape).reshape(-1)

    @cached_property
    def typical_points(self) -> Float[Tensor, "4096 2"]:
        """A fixed sample of 4096 points: the same for every seed and run, so that what derives from it compares."""
        generator = keyed_generator(0, "typical points", device=self.mean.device)
        return self.sample(4096, generator=generator)

    def noisy_points(self, sigma: float) -> Float[Tensor, "4096 2"]:
        """A fixed sample of p_σ: the typical points with a fixed noise."""
        points = self.typical_points.float()
        generator = keyed_generator(0, "typical noise", device=points.device)
        return points + sigma * torch.randn(points.shape, generator=generator, device=points.device)

    def curvature(self, sigma: float) -> float:
        r"""Largest curvature of −log p_σ at the noisy points, in 1 / data units².

        The largest eigenvalue of $-\nabla s = I/\sigma^2 - \mathrm{Cov}[x \mid \tilde x]/\sigma^4$: never above 1/σ²,
        and the reciprocal of the variance where p_σ is narrowest.
        """
        x = self.noisy_points(sigma)[:1024].double()  # one in a thousand is enough to meet what is narrow
        rows = [torch.func.grad(lambda x, i=i: self.score(x, sigma)[:, i].sum())(x) for i in range(self.dim)]
        return float(torch.linalg.eigvalsh(-torch.stack(rows, dim=1))[:, -1].max())

    @cached_property
    def diameter(self) -> float:
        """Largest pairwise distance of the typical points: the automatic σ_max (Song & Ermon 2020, Technique 1)."""
        return float(torch.cdist(self.typical_points, self.typical_points).max())

    @property
    def sigma_data(self) -> float:
        """Root mean square of the centred data per dimension: the automatic σ_d (Karras et al. 2022)."""
        return math.sqrt(float(self.covariance.trace()) / self.dim)
