r"""Curves with Gaussian noise: x = c(T) + τ₀ z, with T on an interval.

$$p_\sigma(x) = \int \mathcal N(x; c(t), \tau^2 I)\, q(t)\,dt, \qquad \tau^2 = \tau_0^2 + \sigma^2$$

Once the nodes of a quadrature rule are fixed, this is a Gaussian mixture. The nodes are chosen for σ = 0, where the
integrand is sharpest, and serve every σ. For a point at distance d on the convex side of a place with curvature κ and
speed |c'|, the integrand is a peak in t of width τ / (|c'| √(1 + κ d)); at an open end it can fall off as
exp(−t |c'| d / τ²). The rule resolves both for d up to `FAR`, to a relative error of the density below 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.validation import Finite, NonNegative, Positive, Rows, Values, strict
from .mixture import GaussianMixture, isotropic
from .quadrature import Function, Rule, graded_rule

FAR = 50.0
"""Largest distance from the curve, in its units, up to which the quadrature is accurate."""

MAX_NODES = 200_000
"""Most nodes of the quadrature; noise so small that it needs more is refused."""

Pieces = Float64[Tensor, "pieces n 2"]
Curve = Callable[[Values], Pieces]
PlaneCurve = Callable[[Values], Rows]


class NoisyCurve(GaussianMixture):
    """One or several congruent open curves with Gaussian noise; the named curves derive from it.

    Args:
        curve: gives the congruent and equally likely pieces c(t), each analytic on [start, stop].
        start: lower end of the parameter.
        stop: upper end of the parameter.
        noise: τ₀, in data units.
        power: of t in the density of T, q(t) ∝ t^power on [start, stop]: 0, or 1 with start = 0.
        reach: gives the largest distance on the convex side, in units of the curve, at which c(t) can be the nearest
            place of the curve; None for `FAR` everywhere.
        unit: the curve's unit of length, in data units.
    """

    def __init__(
        self,
        *,
        curve: Curve,
        start: float,
        stop: float,
        noise: float,
        power: int = 0,
        reach: Function | None = None,
        unit: float = 1.0,
    ) -> None:
        t, weights = _nodes(curve, start, stop, noise, reach, unit)
        places = curve(t)
        means = places.flatten(0, 1)
        super().__init__(
            means,
            weights=(weights * t**power).repeat(places.shape[0]),
            variances=isotropic(noise, means),
            scale=noise,
            unit=unit,
        )
        self.curve, self.start, self.stop, self.noise, self.power = curve, start, stop, noise, power

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw a place on the curve itself, not one of the nodes, then add noise."""
        device = self.means.device
        uniform = torch.rand(n, dtype=torch.float64, device=device, generator=generator)
        places = self.curve(self.start + (self.stop - self.start) * uniform ** (1 / (1 + self.power)))
        piece = torch.randint(places.shape[0], (n,), device=device, generator=generator)
        noise = torch.randn(n, 2, dtype=torch.float64, device=device, generator=generator)
        return self._rounded(places[piece, torch.arange(n, device=device)] + self.noise * noise)


def _nodes(curve: Curve, start: float, stop: float, noise: float, reach: Function | None, unit: float) -> Rule:
    """The quadrature rule in t that resolves the integrand at σ = 0; arguments as of `NoisyCurve`."""

    def width(t: Values) -> Values:
        speed, curvature = _geometry(curve, t)
        return noise / (speed * (1 + curvature * unit * (FAR if reach is None else reach(t))).sqrt())

    t = torch.linspace(start, stop, 1001, dtype=torch.float64)
    fastest = float(_geometry(curve, t)[0].max())
    if (stop - start) / float(width(t).min()) > MAX_NODES:
        raise ValueError(f"noise={noise:g} (data units) is too small for a curve of this length; choose a larger one")
    return graded_rule(start, stop, width=width, rate=fastest * FAR * unit / noise**2)


def _geometry(curve: Curve, t: Values) -> tuple[Values, Values]:
    """Speed |c'| and curvature κ of the first piece at `t`, by differentiation."""
    velocity = _derivative(lambda t: curve(t)[0])
    first, second = velocity(t), _derivative(velocity)(t)
    speed = first.square().sum(-1).sqrt()
    cross = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    return speed, cross.abs() / speed**3


def _derivative(curve: PlaneCurve) -> PlaneCurve:
    """c'(t), in reverse mode, because torch warns on the first use of its forward mode."""
    first, second = (torch.func.grad(lambda t, i=i: curve(t)[..., i].sum()) for i in range(2))
    return lambda t: _pair(first(t), second(t))


def _pair(first: Values, second: Values) -> Rows:
    """Points from their two coordinates."""
    return torch.stack([first, second], dim=-1)


def _moons(t: Values, *, zoom: float, shift: float, offset: tuple[float, float]) -> Pieces:
    """The upper and the lower half circle."""
    upper = _pair(t.cos(), t.sin())
    lower = _pair(offset[0] - t.cos(), offset[1] - t.sin())
    return zoom * torch.stack([upper, lower]) + torch.tensor([shift, 0.0], dtype=t.dtype, device=t.device)


class Moons(NoisyCurve):
    r"""Two interleaved half circles.

    (cos T, sin T) or (o₁ − cos T, o₂ − sin T), T ~ U(0, π), + N(0, noise²), then × zoom, then shifted. The defaults
    are those of TorchCFM (Tong et al., "Improving and generalizing flow-based generative models", 2023).

    Args:
        noise: standard deviation before zooming.
        zoom: factor on points and noise.
        shift: is added to the first coordinate at the end, in data units.
        offset_x: o₁, before zooming.
        offset_y: o₂, before zooming.
    """

    @strict
    def __init__(
        self,
        *,
        noise: Positive = 0.05,
        zoom: Positive = 2.0,
        shift: Finite = -1.0,
        offset_x: Finite = 1.0,
        offset_y: Finite = 0.5,
    ) -> None:
        curve = partial(_moons, zoom=zoom, shift=shift, offset=(offset_x, offset_y))
        super().__init__(curve=curve, start=0.0, stop=math.pi, noise=noise * zoom, unit=zoom / 2)


def _s_curve(t: Values, *, zoom: float) -> Pieces:
    """The upper and the lower arc."""
    half = zoom * _pair(t.sin(), t.cos() - 1)
    return torch.stack([half, -half])


class SCurve(NoisyCurve):
    r"""An S of two circular arcs.

    (sin T, sign(T)(cos T − 1)), T ~ U(−a, a), + N(0, noise²), then × zoom. The curvature jumps at T = 0, so the
    two halves are pieces of their own.

    Args:
        noise: standard deviation before zooming.
        zoom: factor on points and noise.
        angle: a, radians.
    """

    @strict
    def __init__(self, *, noise: Positive = 0.05, zoom: Positive = 1.5, angle: Positive = 1.5 * math.pi) -> None:
        curve = partial(_s_curve, zoom=zoom)
        super().__init__(curve=curve, start=0.0, stop=angle, noise=noise * zoom, unit=zoom / 1.5)


def _spiral(t: Values, *, zoom: float) -> Pieces:
    """One spiral, counterclockwise."""
    return zoom * (t[..., None] * _pair(t.cos(), t.sin())).unsqueeze(0)


class SwissRoll(NoisyCurve):
    r"""A spiral: T ~ U(start, stop), x = zoom · (T cos T, T sin T) + N(0, noise²).

    Args:
        start: the smallest angle, in radians.
        stop: the largest angle, in radians.
        zoom: factor on the spiral, not on the noise.
        noise: its standard deviation, in data units.
    """

    @strict
    def __init__(
        self,
        *,
        start: NonNegative = 1.5 * math.pi,
        stop: Positive = 4.5 * math.pi,
        zoom: Positive = 0.2,
        noise: Positive = 0.2,
    ) -> None:
        if start >= stop:
            raise ValueError(f"start={start:g} must be below stop={stop:g}: exchange or move them")
        super().__init__(curve=partial(_spiral, zoom=zoom), start=start, stop=stop, noise=noise, unit=zoom / 0.2)


def _two_spirals(t: Values, *, zoom: float) -> Pieces:
    """Two spirals, turned by half a turn against each other."""
    arm = zoom * t[..., None] * _pair(-t.cos(), t.sin())
    return torch.stack([arm, -arm])


def _outer_half_turn(t: Values, *, stop: float) -> Values:
    """`reach` of two spirals: π/3 inside, where the other spiral is next, and `FAR` from the last half turn on."""
    return math.pi / 3 + FAR * torch.sigmoid((t - stop + 1.15 * math.pi) / 0.1)


class TwoSpirals(NoisyCurve):
    r"""Two interleaved spirals, evenly filled: T = a √u, u ~ U(0, 1), x = ± zoom · (−T cos T, T sin T) + N(0, noise²).

    Args:
        angle: a, in radians.
        zoom: factor on the spirals, not on the noise.
        noise: its standard deviation, in data units.
    """

    @strict
    def __init__(self, *, angle: Positive = 3 * math.pi, zoom: Positive = 1 / 3, noise: Positive = 0.1) -> None:
        super().__init__(
            curve=partial(_two_spirals, zoom=zoom),
            start=0.0,
            stop=angle,
            noise=noise,
            power=1,
            reach=partial(_outer_half_turn, stop=angle),
            unit=3 * zoom,
        )
