"""Networks, and the parametrisations that make scores of them."""

from .networks import MLP, FiLM, FourierEmbedding, Network, SinusoidalEmbedding
from .scores import (
    Density,
    Energy,
    ExactScore,
    Preconditioned,
    Raw,
    Scaled,
    Score,
    ScoreModel,
    Unconditional,
    uncentred,
)

__all__ = [
    "MLP",
    "Density",
    "Energy",
    "ExactScore",
    "FiLM",
    "FourierEmbedding",
    "Network",
    "Preconditioned",
    "Raw",
    "Scaled",
    "Score",
    "ScoreModel",
    "SinusoidalEmbedding",
    "Unconditional",
    "uncentred",
]
