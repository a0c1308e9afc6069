r"""The user's own points: a file of N rows and two columns, as a kernel density.

$$p = \frac1N \sum_i \mathcal N(x_i, h^2 I), \qquad p_\sigma = \frac1N \sum_i \mathcal N(x_i, (h^2 + \sigma^2) I)$$
"""

from __future__ import annotations

import csv
import tokenize
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from ..arguments import Positive, strict
from . import bandwidth as bandwidth_rules
from .base import Distribution
from .kernels import kernel_density


class Points(Distribution):
    r"""Points of a file, resampled with Gaussian noise of standard deviation h.

    `bandwidth="auto"` is Scott's rule, h = σ_d N^(−1/6) with σ_d the root mean square of the centred data per
    dimension (Scott, "Multivariate Density Estimation", 1992; Silverman's rule gives the same in two dimensions). It
    is made for one round cloud and blurs finer structure: `"likelihood"` is the bandwidth under which each point is
    most likely given the others, and finds curves and clusters.

    Of more than 4096 points log p_σ and the score are exact to some 1e-6 (`KernelDensity`), and not for `vmap`.

    Args:
        path: `.npy` (numbers, `[N, 2]`) or `.csv` (commas, two columns, with or without a header line), or the points
            themselves, `[N, 2]`.
        bandwidth: h, data units, or a rule: "auto", "likelihood".

    Attributes:
        points: what was read, `[N, 2]` float64.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds anything but N × 2 finite numbers.
    """

    points: Tensor

    @strict
    def __init__(self, *, path: str | Tensor, bandwidth: Positive | Literal["auto", "likelihood"] = "auto") -> None:
        name = path if isinstance(path, str) else "tensor"
        points = torch.from_numpy(_checked(_read(path) if isinstance(path, str) else _values(path), name))
        width = float(bandwidth) if not isinstance(bandwidth, str) else _width(points, bandwidth, name)
        covariance = points.T.cov(correction=0).view(2, 2) + width**2 * torch.eye(2, dtype=torch.float64)
        super().__init__(mean=points.mean(0), covariance=covariance, scale=width, blur=width)
        self.bandwidth = width
        self._constant("points", points)
        self.kernels = kernel_density(points, bandwidth=width)

    @property
    def files(self) -> dict[str, Float[Tensor, "n 2"]]:
        return {"path": self.points}

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """One of the points, then noise."""
        device = self.points.device
        uniform = torch.rand(n, dtype=torch.float64, device=device, generator=generator)
        chosen = self.points[(uniform * len(self.points)).long()]
        noise = torch.randn(n, 2, dtype=torch.float64, device=device, generator=generator)
        return self._rounded(chosen + self.bandwidth * noise)

    def _log_prob(self, x: Float64[Tensor, "n 2"], sigma: Float64[Tensor, "n"]) -> Float64[Tensor, "n"]:
        return self.kernels.log_prob(x, sigma)

    def _score(self, x: Float64[Tensor, "n 2"], sigma: Float64[Tensor, "n"]) -> Float64[Tensor, "n 2"]:
        return self.kernels.score(x, sigma)

    @cached_property
    def spacing(self) -> float:
        """The median distance from a point to its nearest neighbour, data units."""
        return bandwidth_rules.spacing(self.points)

    @cached_property
    def hidden(self) -> float:
        """What the kernels hide: by how much a quarter of the bandwidth would make a point more likely, nats."""
        return bandwidth_rules.gain_of_narrower(self.points, self.bandwidth)

    @property
    def hides_structure(self) -> bool:
        """Whether narrower kernels would show what these blur."""
        return self.hidden > bandwidth_rules.MATTERS

    def extra_repr(self) -> str:
        return f"{len(self.points)} points, bandwidth={self.bandwidth:.4g}, neighbours {self.spacing:.4g} apart"

    @cached_property
    def extent(self) -> float:
        """Largest distance between any two of the points; where h is larger, the diameter."""
        largest = _largest_distance((self.points - self.mean).cpu().numpy())
        return largest if largest > self.bandwidth else self.diameter


def _largest_distance(centred: NDArray[np.float64]) -> float:
    """The largest extent along 4096 even directions, which is the largest distance to a relative 1e-7."""
    try:
        ends = centred[ConvexHull(centred).vertices]
    except QhullError:  # all lie on a line
        along = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1]
        ends = centred[[along.argmin(), along.argmax()]]
    angles = np.pi * np.arange(4096) / 4096
    directions = np.stack([np.cos(angles), np.sin(angles)])
    return max(float(np.ptp(ends @ part, axis=0).max()) for part in np.array_split(directions, 64, axis=1))


def _values(points: Float[Tensor, "..."]) -> NDArray[np.float64]:
    return points.detach().to("cpu", torch.float64, copy=True).numpy()


def _width(points: Float64[Tensor, "n 2"], rule: str, path: str) -> float:
    if (points == points[0]).all():
        raise ValueError(f"path={path}: a single distinct point leaves no automatic bandwidth; give bandwidth a number")
    return (bandwidth_rules.scott if rule == "auto" else bandwidth_rules.most_likely)(points)


def _checked(values: NDArray[np.float64], path: str) -> NDArray[np.float64]:
    """N × 2 finite numbers, or one line that says what else they are."""
    if values.size == 0:
        raise ValueError(f"path={path}: empty; give at least one row of two numbers")
    if values.ndim != 2 or values.shape[1] != 2:
        raise ValueError(f"path={path}: of the shape {list(values.shape)}; give N rows of two columns")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0]) + 1
        raise ValueError(f"path={path}: a NaN or infinite value in row {row}; remove such rows")
    return values


def _read(path: str) -> NDArray[np.float64]:
    """The file's numbers, or one line that says why there are none."""
    file = Path(path).expanduser()
    readers = {".npy": _read_npy, ".csv": _read_csv}
    if file.suffix.lower() not in readers:
        raise ValueError(f"path={path}: unknown extension; save the points as .npy or .csv")
    if not file.exists():
        raise FileNotFoundError(f"path={path}: no such file; give an N × 2 .npy or .csv file")
    try:
        return readers[file.suffix.lower()](file)
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError, tokenize.TokenError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"path={path}: cannot be read ({reason}); save N × 2 numbers as .npy or .csv") from error


def _read_npy(file: Path) -> NDArray[np.float64]:
    with file.open("rb") as stream:
        if not stream.read(1):
            return np.empty((0, 2))
        stream.seek(0)
        values = np.lib.format.read_array(stream, allow_pickle=False)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"its values are of type {values.dtype}, not real numbers")
    return values.astype(np.float64)


def _read_csv(file: Path) -> NDArray[np.float64]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        rows = [(number, row) for number, row in enumerate(csv.reader(stream), start=1) if any(map(str.strip, row))]
    if rows and not any(_is_number(cell) for cell in rows[0][1]):
        rows = rows[1:]  # a header
    width = len(rows[0][1]) if rows else 2
    for number, row in rows:
        if len(row) != width:
            raise ValueError(f"line {number} has {len(row)} columns, the first one {width}")
        for cell in row:
            if not _is_number(cell):
                raise ValueError(f"line {number} has the text {cell.strip()[:40]!r} where a number belongs")
    return np.array([[float(cell) for cell in row] for _, row in rows]).reshape(-1, width)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
