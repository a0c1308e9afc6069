r"""Quadrature rules for integrals of sharp peaks along a curve.

The trapezoidal rule converges exponentially for analytic integrands that vanish at both ends: with steps of h on a
Gaussian peak of width w the relative error is 2 exp(−2π² w² / h²), 2e-7 at h = 1.1 w. At the open ends of a curve the
integrand does not vanish, and can fall off at any rate. There the steps shrink in proportion to the distance from the
end, which is again the trapezoidal rule, in the logarithm of that distance. One change of variables t(s) does both. Its
inverse has the derivative

$$\frac{ds}{dt} = \frac{1}{h(t)} + \frac{1}{\eta}\,\frac{d}{dt}\ln\frac{t - t_0}{t_1 - t}$$

and the rule is Σ_i g(t(s_i)) t'(s_i) over half-integers s_i (after Takahasi & Mori, "Double exponential formulas for
numerical integration", 1974, where h = ∞ and the map is steeper).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from ..core.validation import Values

Function = Callable[[Values], Values]
Rule = tuple[Float64[Tensor, "nodes"], Float64[Tensor, "nodes"]]
"""Nodes and weights."""

PEAK_STEP = 1.1
"""h: length of a step, in widths of a peak."""

END_STEP = 0.5
"""η: length of a step near an end, in e-foldings of the distance from it; the relative error is 5e-8."""

CUT = 3e-8
"""Share of the steepest integrand that lies between the last node and the end."""

GRID = 2**16
"""Intervals of the grid on which t(s) is computed."""


def spaced_rule(start: float, stop: float, density: Function) -> Rule:
    """The trapezoidal rule with `density(t)` nodes per unit of t, for integrands that vanish at both ends.

    Args:
        start: lower end of the interval.
        stop: upper end of the interval.
        density: ds/dt, a smooth positive function.
    """
    t = torch.linspace(start, stop, GRID + 1, dtype=torch.float64)
    slope = density(t)
    step = (stop - start) / GRID
    bend = torch.gradient(slope, spacing=step)[0]
    s = torch.cat([slope.new_zeros(1), ((slope[1:] + slope[:-1]) / 2 * step).cumsum(0)])
    s = s - (bend - bend[0]) * step**2 / 12  # Euler–Maclaurin: fourth order
    count = math.ceil(float(s[-1]))
    target = (torch.arange(count, dtype=torch.float64) + 0.5) * s[-1] / count
    left = torch.searchsorted(s, target) - 1
    nodes = t[left] + (target - s[left]) / slope[left]
    for _ in range(2):  # two steps of Newton's method, as linear interpolation is not smooth enough
        reached = s[left] + (slope[left] + density(nodes)) / 2 * (nodes - t[left])
        nodes = nodes - (reached - target) / density(nodes)
    return nodes, s[-1] / count / density(nodes)


def graded_rule(start: float, stop: float, *, width: Function, rate: float) -> Rule:
    """A rule for peaks along an interval with open ends.

    Args:
        start: lower end of the interval.
        stop: upper end of the interval.
        width: gives the smallest standard deviation, in t, of peaks at t; a smooth function.
        rate: of the steepest exponential decay of an integrand from an end, in 1 / t.
    """
    length = stop - start
    reach = math.log(rate * length / CUT)

    def point(v: Values) -> tuple[Values, Values]:  # v = ln((t − start) / (stop − t)) -> t and dt/dv
        return start + length * v.sigmoid(), length * v.sigmoid() * (-v).sigmoid()

    def density(v: Values) -> Values:  # ds/dv
        t, slope = point(v)
        return 1 / END_STEP + slope / (PEAK_STEP * width(t))

    v, weights = spaced_rule(-reach, reach, density)
    t, slope = point(v)
    return t, weights * slope
