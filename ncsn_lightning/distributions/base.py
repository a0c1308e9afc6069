"""The interface of a target distribution: samples, and its exact smoothed density and score at every noise level.

The base class owns shapes and dtypes; a target owns the mathematics of rows: `sample`, `_log_prob` and, where there
is a better way than differentiation, `_score`.

A network learns data about the origin, and float32 keeps seven digits. So everything inside a run works with
`target.centred()`, the same target moved so that its mean is the origin; only what enters and leaves is in the data's
own coordinates, which `target.placed(x)` gives back.
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
"""Of the data's deviation: a mean nearer to the origin is 0 but for rounding."""

MERGED = 1e-3
"""Of a target's smallest length: numbers of float32 that lie further apart than this would merge its points."""


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
        unit: the length, in data units, that counts as 1 where the target is defined (a cell's side, say); the data's
            deviation per dimension unless given.
        mean: exact.
        covariance: exact.
        notes: lines for a run's log, such as on what was read from a file.
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
        """Arguments of the constructor that name a file or parts of it, as what was read: a checkpoint keeps these."""
        return {}

    def _constant(self, name: str, value: Float[Tensor, "..."]) -> None:
        """Keep a float64 constant that moves with the module and is not part of its state."""
        self.register_buffer(name, value.to(torch.float64), persistent=False)

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw `n` independent points, on the device of the buffers (the generator's device must agree).

        They are in float32, or in float64 where float32 would merge them.
        """

    def sample_noisy(self, n: int, sigma: float, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw `n` independent points of p_σ, as `sample` does of p."""
        clean = self.sample(n, generator=generator)
        return clean + sigma * torch.randn(clean.shape, generator=generator, device=clean.device)

    @abstractmethod
    def _log_prob(self, x: Rows, sigma: Values) -> Values:
        """log p_σ of rows."""

    def _score(self, x: Rows, sigma: Values) -> Rows:
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
    ) -> tuple[torch.Size, Rows, Values]:
        """Broadcast points and levels against each other, flatten the batch, go to float64."""
        level = torch.as_tensor(sigma, dtype=torch.float64, device=x.device)
        shape = torch.broadcast_shapes(x.shape[:-1], level.shape)
        points = x.to(torch.float64).expand(*shape, self.dim).reshape(-1, self.dim)
        return shape, points, level.expand(shape).reshape(-1)

    def centred(self) -> Distribution:
        """The same target about its mean, in float32: what everything inside a run works with.

        It is the target itself where the mean is 0 but for rounding.
        """
        return self if self._is_centred else _Centred(self)

    @property
    def uncentred(self) -> Distribution:
        """The target in the data's own coordinates; it is this one, unless `centred()` gave it."""
        return self.original or self

    def placed(self, x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Points about the mean, such as samples of `centred()`, in the target's own coordinates, with their digits."""
        return self._rounded(x.double() + self.mean)

    @property
    def _is_centred(self) -> bool:
        return float(self.mean.abs().max()) <= ROUNDING * self.sigma_data

    def _rounded(self, x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Points in float32, or in float64 where float32 would merge them."""
        spacing = torch.finfo(torch.float32).eps * float(self.mean.abs().max())
        return x.double() if spacing > MERGED * self.scale else x.float()

    def _moved(self) -> Any:
        """A shallow copy about the mean, for a subclass to move its own constants; caches stay behind."""
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
        """A fixed sample of 4096 points: the same for every seed and run, so that what derives from it compares."""
        generator = keyed_generator(0, "typical points", device=self.mean.device)
        return self.sample(4096, generator=generator)

    def noisy_points(self, sigma: float) -> Float[Tensor, "4096 2"]:
        """A fixed sample of p_σ: the typical points with a fixed noise."""
        points = self._rounded(self.typical_points)
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
    """A target about its mean, computed by the target itself in its own coordinates, in float64.

    Args:
        target: any.
    """

    def __init__(self, target: Distribution) -> None:
        mean = torch.zeros_like(target.mean)
        super().__init__(
            mean=mean, covariance=target.covariance, scale=target.scale, blur=target.blur, unit=target.unit
        )
        self.original: Distribution = target

    @property
    def extent(self) -> float:
        return self.original.extent

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        return (self.original.sample(n, generator=generator).double() - self.original.mean).float()

    def _log_prob(self, x: Rows, sigma: Values) -> Values:
        return self.original._log_prob(x + self.original.mean, sigma)

    def _score(self, x: Rows, sigma: Values) -> Rows:
        return self.original._score(x + self.original.mean, sigma)
