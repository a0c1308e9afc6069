"""Callbacks around the training: score errors, samples and figures, guards, progress, checkpoints on request."""

from .divergence import Diverged, DivergenceGuard
from .figures import SamplesAndFigures
from .lease import LeaseGuard
from .measuring import MeasuringCallback
from .monitor import TrainingMonitor
from .progress import StepProgressBar
from .saving import LastCheckpoint
from .score_error import ScoreError
from .score_split import ScoreErrorParts

__all__ = [
    "Diverged",
    "DivergenceGuard",
    "LastCheckpoint",
    "LeaseGuard",
    "MeasuringCallback",
    "SamplesAndFigures",
    "ScoreError",
    "ScoreErrorParts",
    "StepProgressBar",
    "TrainingMonitor",
]
