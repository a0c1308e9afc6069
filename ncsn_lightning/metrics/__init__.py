"""How wrong a score and its samples are, against the exact truth."""

from .kernels import EnergyDistance, SquaredMMD, energy_distance, median_distance, squared_mmd
from .likelihood import DormandPrince, Likelihood, RungeKutta, cross_entropy
from .regions import (
    CoverageGap,
    DensityTV,
    ModeWeights,
    OffSupport,
    WithinModes,
    coverage,
    off_support,
    total_variation,
    within_modes,
)
from .samples import Measured, SampleMetric, SampleTest, Truth
from .score_error import ScoreErrors, ScoreTest, by_level, curl
from .split import ScoreShares, ScoreSplit
from .transport import SlicedWasserstein2, Wasserstein2, sliced_wasserstein2, wasserstein2

__all__ = [
    "CoverageGap",
    "DensityTV",
    "DormandPrince",
    "EnergyDistance",
    "Likelihood",
    "Measured",
    "ModeWeights",
    "OffSupport",
    "RungeKutta",
    "SampleMetric",
    "SampleTest",
    "ScoreErrors",
    "ScoreShares",
    "ScoreSplit",
    "ScoreTest",
    "SlicedWasserstein2",
    "SquaredMMD",
    "Truth",
    "Wasserstein2",
    "WithinModes",
    "by_level",
    "coverage",
    "cross_entropy",
    "curl",
    "energy_distance",
    "median_distance",
    "off_support",
    "sliced_wasserstein2",
    "squared_mmd",
    "total_variation",
    "wasserstein2",
    "within_modes",
]
