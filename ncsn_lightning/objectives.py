r"""What a score is fitted to, and how much each noise level counts.

An *objective* regresses $s_\theta(\tilde x, \sigma)$, $\tilde x = x + \sigma z$, on a field whose conditional mean is
the score; objectives differ in that field's noise alone. With $e = \|s_\theta - target\|^2$ (summed over
dimensions, no ½) a *weighting* makes it the loss $\mathbb E[\lambda(\sigma) e]$ plus a penalty where λ is learned.

Denoising score matching is the Fisher error plus a constant no network can undercut,
$\mathrm{DSM}(\sigma) = \mathbb E\|s_\theta - s\|^2 + D/\sigma^2 - \mathbb E\|s\|^2$.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .arguments import Count, Finite, Positive, column, strict
from .distributions import Distribution
from .networks import FourierEmbedding
from .scores import Score


class Objective(nn.Module, ABC):
    """A regression target for the score.

    Attributes:
        num_references: how many further points of the data a batch must bring along.
    """

    num_references: int = 0

    @abstractmethod
    def target(
        self,
        x: Float[Tensor, "*batch 2"],
        sigma: Float[Tensor, "*#batch"],
        noise: Float[Tensor, "*batch 2"],
        references: Float[Tensor, "references 2"],
    ) -> Float[Tensor, "*batch 2"]:
        """The field on which the score at `x + sigma * noise` is regressed, in 1 / data units."""

    def forward(
        self,
        score: Score,
        x: Float[Tensor, "*batch 2"],
        sigma: Float[Tensor, "*#batch"],
        noise: Float[Tensor, "*batch 2"],
        references: Float[Tensor, "references 2"],
    ) -> Float[Tensor, "*batch"]:
        """Squared error of every row, unweighted and unreduced."""
        with torch.no_grad():
            target = self.target(x, sigma, noise, references)
        return (score(x + column(sigma, x) * noise, sigma) - target).square().sum(-1)


class Denoising(Objective):
    r"""Denoising score matching: the target is $-z / \sigma$.

    Source: A Connection Between Score Matching and Denoising Autoencoders, Vincent, 2011, eq. 11; Generative Modeling
    by Estimating Gradients of the Data Distribution, Song & Ermon, 2019, eq. 5.
    """

    def target(
        self,
        x: Float[Tensor, "*batch 2"],
        sigma: Float[Tensor, "*#batch"],
        noise: Float[Tensor, "*batch 2"],
        references: Float[Tensor, "references 2"],
    ) -> Float[Tensor, "*batch 2"]:
        return -noise / column(sigma, x)


class StableTarget(Objective):
    r"""The posterior mean over reference points: the same expectation with far less variance.

    $$\mathrm{target} = \frac{1}{\sigma^2}\Bigl(\sum_j w_j r_j - \tilde x\Bigr), \qquad
    w_j \propto \exp\bigl(-\|\tilde x - r_j\|^2 / 2\sigma^2\bigr)$$

    over the row's own x and `num_references` fresh points of the data. Source: Stable Target Field for Reduced Variance
    Score Estimation in Diffusion Models, Xu, Tong & Jaakkola, 2023, eq. 6.
    """

    @strict
    def __init__(self, *, num_references: Count = 1024) -> None:
        super().__init__()
        self.num_references = num_references

    def target(
        self,
        x: Float[Tensor, "*batch 2"],
        sigma: Float[Tensor, "*#batch"],
        noise: Float[Tensor, "*batch 2"],
        references: Float[Tensor, "references 2"],
    ) -> Float[Tensor, "*batch 2"]:
        scale = column(sigma, x)
        # In units of σ and one coordinate at a time: the expanded square would cancel where σ is small.
        away = [
            (references[:, d] - (x[..., d : d + 1] + scale * noise[..., d : d + 1])) / scale for d in range(x.shape[-1])
        ]
        own = -noise.square().sum(-1, keepdim=True) / 2
        others = -torch.stack([a.square() for a in away]).sum(0) / 2
        weight = torch.cat([own, others], dim=-1).softmax(-1)
        mean = torch.stack([(weight[..., 1:] * a).sum(-1) for a in away], dim=-1)
        return (mean - weight[..., :1] * noise) / scale


class Exact(Objective):
    """The true score itself: the ceiling that tells a network's capacity from the noise of its targets.

    Args:
        distribution: the target whose exact score is regressed on.
    """

    @strict
    def __init__(self, *, distribution: Distribution) -> None:
        super().__init__()
        self.distribution = distribution

    def target(
        self,
        x: Float[Tensor, "*batch 2"],
        sigma: Float[Tensor, "*#batch"],
        noise: Float[Tensor, "*batch 2"],
        references: Float[Tensor, "references 2"],
    ) -> Float[Tensor, "*batch 2"]:
        return self.distribution.score(x + column(sigma, x) * noise, sigma)


class Weighting(nn.Module, ABC):
    """How much a level counts: λ(σ), and a penalty where λ is learned. Both keep the shape of σ."""

    @abstractmethod
    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]: ...

    def penalty(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        return torch.zeros_like(sigma)


class SigmaPower(Weighting):
    r"""$\lambda = \sigma^p$: uniform at p = 0; inverse variance, free of the scale, at p = 2.

    Source: Generative Modeling by Estimating Gradients of the Data Distribution, Song & Ermon, 2019, §4.2.
    """

    power: Tensor

    @strict
    def __init__(self, *, power: Finite = 2.0) -> None:
        super().__init__()
        self.register_buffer("power", torch.tensor(float(power)))

    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        return sigma**self.power


class EDM(Weighting):
    r"""$\lambda = \sigma^2 (\sigma^2 + \sigma_d^2) / \sigma_d^2$: unit loss at every level, preconditioned.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022, table 1.
    """

    sigma_data: Tensor

    @strict
    def __init__(self, *, sigma_data: Positive) -> None:
        super().__init__()
        self.register_buffer("sigma_data", torch.tensor(float(sigma_data)))

    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
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
        return torch.minimum(sigma.square(), self.gamma * sigma**4 / self.sigma_data.square())


class Learned(Weighting):
    r"""$\lambda = \sigma^2 e^{-u(\sigma)}$ with penalty $D\,u(\sigma)$; its optimum is $u^* = \ln E[\sigma^2 e / D]$.

    u is linear in Fourier features of ln σ / 4 and starts at 0. The convention counts per dimension. It is part of the
    training alone: no weight decay, no average, and discarded after. Source: Analyzing and Improving the Training
    Dynamics of Diffusion Models, Karras et al., 2024, eq. 21.

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
        """The log of the expected error σ²e / D, in nats."""
        return self.readout(self.features(sigma)).squeeze(-1)

    def forward(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        return sigma.square() * torch.exp(-self.u(sigma))

    def penalty(self, sigma: Float[Tensor, "*sigma"]) -> Float[Tensor, "*sigma"]:
        return self.dim * self.u(sigma)
