"""Samplers: walks along a ladder of noise levels, driven by a score, learned or exact."""

from .base import Prior, Sampler
from .langevin import AnnealedLangevin, Langevin

__all__ = ["AnnealedLangevin", "Langevin", "Prior", "Sampler"]
