"""Noise-conditional score networks on two-dimensional targets whose scores are known exactly.

Names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "distributions": (
        "Checkerboard Circles Distribution EightGaussians FortyGaussians FractalTree GaussianMixture GridGaussians "
        "Modes Moons Pinwheel Points Rings SCurve SwissRoll TwoGaussians TwoSpirals"
    ),
    "schedules": "DDPM DDPMCosine Geometric Karras Ladder Levels Linear LogNormal LogUniform Schedule Single",
    "models": (
        "Density Energy ExactScore FiLM FourierEmbedding MLP Network Preconditioned Raw Scaled Score ScoreModel "
        "SinusoidalEmbedding Unconditional"
    ),
    "objectives": "EDM Denoising Exact Learned MinSNR Objective SigmaPower StableTarget Weighting",
    "samplers": (
        "MALA AdaptiveODE Ancestral AnnealedLangevin Chain ConsistentAnnealed Euler Heun Langevin Multistep "
        "PredictorCorrector Sampler Stepper StochasticHeun UnderdampedLangevin"
    ),
    "metrics": (
        "CoverageGap DensityTV DormandPrince EnergyDistance Likelihood ModeWeights OffSupport RungeKutta SampleMetric "
        "SampleTest ScoreErrors ScoreSplit ScoreTest SlicedWasserstein2 SquaredMMD Wasserstein2 WithinModes coverage "
        "cross_entropy curl energy_distance off_support sliced_wasserstein2 squared_mmd total_variation wasserstein2 "
        "within_modes"
    ),
    "training": "NCSN Batch BlockCallback FastLoop FlatAdam FlatAdamW HasScore StreamingDataModule",
    "training.callbacks": "DivergenceGuard MeasuringCallback SamplesAndFigures ScoreError ScoreErrorParts",
    "runs.load": "Run load_run",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
