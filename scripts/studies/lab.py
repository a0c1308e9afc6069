"""Where a reproduction trains, measures and draws; what is finished there is not done again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from joblib import Parallel, delayed
from matplotlib.figure import Figure
from page import save, totals, train

from ncsn_lightning.core.atomic_files import replacing
from ncsn_lightning.plotting import png
from ncsn_lightning.report.metrics import plus_minus
from ncsn_lightning.sweeps.folder import Job, Sweep

LEAN = ("~callbacks.figures",)
"""The pictures of every run would take longer than a short training."""


@dataclass
class Lab:
    """The place of one reproduction.

    Attributes:
        name: of the reproduction.
        root: sweeps go to `root/sweeps/NAME…`, measurements to `root/NAME/*.json`.
        docs: the folder of the page; pictures go to its `images/`.
        launcher: of the trainings: `joblib` on all cores, which then measure as well, `basic` on one.
        overrides: for every training, last.
    """

    name: str
    root: Path
    docs: Path
    launcher: str
    overrides: list[str]
    sweeps: list[Sweep] = field(default_factory=list)
    seconds: float = 0.0

    def train(self, part: str, *overrides: str) -> list[Job]:
        """The jobs of a sweep `NAME`, or `NAME_part`, all of them finished.

        Raises:
            SystemExit: one of them did not finish.
        """
        name = f"{self.name}_{part}" if part else self.name
        place = (f"paths.root={self.root}", f"sweep_name={name}")
        line = [*place, *LEAN, *overrides, *self.overrides]
        self.sweeps.append(train(self.root / "sweeps" / name, line, launcher=self.launcher))
        return self.sweeps[-1].jobs

    def measure(self, tasks: dict[str, Callable[[], Any]]) -> dict[str, Any]:
        """What each task gives, by its name; its answer, plain data, is kept in a file of that name."""
        workers = Parallel(n_jobs=-1 if self.launcher == "joblib" else 1)
        folder = self.root / self.name
        answers = workers(delayed(_kept)(folder / f"{name}.json", task) for name, task in tasks.items())
        self.seconds += sum(answer["seconds"] for answer in answers)
        return {name: answer["value"] for name, answer in zip(tasks, answers, strict=True)}

    def picture(self, figure: Figure, shows: str) -> str:
        """Save the reproduction's picture, and how Markdown shows it."""
        return self._shown(png(figure), self.name, shows)

    def copied(self, picture: Path, part: str, shows: str) -> str:
        """The same of a picture that is drawn already, one of several."""
        return self._shown(picture.read_bytes(), f"{self.name}_{part}", shows)

    def _shown(self, content: bytes, name: str, shows: str) -> str:
        path = self.docs / "images" / f"result_{name}.png"
        save(content, path)
        return f"![{shows}](images/{path.name})"

    def totals(self) -> str:
        """How the numbers came about."""
        return totals(self.sweeps, measuring=self.seconds)


def _kept(path: Path, task: Callable[[], Any]) -> dict[str, Any]:
    if path.is_file():
        return json.loads(path.read_text())
    started = time.perf_counter()
    answer = {"value": task(), "seconds": time.perf_counter() - started}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(answer) + "\n")
    return answer


def floor_of(value: float, deviation: float) -> str:
    """What draws of the truth have, ± the standard deviation of one draw."""
    return f"{value:.2g} ± {deviation:.1g}"


def spread(values: Iterable[float]) -> str:
    """Mean ± standard deviation over seeds, of at least two."""
    found = list(values)
    return plus_minus(mean(found), stdev(found)) if len(found) > 1 else f"{found[0]:.3g}"
