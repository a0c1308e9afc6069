"""Toy targets in two dimensions: samples, exact log p_σ and exact score at every noise level."""

from .base import Distribution
from .checkerboard import Checkerboard
from .curves import Moons, NoisyCurve, SCurve, SwissRoll, TwoSpirals
from .gaussians import EightGaussians, FortyGaussians, FractalTree, GridGaussians, TwoGaussians
from .mixture import GaussianMixture, Modes
from .pinwheel import Pinwheel
from .points import Points
from .rings import Circles, ConcentricCircles, Rings

__all__ = [
    "Checkerboard",
    "Circles",
    "ConcentricCircles",
    "Distribution",
    "EightGaussians",
    "FortyGaussians",
    "FractalTree",
    "GaussianMixture",
    "GridGaussians",
    "Modes",
    "Moons",
    "NoisyCurve",
    "Pinwheel",
    "Points",
    "Rings",
    "SCurve",
    "SwissRoll",
    "TwoGaussians",
    "TwoSpirals",
]
