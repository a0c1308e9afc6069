r"""Backbones $F(x, \sigma)$ and embeddings of σ. They know nothing about scores.

Every network embeds σ at σ's own shape and broadcasts afterwards: it computes one embedding for a scalar (sampling),
one for each group of rows (training), and never more than one a row. A first layer on the concatenation [x, emb(σ)] is
therefore written as the sum of two products, which is the same linear map.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ..core.validation import Column, Count, Positive, Sigma, Vectors, strict

NEGLIGIBLE = -30.0
"""Exponents are clamped here, for exp of less gives denormal numbers, which slow all arithmetic with them."""

Widths = Annotated[list[Count], Field(min_length=1)]
EvenWidth = Annotated[int, Field(ge=4, multiple_of=2)]


class Embedding(nn.Module, ABC):
    """Features of a noise level, as a network sees it.

    Attributes:
        dim: how many features a level has.
    """

    dim: int

    @abstractmethod
    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma dim"]:
        """The features of each level; `sigma` in data units."""


class SinusoidalEmbedding(Embedding):
    r"""The primer's embedding: $\sin(\omega_k \sigma), \cos(\omega_k \sigma)$ of the raw σ, ω from 1 to 1/10000.

    It hardly tells small levels apart: emb(.01) and emb(.02) differ by less than .02. It is kept as an ablation.
    """

    omega: Tensor

    @strict
    def __init__(self, *, dim: EvenWidth = 64) -> None:
        super().__init__()
        self.dim = dim
        half = dim // 2
        self.register_buffer("omega", torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1))))

    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma dim"]:
        """sin(ω σ) for every ω, then cos(ω σ)."""
        phase = sigma.unsqueeze(-1) * self.omega
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class FourierEmbedding(Embedding):
    r"""Random Fourier features of $\ln\sigma / 4$: $\sqrt2 \cos(2\pi(f_k \ln\sigma / 4 + \phi_k))$.

    Source: Analyzing and Improving the Training Dynamics of Diffusion Models, Karras et al., 2024, appendix B.
    """

    frequency: Tensor
    phase: Tensor

    @strict
    def __init__(self, *, dim: Count = 64, bandwidth: Positive = 1.0) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("frequency", 2 * math.pi * bandwidth * torch.randn(dim))
        self.register_buffer("phase", 2 * math.pi * torch.rand(dim))

    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma dim"]:
        """√2 cos(2π (f ln σ / 4 + φ)) for every frequency f and phase φ."""
        return math.sqrt(2) * torch.cos(sigma.log().unsqueeze(-1) / 4 * self.frequency + self.phase)


def _silu(x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
    """SiLU, computed in place where no gradient needs the input, for sampling is bound by memory traffic."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class Network(nn.Module, ABC):
    """A backbone from points and noise levels to two numbers a point."""

    @abstractmethod
    def forward(self, x: Vectors, sigma: Sigma, scale: Column | float = 1.0) -> Vectors:
        """F at noisy points.

        Args:
            x: points, in data units times `scale`.
            sigma: their levels, in data units; the noise in `x` therefore has the deviation scale · σ.
            scale: the factor by which the caller multiplied points in data units.
        """


class MLP(Network):
    """The primer's network: a SiLU perceptron on [x, MLP(emb(σ))], its output initialised at zero.

    Args:
        embedding: features of σ.
        hidden_dims: widths of the hidden layers.
    """

    @strict
    def __init__(self, *, embedding: Embedding, hidden_dims: Widths) -> None:
        super().__init__()
        width = embedding.dim
        self.embed = nn.Sequential(embedding, nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Linear(2 + width, hidden_dims[0])
        self.hidden = nn.ModuleList(map(nn.Linear, hidden_dims, hidden_dims[1:]))
        self.last = nn.Linear(hidden_dims[-1], 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Vectors, sigma: Sigma, scale: Column | float = 1.0) -> Vectors:
        """The perceptron on [x, MLP(emb(σ))]; `scale` is ignored."""
        of_x, of_level = self.first.weight.split([2, self.first.in_features - 2], dim=1)
        level = F.linear(self.embed(sigma), of_level, self.first.bias)
        h = F.linear(x, of_x, level) if level.dim() == 1 else F.linear(x, of_x) + level
        batch = h.shape[:-1]
        h = _silu(h.reshape(-1, h.shape[-1]))  # once here, where else every layer would flatten the batch
        for layer in self.hidden:
            h = _silu(layer(h))
        return self.last(h).view(*batch, 2)


class FiLM(Network):
    r"""A perceptron on Fourier features of x, every layer scaled and shifted by functions of σ.

    $$h_{k+1} = \mathrm{silu}\bigl((W_k h_k + b_k)(1 + \gamma_k(\sigma)) + \beta_k(\sigma)\bigr), \qquad
    h_0 = [x, w \cos\omega x, w \sin\omega x], \qquad w = e^{-\|\omega\|^2 \varsigma^2 / 2}$$

    γ, β and the output start at zero. The frequencies are ω = f n with n ~ N(0, I) and magnitudes f spread evenly in ln
    f, so that one network sees a board's cells and a tree's twigs. The weight w is what the noise in x, of deviation ς,
    leaves of a wave on average, just as it smooths p_σ. Without it the finest waves, which the lowest levels need,
    would roughen the score at all other levels, and its divergence most of all. Sources: FiLM: Visual Reasoning with a
    General Conditioning Layer, Perez et al., 2018; Fourier Features Let Networks Learn High Frequency Functions in Low
    Dimensional Domains, Tancik et al., 2020; Mip-NeRF: A Multiscale Representation for Anti-Aliasing Neural Radiance
    Fields, Barron et al., 2021 (integrated positional encoding).

    Args:
        embedding: features of σ.
        hidden_dims: widths of the hidden layers.
        num_frequencies: random frequencies ω of x.
        frequency_min, frequency_max: ends of the magnitudes f, in cycles per unit of the network's input.
    """

    omega: Tensor

    @strict
    def __init__(
        self,
        *,
        embedding: Embedding,
        hidden_dims: Widths,
        num_frequencies: Count = 96,
        frequency_min: Positive = 0.25,
        frequency_max: Positive = 24.0,
    ) -> None:
        super().__init__()
        if frequency_min > frequency_max:
            raise ValueError(f"frequency_min={frequency_min}: above frequency_max={frequency_max}; exchange them")
        magnitudes = torch.linspace(math.log(frequency_min), math.log(frequency_max), num_frequencies).exp()
        self.register_buffer("omega", 2 * math.pi * magnitudes.unsqueeze(-1) * torch.randn(num_frequencies, 2))
        self.embed = nn.Sequential(embedding, nn.Linear(embedding.dim, embedding.dim), nn.SiLU())
        self.layers = nn.ModuleList(map(nn.Linear, [2 + 2 * num_frequencies, *hidden_dims], hidden_dims))
        self.film = nn.Linear(embedding.dim, 2 * sum(hidden_dims))
        self.last = nn.Linear(hidden_dims[-1], 2)
        for layer in (self.film, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Vectors, sigma: Sigma, scale: Column | float = 1.0) -> Vectors:
        """The perceptron on x and its Fourier features, those averaged over the noise of deviation scale · σ."""
        film = self.film(self.embed(sigma)).split([layer.out_features for layer in self.layers for _ in range(2)], -1)
        phase = F.linear(x, self.omega)
        exponent = -(scale * sigma.unsqueeze(-1)).square() * self.omega.square().sum(-1) / 2
        left = exponent.clamp(min=NEGLIGIBLE).exp()
        h = torch.cat([x, left * phase.cos(), left * phase.sin()], dim=-1)
        for layer, gamma, beta in zip(self.layers, film[::2], film[1::2], strict=True):
            h = _silu(torch.addcmul(beta, layer(h), 1 + gamma))
        return self.last(h)
