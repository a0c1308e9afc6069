"""What a score is fitted to, and how much each noise level counts in that."""

from .regression_targets import Denoising, Exact, Objective, StableTarget, squared_error
from .weightings import EDM, Learned, MinSNR, SigmaPower, Weighting

__all__ = [
    "EDM",
    "Denoising",
    "Exact",
    "Learned",
    "MinSNR",
    "Objective",
    "SigmaPower",
    "StableTarget",
    "Weighting",
    "squared_error",
]
