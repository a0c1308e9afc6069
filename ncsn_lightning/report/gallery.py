"""The samples of a sweep's configurations as one figure for documents, in the style of the package's other figures."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ..plotting.space import Limits, frame_axes
from ..plotting.style import DENSITY_MAP, VERMILION, WIDTH, new_figure, styled
from ..sweeps.folder import Job, Sweep
from .comparison import Configuration, answer
from .metrics import METRIC, SEED, plus_minus
from .pictures import Array, Target, read_draws

COLUMNS = 5
PIXELS = 80
"""The number of pixels of the target's density, along either side."""

SHOWN = 1500
"""The largest number of samples in a panel."""

NOTE = """blue: the target,
square-root scale

orange: the network's
samples, right half only

of the middle seed;
the best is first"""


@styled
def sample_gallery(sweep: Sweep, *, metric: str = METRIC) -> Figure:
    """A panel for each configuration, the best first: draws of the target, and samples over their right half.

    Arguments:
        sweep: of jobs that left samples.
        metric: its name; less is better. Each panel's title has the mean ± standard error, and the panel shows the job
            with the middle value.

    Raises:
        ValueError: no finished job left samples.
    """
    found = answer(sweep, metric)
    configurations = [comparison.configuration for comparison in found.comparisons] if found else []
    drawn = [(c, draws) for c in configurations if (draws := read_draws(_middle(c))) is not None]
    if not drawn:
        raise ValueError(f"{sweep.folder}: no finished job left samples")
    rows = math.ceil((len(drawn) + 1) / COLUMNS)
    figure = new_figure(WIDTH * (0.06 + 1.13 * rows / COLUMNS), layout="compressed")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (configuration, (truth, samples)) in zip(panels, drawn, strict=False):
        _panel(axes, truth, samples)
        name = "\n".join(configuration.overrides.values())
        axes.set_title(f"{name}\n{plus_minus(configuration.mean, configuration.standard_error)}", fontsize="small")
    panels[-1].text(0.02, 0.5, NOTE, transform=panels[-1].transAxes, va="center", fontsize=8)
    return figure


def _panel(axes: Axes, truth: Array, samples: Array) -> None:
    frame = _square(truth)
    axes.set_axis_on()
    frame_axes(axes, frame)
    ends = [(frame.left, frame.right), (frame.bottom, frame.top)]
    counts, _, _ = np.histogram2d(truth[:, 0], truth[:, 1], bins=PIXELS, range=ends)
    norm = PowerNorm(0.5, vmin=0, vmax=float(np.quantile(counts, 0.995)) or 1.0)
    axes.imshow(counts.T, extent=frame, cmap=DENSITY_MAP, norm=norm, interpolation="bilinear")
    right = samples[samples[:, 0] > (frame.left + frame.right) / 2][:SHOWN]
    axes.scatter(right[:, 0], right[:, 1], s=0.9, color=VERMILION, linewidths=0, alpha=0.8)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(labelsize=7)


def _square(truth: Array) -> Limits:
    """The smallest square around the frame of a target."""
    low, high = Target(truth.astype(np.float64)).frame
    (x1, x2), half = (low + high) / 2, float((high - low).max()) / 2
    return Limits(x1 - half, x1 + half, x2 - half, x2 + half)


def _middle(configuration: Configuration) -> Job:
    """The job of a configuration whose value is the middle one."""
    finished = sorted(configuration.values, key=lambda seed: configuration.values[seed])
    seed = finished[len(finished) // 2]
    return next(job for job in configuration.jobs if job.overrides.get(SEED, "") == seed)
