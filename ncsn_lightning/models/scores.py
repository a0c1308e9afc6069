r"""Parametrisations: how a backbone F becomes a score $s_\theta(x, \sigma) \approx \nabla_x \log p_\sigma(x)$.

Samplers and metrics take anything with the call signature of `Score`: a trained network or a target's exact score. Some
scores are the gradient of a log-density that they can evaluate too (`Density`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from ..core.validation import Column, NonNegative, Positive, Sigma, Vectors, column, strict
from ..distributions.base import Distribution
from .networks import Network

ROWS = 4096
"""Points that a network evaluates at once on a CPU without gradients. With more, every layer returns its memory to the
system, and getting it back costs as much as the layer itself."""


@runtime_checkable
class Score(Protocol):
    """A score as samplers, objectives and metrics call it."""

    def __call__(self, x: Vectors, sigma: Sigma | float, /) -> Vectors:
        """∇ₓ log p_σ(x) in 1 / data units; `x` and `sigma` in data units."""
        ...


@runtime_checkable
class Density(Score, Protocol):
    """A score that can also evaluate the log-density of which it is the gradient."""

    def log_density(self, x: Vectors, sigma: Sigma | float, /) -> Float[Tensor, "*batch"]:
        """log p_σ(x) in nats, up to a constant for each σ."""
        ...


@dataclass(frozen=True)
class ExactScore:
    """A target's exact score and log-density as a `Density`; where a `Score` is enough, pass `target.score`.

    Args:
        distribution: the target.
    """

    distribution: Distribution

    def __call__(self, x: Vectors, sigma: Sigma | float) -> Vectors:
        """The target's exact score, in 1 / data units."""
        return self.distribution.score(x, sigma)

    def log_density(self, x: Vectors, sigma: Sigma | float) -> Float[Tensor, "*batch"]:
        """The target's exact log p_σ(x) in nats, normalised."""
        return self.distribution.log_prob(x, sigma)


class Uncentred(nn.Module):
    """A score that was trained on centred points, made to take points in the data's own coordinates.

    Args:
        score: takes centred points, in the dtype of its weights.
        center: what is subtracted from points, in data units.
    """

    center: Tensor

    def __init__(self, score: Score, center: Float64[Tensor, "2"]) -> None:
        super().__init__()
        self.score = score
        self.register_buffer("center", center, persistent=False)

    def forward(self, x: Vectors, sigma: Sigma | float) -> Vectors:
        """The wrapped score at `x` minus the centre, in the dtype of `x`."""
        return self.score(self._centred(x), sigma).to(x.dtype)

    def _centred(self, x: Vectors) -> Vectors:
        """Points minus the centre, rounded only then to the dtype of the score's weights."""
        weight = next(self.parameters(), None)
        return (x.double() - self.center).to(torch.float32 if weight is None else weight.dtype)


class UncentredDensity(Uncentred):
    """An `Uncentred` score that can also evaluate its log-density."""

    score: Density

    def log_density(self, x: Vectors, sigma: Sigma | float) -> Float[Tensor, "*batch"]:
        """The wrapped log-density at `x` minus the centre, in the dtype of `x`."""
        return self.score.log_density(self._centred(x), sigma).to(x.dtype)


def uncentred(score: Score, target: Distribution) -> Score:
    """Make a score that was trained on `target.centred()` take points in the data's own coordinates.

    Where the target is its own centred version, the score is returned as it is.
    """
    if target.centred() is target:
        return score
    return (UncentredDensity if isinstance(score, Density) else Uncentred)(score, target.uncentred.mean)


def jacobian(
    score: Score, x: Float[Tensor, "n 2"], sigma: Float[Tensor, ""] | float
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2 2"]]:
    """A score and its exact derivatives ∂s_i/∂x_j, by two backward passes.

    Returns:
        the score, in 1 / data units; the derivatives `[n, i, j]`, in 1 / data units².
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = score(x, sigma)
        first, second = values.unbind(-1)
        rows = [
            torch.autograd.grad(first.sum(), x, retain_graph=True)[0],
            torch.autograd.grad(second.sum(), x)[0],
        ]
    return values.detach(), torch.stack(rows, dim=1)


class ScoreModel(nn.Module, ABC):
    """A trainable score.

    Args:
        network: the backbone F.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Vectors, sigma: Sigma | float) -> Vectors:
        """The score at `x`, in 1 / data units; without gradients on a CPU, `ROWS` points at a time."""
        level = column(sigma, x)
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.dim() != 2 or len(x) <= ROWS:
            return self.score(x, level)
        parts = x.chunk(-(-len(x) // ROWS))
        levels = level.chunk(len(parts)) if len(level) > 1 else len(parts) * [level]
        return torch.cat([self.score(*pair) for pair in zip(parts, levels, strict=True)])

    @abstractmethod
    def score(self, x: Vectors, sigma: Column) -> Vectors:
        """The parametrisation: the score in 1 / data units, for σ with one axis more than the batch."""


class Raw(ScoreModel):
    r"""The primer's parametrisation: $s = F(x, \sigma)$."""

    @strict
    def __init__(self, *, network: Network) -> None:
        super().__init__(network)

    def score(self, x: Vectors, sigma: Column) -> Vectors:
        """F(x, σ)."""
        return self.network(x, sigma.squeeze(-1))


class Scaled(ScoreModel):
    r"""$s = F(x, \sigma) / \sigma$: the network's output keeps one size at every level."""

    @strict
    def __init__(self, *, network: Network) -> None:
        super().__init__(network)

    def score(self, x: Vectors, sigma: Column) -> Vectors:
        """F(x, σ) / σ."""
        return self.network(x, sigma.squeeze(-1)) / sigma


class Unconditional(ScoreModel):
    r"""$s = F(x) / \sigma$, an ablation: in two dimensions x does not tell σ (at best 18 % off on eight Gaussians).

    Source: Improved Techniques for Training Score-Based Generative Models, Song & Ermon, 2020, Technique 3.
    """

    @strict
    def __init__(self, *, network: Network) -> None:
        super().__init__(network)

    def score(self, x: Vectors, sigma: Column) -> Vectors:
        """F(x) / σ: the network is told σ = 1 and a noise of deviation 0 at every level."""
        return self.network(x, torch.ones_like(sigma[..., 0]), scale=0.0) / sigma


class _UnitVariance(ScoreModel):
    r"""A backbone whose input, output and target have unit variance at every level.

    A target that already carries noise of standard deviation τ is $q * \mathcal N(0, \tau^2 I)$, so its $p_\sigma$ is q
    smoothed at the level $\tilde\sigma = \sqrt{\sigma^2 + \tau^2}$, and q's standard deviation is $\sigma_q =
    \sqrt{\sigma_d^2 - \tau^2}$. The backbone is preconditioned for q. Where σ ≪ τ the score hardly depends on σ, and
    neither does the backbone's input, so what it learns at σ ≈ τ holds for all lower levels. At τ = 0 this is the
    paper's preconditioning. Source: Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al.,
    2022, table 1 (the preconditioning; the shift by τ is ours).

    Args:
        network: the backbone F.
        sigma_data: σ_d, standard deviation of the data per dimension, in data units.
        blur: τ, in data units, at most σ_d; 0 for a target with hard edges or of unknown smoothness.
    """

    sigma_data: Tensor
    blur: Tensor

    @strict
    def __init__(self, *, network: Network, sigma_data: Positive, blur: NonNegative = 0.0) -> None:
        super().__init__(network)
        if blur > sigma_data:
            raise ValueError(f"blur={blur}: above the data's standard deviation, sigma_data={sigma_data}; lower it")
        self.register_buffer("sigma_data", torch.tensor(sigma_data))
        self.register_buffer("blur", torch.tensor(blur))

    def _parts(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""$c_{in}$, $u = c_{in} x$ and $\sigma_q / \tilde\sigma \, F(u, \tilde\sigma)$, for σ `[*batch, 1]`."""
        c_in = (sigma.square() + self.sigma_data.square()).rsqrt()
        level = (sigma.square() + self.blur.square()).sqrt()
        u = c_in * x
        sigma_q = (self.sigma_data.square() - self.blur.square()).sqrt()
        return c_in, u, sigma_q / level * self.network(u, level.squeeze(-1), c_in)


class Preconditioned(_UnitVariance):
    r"""A preconditioned denoiser, with $D = c_{skip} x + c_{out} F(c_{in} x, \tilde\sigma)$.

    $$s = (D - x) / \sigma^2 = c_{in} \Bigl(\frac{\sigma_q}{\tilde\sigma} F(u, \tilde\sigma) - u\Bigr), \qquad
    u = c_{in} x, \quad c_{in} = 1 / \sqrt{\sigma^2 + \sigma_d^2}$$

    The second form takes no difference of nearly equal numbers.
    """

    def score(self, x: Vectors, sigma: Column) -> Vectors:
        """c_in (σ_q / σ̃ F(u, σ̃) − u)."""
        c_in, u, inner = self._parts(x, sigma)
        return c_in * (inner - u)


class Energy(_UnitVariance):
    r"""A conservative score, $s = -\nabla_x E$, of an energy built from the same backbone.

    $$E(x, \sigma) = \tfrac12\|u\|^2 - \frac{\sigma_q}{\tilde\sigma}\langle u, F(u, \tilde\sigma)\rangle, \qquad
    u = x / \sqrt{\sigma^2 + \sigma_d^2}$$

    so that F = 0 is the Gaussian fit, and F's gradient has the scale that F has in `Preconditioned`. Source: Should
    EBMs Model the Energy or the Score?, Salimans & Ho, 2021 (the idea of an energy from a vector-valued backbone).
    """

    def energy(self, x: Vectors, sigma: Sigma | float) -> Float[Tensor, "*batch"]:
        """E(x, σ) in nats: −log p_σ(x) up to a constant for each σ."""
        return self._energy(x, column(sigma, x))

    def log_density(self, x: Vectors, sigma: Sigma | float) -> Float[Tensor, "*batch"]:
        """−E(x, σ) in nats, up to a constant for each σ."""
        return -self.energy(x, sigma)

    def _energy(self, x: Vectors, sigma: Column) -> Float[Tensor, "*batch"]:
        _, u, inner = self._parts(x, sigma)
        return (u * (u / 2 - inner)).sum(-1)

    def score(self, x: Vectors, sigma: Column) -> Vectors:
        """−∇ₓ E; `torch.func` composes with vmap, and training can differentiate through it once more."""
        return torch.func.grad(lambda points: -self._energy(points, sigma).sum())(x)
