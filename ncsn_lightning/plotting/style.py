"""The one style of every figure: colours, type sizes, panel widths, and what the axes are called.

`styled` makes a figure in this style, whatever the user's own matplotlib settings are, and `new_figure` returns a
figure that is also drawn in it. Figures are built directly, never through pyplot: so no backend is chosen, pyplot's
list of open figures does not grow, and a figure is freed with its last reference.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Array = NDArray[np.float64]

WIDTH = 8.5
"""Width of a figure in inches: 1870 pixels at the style's 220 dots per inch, shown at about 800 points in a README."""

MAX_PNG_BYTES = 300_000
"""Largest size of a PNG file, wherever fewer colours can achieve it."""

BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY, ORANGE, BLACK, GREY, PALE = "#56b4e9", "#e69f00", "#000000", "#666666", "#f0f0f0"
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
"""Colours of curves in order, from Okabe & Ito (2008); people with common colour blindness can distinguish them."""


def _lightness_ramp(name: str, stops: Sequence[str]) -> Colormap:
    """A colour map that interpolates between evenly spaced colours."""
    return LinearSegmentedColormap.from_list(name, list(stops))


# The colours are evenly spaced in CIELAB lightness, so that equal steps look equal, also when printed in grey.
DENSITY_MAP = _lightness_ramp(
    "ncsn_density",
    ["#ffffff", "#bbe6ff", "#7dccfd", "#4db0f0", "#2992db", "#1d75bf", "#24599d", "#273e77", "#222650"],
)
ERROR_MAP = _lightness_ramp(
    "ncsn_error",
    ["#ffffff", "#ffddad", "#feb96a", "#f69542", "#e7712a", "#d24e22", "#b72e22", "#951322", "#6e0520"],
)

RC: Any = {
    "figure.dpi": 220,
    "savefig.dpi": "figure",
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 10,
    "axes.titlepad": 5.0,
    "axes.labelsize": 9.5,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "image.origin": "lower",
    "pdf.fonttype": 42,  # embeds fonts as TrueType, so that other programs can edit the text
}


def styled(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorator: run a plotting function in this style, and restore the user's settings afterwards."""

    @wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with context(["default", RC]):
            return function(*args, **kwargs)

    return wrapper


class StyledFigure(Figure):
    """A figure that is also drawn in this style, because ticks and layout are only computed at drawing time."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw the figure in this style, whatever the settings are by then."""
        with context(["default", RC]):
            super().draw(renderer)


def new_figure(height: float, *, width: float = WIDTH, layout: Literal["constrained", "compressed"] | None) -> Figure:
    """An empty figure of `width` by `height` inches; the layout "compressed" suits grids of equal-aspect panels."""
    return StyledFigure(figsize=(width, height), layout=layout)


def png(figure: Figure) -> bytes:
    """The bytes of a PNG file: what `figure.savefig` writes or, if that exceeds 300 kB, the same in fewer colours."""
    full = io.BytesIO()
    figure.savefig(full, format="png")
    if full.tell() < MAX_PNG_BYTES:
        return full.getvalue()
    image = Image.open(full).convert("RGB")
    for colors in (256, 128, 64, 32):
        small = io.BytesIO()
        indexed(image, colors).save(small, format="PNG", optimize=True, dpi=(figure.dpi, figure.dpi))
        if small.tell() < MAX_PNG_BYTES:
            break
    return small.getvalue()


Format = Literal["png", "pdf", "svg"]


def rendered(figure: Figure, formats: Sequence[Format]) -> dict[Format, bytes]:
    """The bytes of a file in each format; PNG is always among them, for loggers and reports."""
    files: dict[Format, bytes] = {"png": png(figure)}
    for kind in set(formats) - {"png"}:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={"CreationDate" if kind == "pdf" else "Date": None})
        files[kind] = buffer.getvalue()
    return files


def indexed(image: Image.Image, colors: int) -> Image.Image:
    """Reduce an image to its `colors` most needed colours, without dithering, and make nearly white ones white."""
    result = image.quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette = np.array(result.getpalette()).reshape(-1, 3)
    palette[palette.min(axis=1) > 248] = 255
    result.putpalette(palette.ravel().tolist())
    return result


def numpy(values: Tensor) -> Array:
    """The values of any tensor as an array of float64, wherever it is and with or without gradients."""
    return np.asarray(values.detach().cpu().double().numpy(), dtype=np.float64)


def number(value: float) -> str:
    """A measured number as text for a label: three significant digits, two for 0.0001 to 0.001."""
    return f"{value:.3g}" if not 1e-4 <= abs(value) < 1e-3 else f"{value:.2g}"


def sigma_axis(axes: Axes, sigmas: Array, *, which: Literal["x", "y"] = "x") -> None:
    """Make an axis logarithmic in σ, and label it."""
    log_axis(axes, sigmas, "$\\sigma$ (data units)", which=which)


def log_axis(axes: Axes, values: Array, label: str, *, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, fit it to the values, and write plain numbers (0.01, 0.1, 1) at its ticks."""
    finite = values[np.isfinite(values) & (values > 0)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.1, 1.0)
    margin = (high / low) ** 0.04 if high / low > 4 else 1.3
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low / margin, high * margin)
    subs = range(1, 10) if high / low < 4 else (1, 2, 5) if high / low < 200 else (1,)
    axis.set_major_locator(LogLocator(subs=tuple(float(sub) for sub in subs)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_label_text(label)
