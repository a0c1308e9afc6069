"""Noise-conditional score networks on two-dimensional targets whose scores are known exactly.

Names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "distributions": (
        "Checkerboard Circles Distribution EightGaussians FortyGaussians FractalTree GaussianMixture GridGaussians "
        "Moons Pinwheel Points Rings SCurve SwissRoll TwoGaussians TwoSpirals"
    ),
    "schedules": "DDPM DDPMCosine Geometric Karras Ladder Levels Linear LogNormal LogUniform Schedule Single",
    "networks": "FiLM FourierEmbedding MLP Network SinusoidalEmbedding",
    "scores": "Energy Preconditioned Raw Scaled Score ScoreModel Unconditional",
    "objectives": "Denoising Exact Objective StableTarget",
    "weightings": "EDM Learned MinSNR SigmaPower Weighting",
    "samplers": "AnnealedLangevin Langevin Sampler",
    "metrics": "ScoreErrors ScoreTest off_support",
    "data": "StreamingDataModule",
    "module": "NCSN",
    "runs": "Run load_run",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
