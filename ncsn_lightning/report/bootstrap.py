r"""Is one configuration worse than another, by the seeds that both have?

The mean of n paired differences has the percentile interval of its bootstrap distribution. With few seeds that is too
narrow: resampling estimates the variance by its maximum-likelihood value, (n−1)/n of the unbiased one, and knows no
t distribution. So both ends are moved away from the mean by the factor

$$\frac{t_{1-\alpha/2,\,n-1}}{z_{1-\alpha/2}}\sqrt{\frac{n}{n-1}},$$

which tends to 1 with n and gives Student's interval for normal differences (after Hesterberg, What Teachers Should Know
About the Bootstrap, The American Statistician 69, 2015, §3.1).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
"""The number of resamples of the bootstrap."""


def paired_interval(differences: Array, *, confidence: float = CONFIDENCE) -> tuple[Array, Array]:
    """The ends of the bootstrap intervals of the means of paired differences.

    Args:
        differences: `[n, C]`, one row a seed, one column a comparison.
        confidence: of each single interval, without a correction for their number.

    Returns:
        Lower and upper ends, `[C]`; infinite for n = 1, because one difference has no spread.
    """
    n, mean = len(differences), differences.mean(0)
    if n == 1:
        return np.full_like(mean, -np.inf), np.full_like(mean, np.inf)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws @ differences, [tail, 1 - tail], axis=0)
    widening = float(stdtrit(n - 1, 1 - tail)) / NormalDist().inv_cdf(1 - tail) * math.sqrt(n / (n - 1))
    return mean + widening * (low - mean), mean + widening * (high - mean)
