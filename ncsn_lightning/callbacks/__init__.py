"""What happens around the training: score errors, samples and figures, guards, a stop on request, a summary."""

from .divergence import Diverged, DivergenceGuard
from .figures import SamplesAndFigures
from .lease import LeaseGuard, LeaseLost
from .measuring import MeasuringCallback
from .monitor import TrainingMonitor
from .preemption import Preempted, PreemptionCheckpoint
from .progress import StepProgressBar
from .record import RunRecord
from .score_error import ScoreError
from .score_split import ScoreErrorParts

__all__ = [
    "Diverged",
    "DivergenceGuard",
    "LeaseGuard",
    "LeaseLost",
    "MeasuringCallback",
    "Preempted",
    "PreemptionCheckpoint",
    "RunRecord",
    "SamplesAndFigures",
    "ScoreError",
    "ScoreErrorParts",
    "StepProgressBar",
    "TrainingMonitor",
]
