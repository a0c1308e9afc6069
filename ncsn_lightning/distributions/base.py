"""The interface of a target distribution: samples, and its exact smoothed density and score at every noise level.

The base class handles shapes and dtypes. A target implements the mathematics for rows of points: `sample`, `_log_prob`
and, where there is a better way than differentiation, `_score`.

Networks learn best from data about the origin, and float32 keeps only seven digits. Everything inside a run therefore
works with `target.centred()`, the same target moved so that its mean is the origin. Only what enters and leaves a run
is in the data's own coordinates, and `target.placed(x)` converts to them.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.randomness import keyed_generator
from ..core.validation import Rows, Values, described

ROUNDING = 1e-12
"""A mean that is nearer to the origin than this share of the data's deviation counts as 0."""

MERGED = 1e-3
"""Points stay in float64 where float32 is spaced more widely than this share of the target's smallest length."""


class Distribution(nn.Module, ABC):
    r"""A 2-D target p whose Gaussian smoothings are known exactly.

    $$p_\sigma = p * \mathcal N(0, \sigma^2 I), \qquad s(x, \sigma) = \nabla_x \log p_\sigma(x)$$

    Computations run in float64 and return the dtype of `x`, because differences of nearly equal numbers occur at both
    ends of the noise range. All tensors are buffers, so that `.to(device)` moves them. No buffer enters a state dict,
    because the constructor's arguments determine all of them.

    Attributes:
        dim: dimension of the data, 2.
        scale: smallest length of the target in data units (a component's standard deviation, a cell's side): σ_min
            should lie well below it.
        blur: the standard deviation τ, in data units, of noise that the target already carries: p = q ∗ N(0, τ²I) for
            some q, so that p_σ changes little below σ = τ. 0 where there are hard edges.
        unit: the length, in data units, that is 1 in the target's usual definition (the side of a cell, say); by
            default the data's deviation per dimension.
        mean: exact, in data units.
        covariance: exact, in data units².
        notes: lines for a run's log, such as what was read from a file.
        original: the target in the data's own coordinates, where this one is its centred version.
    """

    dim: int = 2
    notes: tuple[str, ...] = ()
    scale: float
    blur: float
    unit: float
    mean: Float[Tensor, "2"]
    covariance: Float[Tensor, "2 2"]

    def __init__(
        self,
        *,
        mean: Float[Tensor, "2"],
        covariance: Float[Tensor, "2 2"],
        scale: float,
        blur: float,
        unit: float | None = None,
    ) -> None:
        super().__init__()
        for name, value, shape in (("mean", mean, (self.dim,)), ("covariance", covariance, (self.dim, self.dim))):
            if value.shape != shape:
                raise ValueError(f"{name} of the shape {list(value.shape)}: give {list(shape)}")
        self.scale, self.blur = scale, blur
        self._constant("mean", mean)
        self._constant("covariance", covariance)
        self.unit = self.sigma_data if unit is None else unit
        self.original: Distribution | None = None

    __repr__ = described

    @property
    def files(self) -> dict[str, Float[Tensor, "..."] | None]:
        """Values read from files, by the constructor's arguments that name them; a checkpoint keeps them instead."""
        return {}

    def _constant(self, name: str, value: Float[Tensor, "..."]) -> None:
        """Register a float64 constant that moves with the module and is not part of its state dict."""
        self.register_buffer(name, value.to(torch.float64), persistent=False)

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw `n` independent points, in data units, on the device of the buffers.

        They are in float32, or in float64 where float32 would merge them. The generator must be on the same device.
        """

    def sample_noisy(self, n: int, sigma: float, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw `n` independent points of p_σ, in data units: those of `sample`, with noise of deviation `sigma`."""
        clean = self.sample(n, generator=generator)
        return clean + sigma * torch.randn(clean.shape, generator=generator, device=clean.device)

    @abstractmethod
    def _log_prob(self, x: Rows, sigma: Values) -> Values:
        """log p_σ at rows of points, in nats."""

    def _score(self, x: Rows, sigma: Values) -> Rows:
        """∇ₓ log p_σ at rows of points, in 1 / data units; by differentiation unless a subclass knows better."""
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
    ) -> tuple[torch.Size, Rows, Values]:
        """Broadcast points and levels against each other, flatten the batch, and convert to float64."""
        level = torch.as_tensor(sigma, dtype=torch.float64, device=x.device)
        shape = torch.broadcast_shapes(x.shape[:-1], level.shape)
        points = x.to(torch.float64).expand(*shape, self.dim).reshape(-1, self.dim)
        return shape, points, level.expand(shape).reshape(-1)

    def centred(self) -> Distribution:
        """The same target moved to mean 0, with samples in float32, as everything inside a run uses it.

        A target whose mean is 0 but for rounding is returned as it is.
        """
        return self if self._is_centred else _Centred(self)

    @property
    def uncentred(self) -> Distribution:
        """The target in the data's own coordinates: the one that `centred()` was called on, or this one."""
        return self.original or self

    def placed(self, x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Move points about the mean, such as samples of `centred()`, to the target's own coordinates.

        The result is in float64 where float32 would merge points.
        """
        return self._rounded(x.double() + self.mean)

    @property
    def _is_centred(self) -> bool:
        """Whether the mean is 0 but for rounding."""
        return float(self.mean.abs().max()) <= ROUNDING * self.sigma_data

    def _rounded(self, x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Points in float32, or in float64 where float32 would merge them."""
        spacing = torch.finfo(torch.float32).eps * float(self.mean.abs().max())
        return x.double() if spacing > MERGED * self.scale else x.float()

    def _moved(self) -> Any:
        """A shallow copy with mean 0 and empty caches; the subclass that calls this moves its own constants."""
        moved = copy.copy(self)
        cached = [name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)]
        for name in cached:
            del moved.__dict__[name]
        moved._buffers, moved._modules = {**self._buffers}, {**self._modules}
        moved._constant("mean", torch.zeros_like(self.mean))
        moved.original = self
        return moved

    @cached_property
    def typical_points(self) -> Float[Tensor, "4096 2"]:
        """A fixed sample of 4096 points, the same for every seed and run, so that what is derived from it compares."""
        generator = keyed_generator(0, "typical points", device=self.mean.device)
        return self.sample(4096, generator=generator)

    def noisy_points(self, sigma: float) -> Float[Tensor, "4096 2"]:
        """A fixed sample of p_σ: the typical points with fixed noise, in data units."""
        points = self._rounded(self.typical_points)
        generator = keyed_generator(0, "typical noise", device=points.device)
        return points + sigma * torch.randn(points.shape, generator=generator, device=points.device)

    def curvature(self, sigma: float) -> float:
        r"""Largest curvature of −log p_σ at the noisy points, in 1 / data units².

        This is the largest eigenvalue of $-\nabla s = I/\sigma^2 - \mathrm{Cov}[x \mid \tilde x]/\sigma^4$. It is never
        above 1/σ², and its reciprocal is the variance where p_σ is narrowest.
        """
        x = self.noisy_points(sigma)[:1024].double()  # enough to find even narrow structure of a thousandth of the mass
        rows = [torch.func.grad(lambda x, i=i: self.score(x, sigma)[:, i].sum())(x) for i in range(self.dim)]
        return float(torch.linalg.eigvalsh(-torch.stack(rows, dim=1))[:, -1].max())

    @cached_property
    def diameter(self) -> float:
        """Largest pairwise distance of the typical points, in data units (Song & Ermon 2020, Technique 1)."""
        return float(torch.cdist(self.typical_points, self.typical_points).max())

    @property
    def sigma_data(self) -> float:
        """Root mean square of the centred data per dimension: the automatic σ_d (Karras et al. 2022)."""
        return math.sqrt(float(self.covariance.trace()) / self.dim)

    @property
    def extent(self) -> float:
        """The largest distance within the data, in data units: the automatic σ_max."""
        return self.diameter

    @property
    def detail(self) -> float:
        """The finest length that samples should show, in data units: the automatic σ_min."""
        return min(self.unit / 100, self.scale / 10)


class _Centred(Distribution):
    """A target moved to mean 0; the original computes in its own coordinates, in float64.

    Args:
        target: the original.
    """

    def __init__(self, target: Distribution) -> None:
        mean = torch.zeros_like(target.mean)
        super().__init__(
            mean=mean, covariance=target.covariance, scale=target.scale, blur=target.blur, unit=target.unit
        )
        self.original: Distribution = target

    @property
    def extent(self) -> float:
        """The original's extent, in data units."""
        return self.original.extent

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw points of the original and subtract its mean, in float64; returns float32."""
        return (self.original.sample(n, generator=generator).double() - self.original.mean).float()

    def _log_prob(self, x: Rows, sigma: Values) -> Values:
        return self.original._log_prob(x + self.original.mean, sigma)

    def _score(self, x: Rows, sigma: Values) -> Rows:
        return self.original._score(x + self.original.mean, sigma)
