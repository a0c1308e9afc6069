"""Figures: tensors, a target and a score in, a `matplotlib.figure.Figure` (or the bytes of a GIF) out.

Nothing here saves, logs, shows, or touches pyplot's state.
"""

from .annealing import animate_annealing, plot_filmstrip
from .diagnostics import plot_learned_weighting, plot_loss_levels, plot_schedule, plot_score_error
from .samples import plot_samples
from .score_field import plot_score_field
from .space import Limits, limits
from .style import png

__all__ = [
    "Limits",
    "animate_annealing",
    "limits",
    "plot_filmstrip",
    "plot_learned_weighting",
    "plot_loss_levels",
    "plot_samples",
    "plot_schedule",
    "plot_score_error",
    "plot_score_field",
    "png",
]
