r"""Which factors matter on a full grid: the exact analysis of variance.

Values y on a grid of factors, with n seeds in every cell, are split without any model into one part for every set S of
factors (a main effect or an interaction) and a residual r, which is due to the seeds alone,

$$y = \sum_S e_S + r,\qquad e_S = \bar y_S - \sum_{T \subsetneq S} e_T,\qquad r = y - \bar y_\text{cell},$$

where ȳ_S is the mean over all factors that are not in S. The parts are orthogonal, so their sums of squares add up to
the whole, and their shares to 1 (Fisher, Statistical Methods for Research Workers, 1925, ch. VII–VIII).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Effect(NamedTuple):
    """A part of the variance.

    Attributes:
        factors: one for a main effect, several for their interaction, none for the seeds' own share.
        share: of the total sum of squares.
        chance: the share it would have on average if the seeds alone caused it; NaN if each cell has one seed.
    """

    factors: tuple[str, ...]
    share: float
    chance: float


def analysis_of_variance(values: Array, factors: Sequence[str]) -> list[Effect]:
    """The parts of the variance of a full grid, largest first, the seeds' own share last.

    Args:
        values: `[*levels, seeds]`, one axis a factor in the order of `factors`, the last one for the seeds.
        factors: their names.

    Returns:
        Effects whose shares sum to 1; none where all values are equal.
    """
    values = values - values.mean()
    total = float(np.square(values).sum())
    if total == 0:
        return []
    within = float(np.square(values - values.mean(-1, keepdims=True)).sum())
    *levels, seeds = values.shape
    spare = math.prod(levels) * (seeds - 1)
    noise = within / spare if spare else math.nan  # mean square
    effects: dict[tuple[int, ...], Array] = {}
    found = []
    for subset in _subsets(len(factors)):
        rest = tuple(axis for axis in range(values.ndim) if axis not in subset)
        effect = values.mean(rest, keepdims=True) - sum(effects[below] for below in effects if {*below} < {*subset})
        effects[subset] = effect
        share = float(np.square(effect).sum()) * values.size / effect.size / total
        freedom = math.prod(levels[axis] - 1 for axis in subset)
        if subset:  # the mean of all is 0
            found.append(Effect(tuple(factors[axis] for axis in subset), share, freedom * noise / total))
    found.sort(key=lambda effect: -effect.share)
    return [*found, Effect((), within / total, within / total)]


def _subsets(n: int) -> list[tuple[int, ...]]:
    return [subset for size in range(n + 1) for subset in combinations(range(n), size)]


def complete_part(present: NDArray[np.bool_]) -> list[list[int]]:
    """The indices of a full part of a grid with holes, axis by axis.

    As long as there are holes, the level with the largest share of holes is removed; of several, the one with the
    fewest values. So whole factors are kept if single seeds or settings failed.

    Args:
        present: whether the grid has a value, one axis for each factor.

    Returns:
        For each axis the levels that are kept; empty lists if nothing is left.
    """
    kept = [list(range(size)) for size in present.shape]
    while True:
        part = present[np.ix_(*kept)]
        if part.all():
            return kept
        holes = [
            1 - part.mean(tuple(other for other in range(part.ndim) if other != axis)) for axis in range(part.ndim)
        ]
        axis = max(range(part.ndim), key=lambda axis: (holes[axis].max(initial=0), part.shape[axis]))
        del kept[axis][int(holes[axis].argmax())]
        if not kept[axis]:
            return [[] for _ in kept]
