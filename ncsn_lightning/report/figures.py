"""The heat map of a sweep as a figure for documents and loggers, in the style of the package's other figures."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ..plotting.style import ERROR_MAP, WIDTH, new_figure, number, styled
from ..sweeps.folder import Sweep
from .metrics import METRIC, SEED, measured
from .variance import Array


@styled
def heat_map(sweep: Sweep, *, metric: str = METRIC, rows: str | None = None, columns: str | None = None) -> Figure:
    """The mean ± standard deviation of a metric over all finished jobs of each pair of values of two factors.

    Arguments:
        sweep: with at least two swept keys.
        metric: its name; less is better, and drawn paler.
        rows, columns: swept keys; by default the first two other than the seed.

    Raises:
        ValueError: fewer than two keys are swept, or a key that is named is not swept.
    """
    down, across = _axes(sweep, rows, columns)
    grid = [[_values(sweep, metric, {down: y, across: x}) for x in sweep.factors[across]] for y in sweep.factors[down]]
    means = np.array([[cell.mean() if cell.size else np.nan for cell in row] for row in grid])
    figure = new_figure(1.3 + 0.5 * len(grid), width=min(WIDTH, 2.6 + 1.15 * means.shape[1]), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(means, cmap=ERROR_MAP, norm=_norm(means), origin="upper", aspect="auto")
    axes.set_facecolor("#eeeeee")  # seen in cells of which no job has finished
    axes.set_xticks(range(means.shape[1]), sweep.factors[across])
    if sum(map(len, sweep.factors[across])) > 70:
        axes.tick_params("x", rotation=20)
    axes.set_yticks(range(means.shape[0]), sweep.factors[down])
    axes.set(xlabel=across, ylabel=down)
    for (y, x), mean in np.ndenumerate(means):
        shade = float(np.asarray(image.norm(mean))) if np.isfinite(mean) else 0.0
        axes.text(x, y, _text(grid[y][x]), ha="center", va="center", color="white" if shade > 0.55 else "black", size=8)
    ticks = LogLocator(subs=(1.0, 2.0, 5.0)) if isinstance(image.norm, LogNorm) else None
    bar = figure.colorbar(image, ax=axes, label=f"{metric}, mean over all else", ticks=ticks, format="%g")
    bar.minorticks_off()
    return figure


def _axes(sweep: Sweep, rows: str | None, columns: str | None) -> tuple[str, str]:
    for name, key in (("rows", rows), ("columns", columns)):
        if key is not None and key not in sweep.factors:
            raise ValueError(f"{name}={key}: not swept; choose of {', '.join(sweep.factors)}")
    spare = [key for key in sorted(sweep.factors, key=lambda key: key == SEED) if key not in (rows, columns)]
    chosen = [rows or (spare.pop(0) if spare else None), columns or (spare.pop(0) if spare else None)]
    if None in chosen:
        raise ValueError(f"{sweep.folder}: a heat map needs two swept keys, and there is {', '.join(sweep.factors)}")
    return str(chosen[0]), str(chosen[1])


def _values(sweep: Sweep, metric: str, setting: dict[str, str]) -> Array:
    jobs = [job for job in sweep.jobs if setting.items() <= job.overrides.items()]
    values = np.array([measured(job, metric) for job in jobs])
    return values[np.isfinite(values)]


def _norm(means: Array) -> Normalize:
    """The scale of the colours: logarithmic if the means are positive and span more than a factor of ten."""
    found = means[np.isfinite(means)]
    if found.size and found.min() > 0 and found.max() / found.min() > 10:
        return LogNorm(found.min(), found.max())
    return Normalize(found.min() if found.size else 0.0, found.max() if found.size else 1.0)


def _text(values: Array) -> str:
    if not values.size:
        return "–"
    return number(values.mean()) + (f"\n± {values.std(ddof=1):.2g}" if values.size > 1 else "")
