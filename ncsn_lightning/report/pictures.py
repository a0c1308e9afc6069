"""Small pictures of samples for the page: their densities in the colours of the package's figures."""

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
"""Numbers of pixels along a picture's longer side; the largest is taken with which all pictures fit into `BUDGET`."""

BUDGET = 1_300_000
"""The largest number of bytes of all pictures together, as text in a page."""

RAMP = ("#ffffff", "#bbe6ff", "#7dccfd", "#4db0f0", "#2992db", "#1d75bf", "#24599d", "#273e77", "#222650")
"""The colours of densities, from 0 to the highest."""

SHADES = 16
"""The number of colours in a picture."""


@dataclass
class Target:
    """A target, and the samples of the jobs on it.

    Attributes:
        truth: draws of the target, `[n, 2]`, data units.
        samples: of each job by the job's index, `[n, 2]`, data units.
        peaks: the target's highest density in a pixel, by the size of the pictures.
    """

    truth: Array
    samples: dict[int, Array] = field(default_factory=dict)
    peaks: dict[int, float] = field(default_factory=dict)

    @cached_property
    def frame(self) -> Array:
        """Lower and upper corner of the pictures, `[2, 2]`: 99.8 % of the target along either axis and a margin."""
        ends = np.quantile(self.truth, [0.001, 0.999], axis=0)
        centre, half = ends.mean(0), 0.6 * (ends[1] - ends[0])
        half = np.maximum(half, 0.6 * half.max())
        return np.stack([centre - half, centre + half])

    def draw(self, points: Array, side: int) -> str:
        """A picture of the density of points, on a square-root scale from 0 to the target's highest density.

        Args:
            points: `[n, 2]`, data units.
            side: pixels along the longer side.

        Returns:
            A PNG file in base64.
        """
        if side not in self.peaks:
            self.peaks[side] = float(np.quantile(self._density(self.truth, side), 0.995))
        return _png(np.sqrt(np.minimum(self._density(points, side) / self.peaks[side], 1)))

    def _density(self, points: Array, side: int) -> Array:
        """The share of the points in each pixel, slightly blurred, `[rows, columns]`, the top row first."""
        low, high = self.frame
        columns, rows = np.maximum(1, np.round(side * (high - low) / (high - low).max())).astype(int)
        x, y = ((points - low) / (high - low) * (columns, rows)).T
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)  # NaN and infinite coordinates are outside too
        pixels = (rows - 1 - y[inside].astype(int)) * columns + x[inside].astype(int)
        counts = np.bincount(pixels, minlength=rows * columns).reshape(rows, columns)
        return _blur(rows) @ counts @ _blur(columns) / len(points)


def gallery(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """The pictures of all jobs that left samples, target by target.

    Returns:
        For each target its `frame` ([left, right, bottom, top], data units), and PNG files in base64: `truth`, of the
        target's own draws, and `jobs`, of each job by its index.
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
    """The largest side with which all pictures fit into the budget, estimated from a few of them."""
    every = [(target, points) for target in targets for points in (target.truth, *target.samples.values())]
    some = every[:: max(1, len(every) // 16)]
    for side in SIDES:
        if sum(len(target.draw(points, side)) for target, points in some) * len(every) <= BUDGET * len(some):
            break
    return side


def _targets(jobs: Sequence[Job]) -> list[Target]:
    """The targets of the jobs; jobs on the same target have the same draws of it in their `samples.npz`."""
    found: dict[bytes, Target] = {}
    for index, job in enumerate(jobs):
        if (draws := read_draws(job)) is None:
            continue
        truth, samples = draws
        name = hashlib.blake2b(truth.tobytes()).digest()
        found.setdefault(name, Target(truth.astype(np.float64))).samples[index] = samples
    return list(found.values())


def read_draws(job: Job) -> tuple[Array, Array] | None:
    """Draws of a job's target and samples of its network, `[n, 2]` each, data units; None if the job left none."""
    try:
        with np.load(job.folder / "samples.npz") as file:
            return file["truth"], file["x"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # no file yet, or one of another program
        return None


def _png(darkness: Array) -> str:
    """An image of values from 0 (white) to 1 (the darkest shade), as a file in base64."""
    image = Image.fromarray(np.round((SHADES - 1) * darkness).astype(np.uint8), mode="P")
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True, bits=4)
    return base64.b64encode(file.getvalue()).decode()


def _blur(size: int) -> Array:
    """A matrix that blurs by a Gaussian of 0.7 pixels."""
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    return np.exp(-np.square(distance / 0.7) / 2)


def _palette() -> list[int]:
    stops = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in RAMP], dtype=np.float64)
    place = np.linspace(0, len(stops) - 1, SHADES)
    channels = [np.interp(place, np.arange(len(stops)), channel) for channel in stops.T]
    return [int(value) for value in np.round(np.stack(channels, 1)).ravel()]
