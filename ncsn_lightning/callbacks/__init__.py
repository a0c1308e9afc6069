"""What happens around the training: score errors, samples and figures, guards, a stop on request, a summary."""

from .divergence import Diverged, DivergenceGuard
from .figures import SamplesAndFigures
from .lease import LeaseGuard, LeaseLost
from .preemption import Preempted, PreemptionCheckpoint
from .progress import StepProgressBar
from .score_error import ScoreError
from .score_split import ScoreErrorParts
from .summary import RunSummary

__all__ = [
    "Diverged",
    "DivergenceGuard",
    "LeaseGuard",
    "LeaseLost",
    "Preempted",
    "PreemptionCheckpoint",
    "RunSummary",
    "SamplesAndFigures",
    "ScoreError",
    "ScoreErrorParts",
    "StepProgressBar",
]
