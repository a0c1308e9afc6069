r"""Noise levels: discrete ladders for sampling, and the densities from which training draws its levels.

A *schedule* is a ladder $\sigma_1 > \sigma_2 > \dots > \sigma_L$ along which samplers walk. *Levels* are a density over
σ, given by its quantile function, from which training draws. The two are kept apart, so that sweeping one does not
change the other. The loss depends on the product of the levels' density and the weighting λ(σ).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from .core.validation import Count, Finite, Positive, described, strict
from .distributions.base import Distribution

Rungs = Annotated[int, Field(ge=2)]


class Schedule(nn.Module, ABC):
    """A ladder of noise levels.

    Attributes:
        sigmas: decreasing, in data units.

    Raises:
        ValueError: `sigmas` is not a row of positive, finite levels that decrease.
    """

    sigmas: Float[Tensor, "levels"]

    def __init__(self, sigmas: Float[Tensor, "levels"]) -> None:
        super().__init__()
        if sigmas.ndim != 1 or not len(sigmas):
            raise ValueError(f"sigmas of the shape {list(sigmas.shape)}: give [L], at least one level")
        if not (sigmas.isfinite() & (sigmas > 0)).all() or (sigmas.diff() > 0).any():
            raise ValueError("sigmas: give positive, finite levels that decrease")
        self.register_buffer("sigmas", sigmas.to(torch.float32))

    def __repr__(self) -> str:
        return f"{described(self)}: σ from {float(self.sigmas[0]):.4g} to {float(self.sigmas[-1]):.4g}"

    @property
    def ends(self) -> dict[str, float]:
        """The arguments `sigma_min` and `sigma_max` of any other ladder between the same ends."""
        return {"sigma_min": float(self.sigmas[-1]), "sigma_max": float(self.sigmas[0])}


def _check_order(sigma_min: float, sigma_max: float) -> None:
    if sigma_min >= sigma_max:
        raise ValueError(f"sigma_min={sigma_min:g} must be smaller than sigma_max={sigma_max:g}: exchange or move them")


def _fractions(num_levels: int) -> Float[Tensor, "levels"]:
    """(i − 1) / (L − 1) for i = 1 … L, in float64."""
    return torch.linspace(0.0, 1.0, num_levels, dtype=torch.float64)


class Geometric(Schedule):
    r"""Levels with a constant ratio, $\sigma_i = \sigma_{max} (\sigma_{min} / \sigma_{max})^{(i-1)/(L-1)}$.

    Source: Generative Modeling by Estimating Gradients of the Data Distribution, Song & Ermon, 2019, §4.
    """

    @strict
    def __init__(self, *, sigma_min: Positive, sigma_max: Positive, num_levels: Rungs = 10) -> None:
        _check_order(sigma_min, sigma_max)
        super().__init__(sigma_max * (sigma_min / sigma_max) ** _fractions(num_levels))


class Linear(Schedule):
    """Evenly spaced levels from `sigma_max` to `sigma_min`."""

    @strict
    def __init__(self, *, sigma_min: Positive, sigma_max: Positive, num_levels: Rungs = 10) -> None:
        _check_order(sigma_min, sigma_max)
        super().__init__(sigma_max + (sigma_min - sigma_max) * _fractions(num_levels))


class Karras(Schedule):
    r"""Levels evenly spaced in $\sigma^{1/\rho}$.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022, eq. 5.
    """

    @strict
    def __init__(
        self, *, sigma_min: Positive, sigma_max: Positive, num_levels: Rungs = 10, rho: Positive = 7.0
    ) -> None:
        _check_order(sigma_min, sigma_max)
        top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
        super().__init__((top + (bottom - top) * _fractions(num_levels)) ** rho)


class DDPM(Schedule):
    r"""Noise-to-signal ratios of a variance-preserving chain, $\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}$.

    $\bar\alpha_t = \prod (1 - \beta)$ with β evenly spaced from `beta_min` to `beta_max` over `num_steps` steps; of
    these, `num_levels` evenly spaced ones are kept. DDPM is NCSN on this ladder.

    Source: Denoising Diffusion Probabilistic Models, Ho, Jain & Abbeel, 2020, §4.
    """

    @strict
    def __init__(
        self,
        *,
        num_levels: Rungs = 50,
        num_steps: Rungs = 1000,
        beta_min: Annotated[float, Field(gt=0, lt=1)] = 1e-4,
        beta_max: Annotated[float, Field(gt=0, lt=1)] = 0.02,
    ) -> None:
        if beta_min > beta_max:
            raise ValueError(f"beta_min={beta_min:g} must not exceed beta_max={beta_max:g}: exchange or move them")
        beta = torch.linspace(beta_min, beta_max, num_steps, dtype=torch.float64)
        super().__init__(_noise_to_signal((1 - beta).cumprod(0), num_levels))


class DDPMCosine(Schedule):
    r"""The noise-to-signal ratios of the cosine chain, $\bar\alpha_t \propto \cos^2(\frac{t/T + s}{1 + s} \frac\pi2)$.

    β is clipped at .999, as in the source; of the steps, `num_levels` evenly spaced ones are kept.

    Source: Improved Denoising Diffusion Probabilistic Models, Nichol & Dhariwal, 2021, eq. 17.
    """

    @strict
    def __init__(self, *, num_levels: Rungs = 50, num_steps: Rungs = 1000, offset: Positive = 0.008) -> None:
        t = torch.linspace(0.0, 1.0, num_steps + 1, dtype=torch.float64)
        signal = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
        beta = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
        super().__init__(_noise_to_signal((1 - beta).cumprod(0), num_levels))


def _noise_to_signal(signal: Float[Tensor, "steps"], num_levels: int) -> Float[Tensor, "levels"]:
    """Ratios √((1 − ᾱ)/ᾱ) of `num_levels` evenly spaced steps, largest first."""
    if num_levels > len(signal):
        raise ValueError(f"num_levels={num_levels} exceeds num_steps={len(signal)}: lower it or raise num_steps")
    kept = (_fractions(num_levels) * (len(signal) - 1)).round().long().flip(0)
    return ((1 - signal[kept]) / signal[kept]).sqrt()


class Single(Schedule):
    """One level only, which fails: a small σ trains nothing far from the data, a large σ blurs all detail."""

    @strict
    def __init__(self, *, sigma: Positive = 0.1) -> None:
        super().__init__(torch.tensor([sigma]))


class Levels(nn.Module, ABC):
    """A training density of σ, given by its quantile function.

    Args:
        groups: how many levels are drawn for a batch; each serves an equal share of its rows. None draws one a row.
        stratified: draw one level from each 1/n quantile instead of n independent ones. Then every batch covers the
            whole range, and the gradient is less noisy.
    """

    def __init__(self, *, groups: int | None, stratified: bool) -> None:
        super().__init__()
        self.groups = groups
        self.stratified = stratified

    __repr__ = described

    @abstractmethod
    def quantile(self, u: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The level below which a share `u` of the density lies; on a ladder shares are counted from its top.

        Args:
            u: shares in [0, 1).
        """

    @abstractmethod
    def density(self, sigma: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"] | None:
        """The density of ln σ at `sigma` (data units); None where the levels are discrete."""

    def sample(self, *shape: int, generator: torch.Generator | None = None) -> Float[Tensor, "*shape"]:
        """Draw levels of the given shape in float32; stratified along the last dimension."""
        u = torch.rand(*shape, generator=generator)
        if self.stratified:
            u = (torch.arange(shape[-1]) + u) / shape[-1]
        return self.quantile(u.clamp(max=1 - 2**-24))


class Ladder(Levels):
    """The schedule's own levels, each equally likely (the primer's choice)."""

    sigmas: Tensor

    @strict
    def __init__(self, *, schedule: Schedule, groups: Count | None = None, stratified: bool = False) -> None:
        super().__init__(groups=groups, stratified=stratified)
        self.register_buffer("sigmas", schedule.sigmas)

    def quantile(self, u: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The ladder's level number ⌊u L⌋, counted from 0 at the top."""
        return self.sigmas[(u * len(self.sigmas)).long()]

    def density(self, sigma: Float[Tensor, "*batch"]) -> None:
        """None, for a ladder's levels are discrete."""
        return None


class LogUniform(Levels):
    r"""ln σ of density $\propto \sigma^{-\tau}$ over the schedule's range: uniform for τ = 0.

    With τ = 0 and λ = σ², levels count as they do in the likelihood of this process. A tilt τ > 0 gives more rows to
    low levels, where targets are noisiest and relative errors largest.

    Args:
        tilt: τ, dimensionless.
    """

    log_range: Tensor

    @strict
    def __init__(
        self, *, schedule: Schedule, tilt: Finite = 0.0, groups: Count | None = None, stratified: bool = False
    ) -> None:
        super().__init__(groups=groups, stratified=stratified)
        _check_range(schedule)
        self.register_buffer("log_range", schedule.sigmas[[-1, 0]].log())
        self.tilt = tilt

    def quantile(self, u: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """σ at the share `u`, by the inverse of the distribution function of ln σ."""
        low, high = self.log_range
        if self.tilt:
            u = (u * torch.expm1(-self.tilt * (high - low))).log1p() / (-self.tilt * (high - low))
        return (low + u * (high - low)).exp()

    def density(self, sigma: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The normalised density of ln σ at `sigma` (data units); 0 outside the schedule's range."""
        low, high = self.log_range
        above = sigma.log() - low
        inside = (above >= 0) & (above <= high - low)
        if not self.tilt:
            return inside.to(sigma.dtype) / (high - low)
        mass = -torch.expm1(-self.tilt * (high - low)) / self.tilt
        return inside * (-self.tilt * above).exp() / mass


class LogNormal(Levels):
    r"""ln σ normal with mean $\ln\sigma_d$ + `p_mean` and deviation `p_std`, cut to the schedule's range.

    The cut keeps training inside the range that sampling visits. The defaults are those of EDM2, whose two-dimensional
    toy example has `p_mean=-1.607` and `p_std=1.5`.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022, table 1; Analyzing
    and Improving the Training Dynamics of Diffusion Models, Karras et al., 2024.
    """

    center: Tensor
    spread: Tensor
    ends: Tensor

    @strict
    def __init__(
        self,
        *,
        schedule: Schedule,
        sigma_data: Positive,
        p_mean: Finite = 0.293,
        p_std: Positive = 1.0,
        groups: Count | None = None,
        stratified: bool = False,
    ) -> None:
        super().__init__(groups=groups, stratified=stratified)
        _check_range(schedule)
        self.register_buffer("center", torch.tensor(math.log(sigma_data) + p_mean, dtype=torch.float64))
        self.register_buffer("spread", torch.tensor(p_std, dtype=torch.float64))
        ends = (schedule.sigmas[[-1, 0]].double().log() - self.center) / self.spread
        self.register_buffer("ends", torch.special.ndtr(ends))
        if not self.ends.diff() > 1e-6:
            raise ValueError(
                f"p_mean={p_mean:g}, p_std={p_std:g}: no mass in the schedule's range; move p_mean towards it"
            )

    def quantile(self, u: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """σ at the share `u`, by the normal quantile; computed in float64, returned in the dtype of `u`."""
        low, high = self.ends
        z = torch.special.ndtri(low + u.double() * (high - low))
        return (self.center + self.spread * z).exp().to(u.dtype)

    def density(self, sigma: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The normalised density of ln σ at `sigma` (data units); 0 outside the schedule's range."""
        z = (sigma.double().log() - self.center) / self.spread
        low, high = torch.special.ndtri(self.ends)
        normal = (-z.square() / 2).exp() / (math.sqrt(2 * math.pi) * self.spread * self.ends.diff())
        return (normal * ((z >= low) & (z <= high))).to(sigma.dtype)


def _check_range(schedule: Schedule) -> None:
    if len(schedule.sigmas) < 2:
        raise ValueError("a continuous density needs a range: give a schedule of two levels or more, or levels=ladder")


def broken_guidelines(schedule: Schedule, target: Distribution) -> list[str]:
    """The primer's guidelines that a ladder breaks on a target, each with its remedy; empty where all hold."""
    top, bottom, length = float(schedule.sigmas[0]), float(schedule.sigmas[-1]), len(schedule.sigmas)
    broken = []
    if top < target.extent / 2:
        broken.append(
            f"σ_max={top:g} is below half the data diameter {target.extent:.3g}: modes may keep wrong weights; "
            f"raise schedule.sigma_max towards {target.extent:.3g} (or auto)"
        )
    if bottom > target.scale / 10 * (1 + 1e-4):  # a ladder rounds its levels
        broken.append(
            f"σ_min={bottom:g} is above a tenth of the smallest scale {target.scale:.3g}: samples stay blurred; "
            f"lower schedule.sigma_min to {target.scale / 10:.3g} (or auto)"
        )
    if not 10 <= length <= 1000:
        broken.append(f"L={length} lies outside 10 … 1000: set schedule.num_levels inside")
    return broken
