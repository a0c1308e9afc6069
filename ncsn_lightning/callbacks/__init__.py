"""What happens around the training: score errors, samples and figures, guards, a summary."""

from .divergence import Diverged, DivergenceGuard
from .figures import SamplesAndFigures
from .lease import LeaseGuard, LeaseLost
from .progress import StepProgressBar
from .score_error import ScoreError
from .summary import RunSummary

__all__ = [
    "Diverged",
    "DivergenceGuard",
    "LeaseGuard",
    "LeaseLost",
    "RunSummary",
    "SamplesAndFigures",
    "ScoreError",
    "StepProgressBar",
]
