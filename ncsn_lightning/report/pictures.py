"""Small pictures of samples: densities in the colours of the package's figures, one frame for each target."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..sweeps.folder import Job

Array = NDArray[np.float64]

SIDES = (96, 80, 64, 48, 40, 32)
"""Pixels along a picture's longer side, of which the largest is taken that keeps all of them within `BUDGET`."""

BUDGET = 1_300_000
"""Bytes of all pictures together, as text in a page."""

RAMP = ("#ffffff", "#bbe6ff", "#7dccfd", "#4db0f0", "#2992db", "#1d75bf", "#24599d", "#273e77", "#222650")
SHADES = 16


@dataclass
class Target:
    """What jobs on one target drew.

    Attributes:
        truth: draws of the target, `[n, 2]`, data units.
        samples: of each job, by its index, `[n, 2]`, data units.
        peaks: the truth's highest density in a pixel, by the pictures' size.
    """

    truth: Array
    samples: dict[int, Array] = field(default_factory=dict)
    peaks: dict[int, float] = field(default_factory=dict)

    @cached_property
    def frame(self) -> Array:
        """Lower and upper corner, `[2, 2]`: 99.8 % of the target along either axis, padded by a tenth."""
        ends = np.quantile(self.truth, [0.001, 0.999], axis=0)
        centre, half = ends.mean(0), 0.6 * (ends[1] - ends[0])
        half = np.maximum(half, 0.6 * half.max())
        return np.stack([centre - half, centre + half])

    def draw(self, points: Array, side: int) -> str:
        """A picture of points: their density on a square-root scale, the same for all, up to the truth's highest."""
        if side not in self.peaks:
            self.peaks[side] = float(np.quantile(self._density(self.truth, side), 0.995))
        return _png(np.sqrt(np.minimum(self._density(points, side) / self.peaks[side], 1)))

    def _density(self, points: Array, side: int) -> Array:
        """Share of the points in each pixel, slightly blurred, `[rows, columns]`, the top row first."""
        low, high = self.frame
        columns, rows = np.maximum(1, np.round(side * (high - low) / (high - low).max())).astype(int)
        x, y = ((points - low) / (high - low) * (columns, rows)).T
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)  # false for what is not finite, too
        pixels = (rows - 1 - y[inside].astype(int)) * columns + x[inside].astype(int)
        counts = np.bincount(pixels, minlength=rows * columns).reshape(rows, columns)
        return _blur(rows) @ counts @ _blur(columns) / len(points)


def gallery(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """The pictures of all jobs that left samples, target by target.

    Returns:
        For each target its `frame` ([left, right, bottom, top], data units), and PNG files in base64: the `truth`, and
        `jobs`, by the index of each.
    """
    targets = _targets(jobs)
    side = _side(targets)
    return [
        {
            "frame": [float(f"{value:.3g}") for value in target.frame.T.ravel()],
            "truth": target.draw(target.truth, side),
            "jobs": {str(index): target.draw(points, side) for index, points in target.samples.items()},
        }
        for target in targets
    ]


def _side(targets: Sequence[Target]) -> int:
    """The largest side that keeps all pictures within the budget, as far as a few of them tell."""
    every = [(target, points) for target in targets for points in (target.truth, *target.samples.values())]
    some = every[:: max(1, len(every) // 16)]
    for side in SIDES:
        if sum(len(target.draw(points, side)) for target, points in some) * len(every) <= BUDGET * len(some):
            break
    return side


def _targets(jobs: Sequence[Job]) -> list[Target]:
    """Jobs on the same target have the same draws of it in their `samples.npz`."""
    found: dict[bytes, Target] = {}
    for index, job in enumerate(jobs):
        if (draws := read_draws(job)) is None:
            continue
        truth, samples = draws
        name = hashlib.blake2b(truth.tobytes()).digest()
        found.setdefault(name, Target(truth.astype(np.float64))).samples[index] = samples
    return list(found.values())


def read_draws(job: Job) -> tuple[Array, Array] | None:
    """Draws of a job's target and of its network, `[n, 2]` each, data units; None where it left none."""
    try:
        with np.load(job.folder / "samples.npz") as file:
            return file["truth"], file["x"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # none yet, or of another program
        return None


def _png(darkness: Array) -> str:
    """An image of values from 0 (white) to 1 (the darkest shade), as a file in base64."""
    image = Image.fromarray(np.round((SHADES - 1) * darkness).astype(np.uint8), mode="P")
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True, bits=4)
    return base64.b64encode(file.getvalue()).decode()


def _blur(size: int) -> Array:
    """A Gaussian of .7 pixels, as a matrix."""
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    return np.exp(-np.square(distance / 0.7) / 2)


def _palette() -> list[int]:
    stops = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in RAMP], dtype=np.float64)
    place = np.linspace(0, len(stops) - 1, SHADES)
    channels = [np.interp(place, np.arange(len(stops)), channel) for channel in stops.T]
    return [int(value) for value in np.round(np.stack(channels, 1)).ravel()]
