"""Samplers: walks along a ladder of noise levels, driven by a score, learned or exact."""

from .base import Chain, Prior, Sampler, Stepper
from .langevin import AnnealedLangevin, Langevin
from .metropolis import MALA
from .ode import AdaptiveODE, Euler, Heun, Multistep, NotSolvedError
from .reverse import Ancestral, ConsistentAnnealed, PredictorCorrector, StochasticHeun
from .underdamped import UnderdampedLangevin

__all__ = [
    "MALA",
    "AdaptiveODE",
    "Ancestral",
    "AnnealedLangevin",
    "Chain",
    "ConsistentAnnealed",
    "Euler",
    "Heun",
    "Langevin",
    "Multistep",
    "NotSolvedError",
    "PredictorCorrector",
    "Prior",
    "Sampler",
    "Stepper",
    "StochasticHeun",
    "UnderdampedLangevin",
]
