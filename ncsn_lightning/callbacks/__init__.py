"""What happens around the training: score errors, samples and figures, a guard, a summary."""

from .divergence import Diverged, DivergenceGuard
from .figures import SamplesAndFigures
from .progress import StepProgressBar
from .score_error import ScoreError
from .summary import RunSummary

__all__ = ["Diverged", "DivergenceGuard", "RunSummary", "SamplesAndFigures", "ScoreError", "StepProgressBar"]
