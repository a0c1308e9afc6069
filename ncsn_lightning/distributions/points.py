r"""A target made of your own points: a kernel density on N rows of two numbers.

$$p = \frac1N \sum_i \mathcal N(x_i, h^2 I), \qquad p_\sigma = \frac1N \sum_i \mathcal N(x_i, (h^2 + \sigma^2) I)$$
"""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from ..core.validation import Index, Positive, Rows, Values, strict
from . import bandwidth as bandwidth_rules
from .base import Distribution
from .kernels import kernel_density
from .tables import NoColumnError, Table, is_known, read_file, read_values

TwoColumns = Annotated[Sequence[str | Index], Field(min_length=2, max_length=2)]

LARGEST, SMALLEST = 1e18, 1e-18
"""Largest and smallest length whose square float32 can represent, as networks need."""

DAMAGED = (ValueError, OSError, EOFError, MemoryError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)
"""Exceptions that reading a damaged file can raise."""


class Points(Distribution):
    r"""Points of a file or an array, resampled with Gaussian noise of standard deviation h.

    `bandwidth="auto"` is Scott's rule, h = σ_d N^(−1/6) with σ_d the root mean square of the centred data per
    dimension (Scott, "Multivariate Density Estimation", 1992; Silverman's rule gives the same in two dimensions). It
    is made for one round cloud and blurs finer structure. `"likelihood"` is the bandwidth under which each point is
    most likely given the others, and preserves curves and clusters.

    With more than 4096 points log p_σ and the score are exact to about 1e-6 (`KernelDensity`), and `torch.func.vmap`
    cannot be used.

    Args:
        path: a file of N rows and two columns, as text (`.csv`, `.tsv`, `.txt`, `.dat`: any usual delimiter and decimal
            mark, with or without a header) or numbers (`.npy`, `.npz`, `.pt`), or either with `.gz`; or the points
            themselves, `[N, 2]`: an array, a tensor, lists or a data frame.
        bandwidth: h, in data units, or a rule: "auto", "likelihood".
        columns: the two columns to read where there are more: names in the header, or positions counted from 0.

    Attributes:
        points: the points x_i in the data's own coordinates, `[N, 2]`, float64.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds anything but N × 2 finite numbers, or could be read in several ways.
    """

    points: Tensor

    @strict
    def __init__(
        self,
        *,
        path: Any,
        bandwidth: Positive | Literal["auto", "likelihood"] = "auto",
        columns: TwoColumns | None = None,
    ) -> None:
        named = str(path) if isinstance(path, str | os.PathLike) else type(path).__name__
        table = _checked(_table(path, columns, named), named)
        points = torch.from_numpy(table.values)
        width = float(bandwidth) if not isinstance(bandwidth, str) else _width(points, bandwidth, named)
        covariance = points.T.cov(correction=0).view(2, 2) + width**2 * torch.eye(2, dtype=torch.float64)
        super().__init__(mean=points.mean(0), covariance=covariance, scale=width, blur=width)
        self.bandwidth = width
        self._constant("points", points)
        self.kernels = kernel_density(points, bandwidth=width)
        self.notes = (_summary(table, named), *(f"{named}: {remark}" for remark in table.remarks))

    @property
    def files(self) -> dict[str, Float[Tensor, "n 2"] | None]:
        """The points in place of the file and of its columns."""
        return {"path": self.points, "columns": None}

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw some of the points with replacement, then add noise of deviation h."""
        device = self.points.device
        uniform = torch.rand(n, dtype=torch.float64, device=device, generator=generator)
        chosen = self.points[(uniform * len(self.points)).long()]
        noise = torch.randn(n, 2, dtype=torch.float64, device=device, generator=generator)
        return self._rounded(chosen + self.bandwidth * noise)

    def _log_prob(self, x: Rows, sigma: Values) -> Values:
        return self.kernels.log_prob(x, sigma)

    def _score(self, x: Rows, sigma: Values) -> Rows:
        return self.kernels.score(x, sigma)

    @cached_property
    def spacing(self) -> float:
        """The median distance from a point to its nearest neighbour, in data units."""
        return bandwidth_rules.spacing(self.points)

    @cached_property
    def hidden(self) -> float:
        """How much more likely a quarter of the bandwidth would make a point, in nats; see `gain_of_narrower`."""
        return bandwidth_rules.gain_of_narrower(self.points, self.bandwidth)

    @property
    def hides_structure(self) -> bool:
        """Whether narrower kernels would show structure that these blur."""
        return self.hidden > bandwidth_rules.NOTABLE_GAIN

    @cached_property
    def extent(self) -> float:
        """Largest distance between any two of the points, in data units; where h is larger, the diameter."""
        largest = _largest_distance((self.points - self.mean).cpu().numpy())
        return largest if largest > self.bandwidth else self.diameter


def _largest_distance(centred: NDArray[np.float64]) -> float:
    """The largest extent along 4096 even directions: the largest distance, to a relative error of 1e-7."""
    try:
        ends = centred[ConvexHull(centred).vertices]
    except QhullError:  # all lie on a line
        along = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1]
        ends = centred[[along.argmin(), along.argmax()]]
    angles = np.pi * np.arange(4096) / 4096
    directions = np.stack([np.cos(angles), np.sin(angles)])
    return max(float(np.ptp(ends @ part, axis=0).max()) for part in np.array_split(directions, 64, axis=1))


def _width(points: Rows, rule: str, path: str) -> float:
    """The bandwidth that a rule gives, in data units."""
    if (points == points[0]).all():
        raise ValueError(f"path={path}: a single distinct point leaves no automatic bandwidth; give bandwidth a number")
    return (bandwidth_rules.scott if rule == "auto" else bandwidth_rules.most_likely)(points)


def _table(path: Any, columns: Sequence[str | int] | None, named: str) -> Table:
    """Read the table in a file or in an array; raise an error of one line where that is impossible."""
    if path is None or isinstance(path, int | float):
        raise ValueError(f"path={path}: no file and no points; write the name of a file as a text, path='\"{path}\"'")
    try:
        if not isinstance(path, str | os.PathLike):
            return read_values(path, columns)
        file = Path(path).expanduser()
        if not is_known(file):
            raise ValueError(f"path={named}: unknown extension; save the points as .npy or .csv")
        return read_file(file, columns)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"path={named}: no such file; give an N × 2 .npy or .csv file") from error
    except NoColumnError as error:
        raise ValueError(f"columns={list(columns or ())}: {error}") from error
    except DAMAGED as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"path={named}: cannot be read ({reason}); save N × 2 numbers as .npy or .csv") from error


def _checked(table: Table, path: str) -> Table:
    """N × 2 finite numbers, or one line that says what else they are."""
    values, names = table.values, table.names
    if values.size == 0:
        raise ValueError(f"path={path}: empty; give at least one row of two numbers")
    if values.ndim != 2 or values.shape[1] != 2:
        known = ", ".join(name or str(place) for place, name in enumerate(names)) or "0, 1, …"
        remedy = f"columns=[…], of {known}" if values.shape[1:] > (2,) else ""
        remedy = f", or choose two by {remedy}" if remedy else ""
        raise ValueError(f"path={path}: of the shape {list(values.shape)}; give N rows of two columns{remedy}")
    for wrong, what, remedy in (
        (~np.isfinite(values), "a NaN or infinite value", "remove such rows"),
        (np.abs(values) > LARGEST, f"a value beyond {LARGEST:g}", "choose a larger unit"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong.any(axis=1))[0])
            raise ValueError(f"path={path}: {what} in row {row + 1}; {remedy}")
    if 0 < np.ptp(values, axis=0).max() < SMALLEST:
        raise ValueError(f"path={path}: points within {np.ptp(values, axis=0).max():g}; choose a smaller unit")
    return table


def _summary(table: Table, path: str) -> str:
    """One line for the log about what was read."""
    names = table.names or ["x", "y"]
    columns = f"columns {', '.join(names)}" if table.names else "no names of columns"
    ranges = (
        f"{name} {low:.10g} … {high:.10g}"
        for name, low, high in zip(names, table.values.min(axis=0), table.values.max(axis=0), strict=True)
    )
    first = ", ".join(f"{value:.10g}" for value in table.values[0])
    count = f"{len(table.values)} point{'s' * (len(table.values) > 1)}"
    return f"{path}: {count}, {columns}; the first is ({first}); {', '.join(ranges)}"
