"""Figures: functions from tensors, a target and a score to a `matplotlib.figure.Figure`, or to the bytes of a GIF.

Nothing here saves, logs or shows a figure, or touches pyplot's state.
"""

from .annealing import animate_annealing, plot_filmstrip
from .attribution import Bar, plot_chain_distances, plot_shares
from .density import plot_model_density
from .diagnostics import (
    LossLevels,
    plot_learned_weighting,
    plot_loss_levels,
    plot_schedule,
    plot_score_error,
    plot_score_split,
)
from .samples import plot_samples
from .sampling import CostQuality, plot_cost_quality, plot_mode_weights, plot_paths
from .score_field import plot_score_field
from .space import Limits, limits
from .style import Format, png, rendered

__all__ = [
    "Bar",
    "CostQuality",
    "Format",
    "Limits",
    "LossLevels",
    "animate_annealing",
    "limits",
    "plot_chain_distances",
    "plot_cost_quality",
    "plot_filmstrip",
    "plot_learned_weighting",
    "plot_loss_levels",
    "plot_mode_weights",
    "plot_model_density",
    "plot_paths",
    "plot_samples",
    "plot_schedule",
    "plot_score_error",
    "plot_score_field",
    "plot_score_split",
    "plot_shares",
    "png",
    "rendered",
]
