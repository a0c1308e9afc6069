r"""How much each noise level counts in the loss $\mathbb E[\lambda(\sigma)\, e]$, $e$ the squared error of a row.

The effective weight of a level is λ(σ) times the density at which training draws it (`schedules.Levels`), which is
chosen separately.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.validation import Count, Finite, Positive, described, strict
from ..models.networks import FourierEmbedding


class Weighting(nn.Module, ABC):
    """How much a level counts: λ(σ), and a penalty where λ is learned, both of the shape of σ."""

    __repr__ = described

    @abstractmethod
    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        """λ(σ) for every level; `sigma` in data units."""

    def penalty(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        """What is added to the weighted loss of a row, in nats: 0 for every fixed λ."""
        return torch.zeros_like(sigma)


class SigmaPower(Weighting):
    r"""$\lambda = \sigma^p$: uniform at p = 0; the inverse variance of the target, free of scale, at p = 2.

    Source: Generative Modeling by Estimating Gradients of the Data Distribution, Song & Ermon, 2019, §4.2.
    """

    power: Tensor

    @strict
    def __init__(self, *, power: Finite = 2.0) -> None:
        super().__init__()
        self.register_buffer("power", torch.tensor(float(power)))

    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        """σ^p."""
        return sigma**self.power


class EDM(Weighting):
    r"""$\lambda = \sigma^2 (\sigma^2 + \sigma_d^2) / \sigma_d^2$: a preconditioned loss starts equal at all levels.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022, table 1.
    """

    sigma_data: Tensor

    @strict
    def __init__(self, *, sigma_data: Positive) -> None:
        super().__init__()
        self.register_buffer("sigma_data", torch.tensor(float(sigma_data)))

    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        """σ² (1 + σ² / σ_d²)."""
        return sigma.square() * (1 + (sigma / self.sigma_data).square())


class MinSNR(Weighting):
    r"""$\lambda = \sigma^2 \min(\mathrm{SNR}, \gamma) / \mathrm{SNR}$ with $\mathrm{SNR} = \sigma_d^2 / \sigma^2$.

    Source: Efficient Diffusion Training via Min-SNR Weighting Strategy, Hang et al., 2023, §3.4 (noise prediction).
    """

    sigma_data: Tensor
    gamma: Tensor

    @strict
    def __init__(self, *, sigma_data: Positive, gamma: Positive = 5.0) -> None:
        super().__init__()
        self.register_buffer("sigma_data", torch.tensor(float(sigma_data)))
        self.register_buffer("gamma", torch.tensor(float(gamma)))

    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        """min(σ², γ σ⁴ / σ_d²), the same without a division by σ."""
        return torch.minimum(sigma.square(), self.gamma * sigma**4 / self.sigma_data.square())


class Learned(Weighting):
    r"""$\lambda = \sigma^2 e^{-u(\sigma)}$ with penalty $D\,u(\sigma)$; its optimum is $u^* = \ln E[\sigma^2 e / D]$.

    u is linear in Fourier features of ln σ / 4 and starts at 0; its optimum is the log of the error per dimension. u
    serves the training alone: it has no weight decay and no average, and is discarded afterwards. Source: Analyzing and
    Improving the Training Dynamics of Diffusion Models, Karras et al., 2024, eq. 21.

    Args:
        num_features: Fourier features of ln σ / 4.
        dim: D, the dimension of the data.
    """

    @strict
    def __init__(self, *, num_features: Count = 64, dim: Count = 2) -> None:
        super().__init__()
        self.dim = dim
        self.features = FourierEmbedding(dim=num_features)
        self.readout = nn.Linear(num_features, 1)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def u(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        """u(σ), the learned log of the expected error σ²e / D, in nats."""
        return self.readout(self.features(sigma)).squeeze(-1)

    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        """σ² e^(−u(σ))."""
        return sigma.square() * torch.exp(-self.u(sigma))

    def penalty(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        """D u(σ), in nats, which keeps u from growing without bound."""
        return self.dim * self.u(sigma)
