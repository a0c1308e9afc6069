r"""The log-density of what a score generates, by the probability-flow ODE with an exact divergence.

Points that move by $dx/d\sigma = -\sigma\, s(x, \sigma)$ keep the marginals $p_\sigma$, and the log-density at a moving
point changes only by the divergence of s. Hence, from $x_{\min}$ at σ_min up to $x_{\max}$ at σ_max,

$$\log p_{\sigma_{\min}}(x_{\min}) = \log p_{\sigma_{\max}}(x_{\max})
- \int_{\sigma_{\min}}^{\sigma_{\max}} \sigma\, \nabla \cdot s\; d\sigma .$$

Source: Score-Based Generative Modeling through Stochastic Differential Equations, Song et al., 2021, §4.3 and appendix
D. In two dimensions the divergence is a sum of two derivatives, so no trace has to be estimated. Everything runs in
float64.

The variable of integration is $u = \tfrac12 \ln(\sigma^2 + \tau^2)$, with τ the noise that the target already carries,
so that $dx/du = -(\sigma^2 + \tau^2)\, s$. Equal steps of u multiply the width to which p_σ is blurred by equal
factors, and none are spent at σ ≪ τ, where p_σ does not change. At τ = 0, u is ln σ.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.distributions import MultivariateNormal
from torchdiffeq import odeint

from ..core.randomness import keyed_generator
from ..core.validation import Count, Index, NonNegative, Positive, Rows, Values, strict
from ..distributions.base import Distribution
from ..models.scores import Score, jacobian
from ..schedules import Schedule

ROWS = 1000
"""Points that are integrated together: few enough for their derivatives to stay in the caches."""

AtLeastEight = Annotated[int, Field(ge=8)]
End = Literal["exact", "moment_matched", "gaussian"]


class Flow(NamedTuple):
    """The right-hand side of the ODE in u.

    Attributes:
        score: in float64.
        blur: τ, in data units.
    """

    score: Score
    blur: float

    def level(self, sigma: float) -> float:
        """u at σ."""
        return math.log(math.hypot(sigma, self.blur))

    def sigma(self, u: float) -> float:
        """σ at u."""
        return math.sqrt(max(math.exp(2 * u) - self.blur**2, 0.0))

    def velocity(self, u: float, x: Rows) -> Rows:
        """dx/du."""
        return -math.exp(2 * u) * self.score(x, self.sigma(u))

    def with_growth(self, u: float, x: Rows) -> tuple[Rows, Values]:
        """dx/du, and d log p / du = (σ² + τ²) ∇·s along the path, in nats."""
        rate, (values, derivatives) = math.exp(2 * u), jacobian(self.score, x, self.sigma(u))
        return -rate * values, rate * (derivatives[:, 0, 0] + derivatives[:, 1, 1])


class Solver(ABC):
    """Integrates points from σ_min to σ_max, and the growth of their log-density along the way."""

    @abstractmethod
    def solve(self, flow: Flow, x: Rows, start: float, end: float) -> tuple[Rows, Values]:
        """Integrate from u = `start` to `end`.

        Returns:
            the points at the end, in data units, and the integral of their growth, in nats.
        """

    @torch.no_grad()
    def __call__(
        self, score: Score, x: Rows, *, sigma_min: float, sigma_max: float, blur: float
    ) -> tuple[Rows, Values]:
        """The points at σ_max, and ∫ σ ∇·s dσ along their paths, in nats.

        Args:
            score: in float64; pass `copy.deepcopy(network).double()` for a network.
            x: at σ_min, in data units.
            sigma_min, sigma_max: the ends, in data units.
            blur: τ, in data units.
        """
        flow = Flow(score, blur)
        ends = [self.solve(flow, rows, flow.level(sigma_min), flow.level(sigma_max)) for rows in x.split(ROWS)]
        points, growth = zip(*ends, strict=True)
        return torch.cat(points), torch.cat(growth)


class RungeKutta(Solver):
    """Equal steps in u: the classical fourth-order method for the points, Gregory's rule for the integral.

    The divergence is the expensive part: it makes an evaluation cost three times as much. Gregory's rule needs it only
    once a step, at the nodes: it is the trapezoidal rule with its ends corrected to fourth order, with the weights 3/8,
    7/6, 23/24, 1, …, 1, 23/24, 7/6, 3/8. Source: Methods of Numerical Integration, Davis & Rabinowitz, 1984, §2.8.

    Args:
        steps: N ≥ 8; they cost 4N + 1 evaluations, N + 1 of them with derivatives.
    """

    @strict
    def __init__(self, *, steps: AtLeastEight = 32) -> None:
        self.steps = steps

    def solve(self, flow: Flow, x: Rows, start: float, end: float) -> tuple[Rows, Values]:
        """Take `steps` equal steps of u; returns as in the base class."""
        h = (end - start) / self.steps
        integral = torch.zeros_like(x[:, 0])
        for node, weight in enumerate(self._weights()):
            u = start + node * h
            k1, growth = flow.with_growth(u, x)
            integral += h * weight * growth
            if node < self.steps:
                k2 = flow.velocity(u + h / 2, x + h / 2 * k1)
                k3 = flow.velocity(u + h / 2, x + h / 2 * k2)
                k4 = flow.velocity(u + h, x + h * k3)
                x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x, integral

    def _weights(self) -> list[float]:
        """Gregory's weights of the N + 1 nodes."""
        ends = [3 / 8, 7 / 6, 23 / 24]
        return [*ends, *[1.0] * (self.steps - 5), *reversed(ends)]


class DormandPrince(Solver):
    """Adaptive steps, by the embedded pair of orders 5 and 4 in the library torchdiffeq (Chen, 2018).

    Args:
        tolerance: largest error of a step, relative and absolute (data units, nats).
        max_steps: steps after which the solver gives up.
    """

    @strict
    def __init__(self, *, tolerance: Positive = 1e-6, max_steps: Count = 1000) -> None:
        self.tolerance, self.max_steps = tolerance, max_steps

    def solve(self, flow: Flow, x: Rows, start: float, end: float) -> tuple[Rows, Values]:
        """Take steps whose errors are below `tolerance`; returns as in the base class.

        Raises:
            ValueError: the solver does not converge.
        """
        reached = start

        def right_hand_side(u: Tensor, state: tuple[Rows, Values]) -> tuple[Rows, Values]:
            nonlocal reached
            reached = float(u)
            return flow.with_growth(reached, state[0])

        times = torch.tensor([start, end], dtype=torch.float64)
        options = {"max_num_steps": self.max_steps}
        try:
            states = odeint(
                right_hand_side,
                (x, torch.zeros_like(x[:, 0])),
                times,
                rtol=self.tolerance,
                atol=self.tolerance,
                method="dopri5",
                options=options,
            )
        except AssertionError as error:
            raise ValueError(
                f"tolerance={self.tolerance:g}: the adaptive solver does not converge at σ={flow.sigma(reached):.3g} "
                f"({error}); raise it, or max_steps={self.max_steps}"
            ) from error
        return states[0][-1], states[1][-1]


class Estimate(NamedTuple):
    """A mean and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Float[Tensor, "n"]) -> Estimate:
        """The mean of independent values, with its standard error."""
        return cls(float(values.mean()), float(values.std() / math.sqrt(len(values))))


class Divergence(NamedTuple):
    """How well a model describes its target at σ_min, in nats.

    Attributes:
        nll: E[−log q(x)] under p_σmin.
        kl: KL(p_σmin ‖ q) = NLL − H(p_σmin), as the mean of log p_σmin(x) − log q(x) over the same points.
        mismatch: the part of `kl` that the prior causes, E[log p_σmax(x_max) − log prior(x_max)].
    """

    nll: Estimate
    kl: Estimate
    mismatch: Estimate


class Likelihood:
    r"""The density q that the probability-flow ODE of a score makes of a prior, from σ_max down to σ_min.

    Args:
        distribution: the target.
        schedule: its ends are σ_max and σ_min.
        solver: of the ODE.
        prior: the law at σ_max: `exact`, the target's own p_σmax; `moment_matched`, N(mean, Cov + σ_max² I) of the
            target; `gaussian`, N(mean, σ_max² I).
        num_points: draws of p_σmin over which the divergence is averaged.
        seed: of these draws.
    """

    @strict
    def __init__(
        self,
        *,
        distribution: Distribution,
        schedule: Schedule,
        solver: Solver,
        prior: End = "moment_matched",
        num_points: Count = 10000,
        seed: Index = 0,
    ) -> None:
        self.distribution, self.solver, self.prior = distribution, solver, prior
        self.num_points, self.seed = num_points, seed
        self.sigma_max, self.sigma_min = float(schedule.sigmas[0]), float(schedule.sigmas[-1])

    def log_prob(self, score: Score, x: Float[Tensor, "n 2"]) -> Values:
        """log q(x) in nats.

        Args:
            score: in float64.
            x: points at σ_min, in data units.
        """
        end, growth = self._carry(score, x)
        return self._log_prior(end) - growth

    def __call__(self, score: Score) -> Divergence:
        """How well what the score generates describes the target, in nats; the score in float64."""
        x = self._points()
        end, growth = self._carry(score, x)
        log_prior = self._log_prior(end)
        log_q = log_prior - growth
        return Divergence(
            nll=Estimate.of(-log_q),
            kl=Estimate.of(self.distribution.log_prob(x, self.sigma_min) - log_q),
            mismatch=Estimate.of(self.distribution.log_prob(end, self.sigma_max) - log_prior),
        )

    def _points(self) -> Rows:
        """The draws of p_σmin, the same for every score."""
        generator = keyed_generator(self.seed, "likelihood")
        clean = self.distribution.sample(self.num_points, generator=generator).double()
        return clean + self.sigma_min * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)

    def _carry(self, score: Score, x: Float[Tensor, "n 2"]) -> tuple[Rows, Values]:
        """Integrate points from σ_min to σ_max."""
        ends = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        return self.solver(score, x.double(), blur=self.distribution.blur, **ends)

    def _log_prior(self, x: Rows) -> Values:
        """The log-density of the prior, in nats."""
        variance = self.sigma_max**2 * torch.eye(2, dtype=torch.float64)
        match self.prior:
            case "exact":
                return self.distribution.log_prob(x, self.sigma_max)
            case "moment_matched":
                target = self.distribution
                return MultivariateNormal(target.mean, target.covariance + variance).log_prob(x)
            case "gaussian":
                return MultivariateNormal(self.distribution.mean, variance).log_prob(x)


class CrossEntropy(NamedTuple):
    """The mean of −log p_σ over some points, in nats.

    Attributes:
        mean: over the points at which p_σ > 0, with its standard error.
        off_support: how many points have log p_σ = −inf.
    """

    mean: Estimate
    off_support: int


def cross_entropy(target: Distribution, x: Float[Tensor, "n 2"], sigma: NonNegative = 0.0) -> CrossEntropy:
    """E[−log p_σ(x)] over samples x from any source, in nats.

    Minus H(p_σ) it is no divergence, for the difference can be negative.

    Raises:
        ValueError: the target has no density at this σ, or none of the points lies on its support.
    """
    if not target.log_prob(target.noisy_points(sigma), sigma).isfinite().all():
        raise ValueError(f"sigma={sigma:g}: the target has no density there, for it has point masses; give a σ above 0")
    log_prob = target.log_prob(x.double(), sigma)
    on_support = log_prob[~log_prob.isneginf()]
    if len(on_support) < 2:
        raise ValueError(f"sigma={sigma:g}: {len(on_support)} of {len(x)} points lie on the support; give a σ above 0")
    return CrossEntropy(Estimate.of(-on_support), len(x) - len(on_support))
