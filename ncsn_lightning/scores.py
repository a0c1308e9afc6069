r"""Parametrisations: how a backbone F becomes a score $s_\theta(x, \sigma) \approx \nabla_x \log p_\sigma(x)$.

Anything with the call signature of `Score` serves a sampler or a metric: a trained network or a target's exact score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .arguments import Positive, column, strict
from .networks import Network


@runtime_checkable
class Score(Protocol):
    """A score as samplers, objectives and metrics call it; its values are in 1 / data units."""

    def __call__(
        self, x: Float[Tensor, "*batch 2"], sigma: Float[Tensor, "*#batch"] | float, /
    ) -> Float[Tensor, "*batch 2"]: ...


class ScoreModel(nn.Module, ABC):
    """A trainable score.

    Args:
        network: the backbone F.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, x: Float[Tensor, "*batch 2"], sigma: Float[Tensor, "*#batch"] | float
    ) -> Float[Tensor, "*batch 2"]:
        """The score at `x`; `sigma` in data units, of any shape that broadcasts."""
        return self.score(x, column(sigma, x))

    @abstractmethod
    def score(self, x: Float[Tensor, "*batch 2"], sigma: Float[Tensor, "*#batch 1"]) -> Float[Tensor, "*batch 2"]:
        """The parametrisation, with σ shaped as a column."""


class Raw(ScoreModel):
    r"""The primer's: $s = F(x, \sigma)$."""

    @strict
    def __init__(self, *, network: Network) -> None:
        super().__init__(network)

    def score(self, x: Float[Tensor, "*batch 2"], sigma: Float[Tensor, "*#batch 1"]) -> Float[Tensor, "*batch 2"]:
        return self.network(x, sigma.squeeze(-1))


class Scaled(ScoreModel):
    r"""$s = F(x, \sigma) / \sigma$: the network's output keeps one size at every level."""

    @strict
    def __init__(self, *, network: Network) -> None:
        super().__init__(network)

    def score(self, x: Float[Tensor, "*batch 2"], sigma: Float[Tensor, "*#batch 1"]) -> Float[Tensor, "*batch 2"]:
        return self.network(x, sigma.squeeze(-1)) / sigma


class Unconditional(ScoreModel):
    r"""$s = F(x) / \sigma$: an ablation, wrong in two dimensions (on eight Gaussians by 18 % at best).

    Source: Improved Techniques for Training Score-Based Generative Models, Song & Ermon, 2020, Technique 3.
    """

    @strict
    def __init__(self, *, network: Network) -> None:
        super().__init__(network)

    def score(self, x: Float[Tensor, "*batch 2"], sigma: Float[Tensor, "*#batch 1"]) -> Float[Tensor, "*batch 2"]:
        return self.network(x, torch.ones_like(sigma[..., 0])) / sigma


class Preconditioned(ScoreModel):
    r"""A preconditioned denoiser: input, output and target of F have unit variance at every level.

    $$D = c_{skip} x + c_{out} F(c_{in} x, \sigma), \qquad s = (D - x) / \sigma^2
        = -\frac{x}{\sigma^2 + \sigma_d^2} + \frac{\sigma_d}{\sigma\sqrt{\sigma^2 + \sigma_d^2}} F(c_{in} x, \sigma)$$

    with $c_{in} = 1/\sqrt{\sigma^2 + \sigma_d^2}$. Source: Elucidating the Design Space of Diffusion-Based Generative
    Models, Karras et al., 2022, table 1. The second form has no difference of nearly equal numbers.

    Args:
        network: the backbone F.
        sigma_data: σ_d, standard deviation of the data per dimension, in data units.
    """

    sigma_data: Tensor

    @strict
    def __init__(self, *, network: Network, sigma_data: Positive) -> None:
        super().__init__(network)
        self.register_buffer("sigma_data", torch.tensor(sigma_data))

    def score(self, x: Float[Tensor, "*batch 2"], sigma: Float[Tensor, "*#batch 1"]) -> Float[Tensor, "*batch 2"]:
        c_in = (sigma.square() + self.sigma_data.square()).rsqrt()
        scaled = c_in * x
        return c_in * (self.sigma_data / sigma * self.network(scaled, sigma.squeeze(-1)) - scaled)


class Energy(ScoreModel):
    r"""A conservative score, $s = -\nabla_x E$, of an energy built from the same backbone.

    $$E(x, \sigma) = \frac{\|x\|^2}{2(\sigma^2 + \sigma_d^2)} - \frac{\sigma_d}{\sigma}\langle u, F(u, \sigma)\rangle,
        \qquad u = x / \sqrt{\sigma^2 + \sigma_d^2}$$

    so that F = 0 is a Gaussian fit and F's gradient enters with the scale of the Karras parametrisation. Source: Should
    EBMs Model the Energy or the Score?, Salimans & Ho, 2021 (the idea of an energy from a vector-valued backbone).

    Args:
        network: the backbone F.
        sigma_data: σ_d, standard deviation of the data per dimension, in data units.
    """

    sigma_data: Tensor

    @strict
    def __init__(self, *, network: Network, sigma_data: Positive) -> None:
        super().__init__(network)
        self.register_buffer("sigma_data", torch.tensor(sigma_data))

    def energy(self, x: Float[Tensor, "*batch 2"], sigma: Float[Tensor, "*#batch"] | float) -> Float[Tensor, "*batch"]:
        """E(x, σ) in nats: −log p_σ(x) up to a constant for each σ."""
        return self._energy(x, column(sigma, x))

    def _energy(self, x: Float[Tensor, "*batch 2"], sigma: Float[Tensor, "*#batch 1"]) -> Float[Tensor, "*batch"]:
        u = x * (sigma.square() + self.sigma_data.square()).rsqrt()
        inner = self.sigma_data / sigma * self.network(u, sigma.squeeze(-1))
        return (u * (u / 2 - inner)).sum(-1)

    def score(self, x: Float[Tensor, "*batch 2"], sigma: Float[Tensor, "*#batch 1"]) -> Float[Tensor, "*batch 2"]:
        # torch.func composes with vmap, and differentiates once more in training.
        return torch.func.grad(lambda points: -self._energy(points, sigma).sum())(x)
