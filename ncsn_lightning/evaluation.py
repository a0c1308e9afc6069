"""What is asked of a trained run: samples, and how wrong it is."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import Tensor

from . import plotting
from .building import Builder
from .configuration import packages
from .files import replacing
from .metrics import ScoreTest, off_support
from .runs import Run, load_run
from .samplers import Sampler
from .scores import Score

log = logging.getLogger(__name__)


class Question:
    """A run and how it is to be sampled, as the command line has it; every wrong value is said at once.

    Args:
        config: the plain configuration of the command.
        counts: its keys that are whole numbers of at least 1.
        suffixes: of the file that the answer may go to.

    Raises:
        Refusal: naming every wrong value, a line each.
    """

    def __init__(self, config: dict[str, Any], *, counts: tuple[str, ...], suffixes: tuple[str, ...]) -> None:
        self.builder = builder = Builder(config)
        for name, least in (*((name, 1) for name in counts), ("seed", 0)):
            value = config[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                builder.refuse(f"{name}={value!r}: give a whole number of at least {least}", broken=name)
        self.n, self.seed = config["n"], config["seed"]
        self.out = _writable(builder, suffixes) if config["out"] is not None else None
        run = self._run(config)
        sampler = self._sampler(run) if "sampler" in config else None
        builder.check()
        assert run is not None
        self.run: Run = run
        self.sampler: Sampler = sampler or run.sampler

    def _run(self, config: dict[str, Any]) -> Run | None:
        path = self.builder.build("run", str)
        if not isinstance(path, str):
            return None
        try:
            return load_run(path, trust=packages(config["trust"]))
        except (ValueError, FileNotFoundError) as error:
            for line in str(error).splitlines():
                self.builder.refuse(line)
            return None

    def _sampler(self, run: Run | None) -> Any:
        """The one that the command line names, in place of the run's own."""
        sampler = self.builder.build("sampler", Sampler)
        if isinstance(sampler, Sampler) and run is not None:
            self.builder.attempt("sampler.", lambda: sampler.check(run.schedule.sigmas))
            self.builder.attempt("sampler.", lambda: sampler.check_target(run.distribution, run.schedule.sigmas))
        return sampler

    def draw(self, score: Score) -> Tensor:
        """Samples of a score by this sampler, `[n, 2]`."""
        run = self.run
        *_, last = self.sampler.walk(score, run.distribution, run.schedule.sigmas, n=self.n, seed=self.seed)
        return last


def _writable(builder: Builder, suffixes: tuple[str, ...]) -> Path:
    out = Path(builder.config["out"])
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if out.suffix not in suffixes:
        builder.refuse(f"out={out}: give a name that ends in {' or '.join(suffixes)}")
    elif not folder.is_dir() or not os.access(folder, os.W_OK) or out.is_dir():
        builder.refuse(f"out={out}: cannot be written; choose another place")
    return out


def sample(config: dict[str, Any]) -> Path:
    """Draw samples from a run into `out` (.npz with key `x`, or .csv), and a picture beside it."""
    question = Question(config, counts=("n",), suffixes=(".npz", ".csv"))
    x, out = question.draw(question.run.score), Path(config["out"])
    with replacing(out) as path:
        if out.suffix == ".npz":
            np.savez(path, x=x.numpy())
        else:
            np.savetxt(path, x.numpy(), delimiter=",", header="x1,x2", comments="")
    picture = out.with_suffix(".png")
    with replacing(picture) as path:
        path.write_bytes(plotting.png(plotting.plot_samples(question.run.distribution, x)))
    log.info("%d samples in %s, a picture in %s", len(x), out, picture)
    return out


def evaluate(config: dict[str, Any]) -> dict[str, Any]:
    """Print how wrong a run's score is at each level, and its samples beside those of the exact score."""
    question = Question(config, counts=("n", "num_levels"), suffixes=(".json",))
    run = question.run
    errors = _score_test(run, config)(run.score)
    scores: dict[str, Score] = {"network": run.score, "exact score": run.distribution.score}
    numbers: dict[str, Any] = {
        "score_error": float(errors.relative.mean()),
        "score_error_per_level": errors.per_level,
        "off_support": {name: off_support(run.distribution, question.draw(score)) for name, score in scores.items()},
    }
    _print(numbers)
    if question.out is not None:
        with replacing(question.out) as path:
            path.write_text(json.dumps(numbers, indent=2) + "\n")
    return numbers


def _score_test(run: Run, config: dict[str, Any]) -> ScoreTest:
    """The grid of the run's own test, or from and to where the command line says."""
    ends = {end: config[end] if config[end] is not None else run.config["score_test"][end] for end in _ENDS}
    arguments = {name: f"${{{name}}}" for name in ("distribution", "num_levels", *ends)}
    node = {"_target_": f"{ScoreTest.__module__}.ScoreTest", "num_points": 10000, **arguments}
    builder = Builder({**config, **ends, "score_test": node}, given={"distribution": run.distribution})
    test: ScoreTest = builder.build("score_test")
    builder.check()
    return test


_ENDS = ("sigma_min", "sigma_max")


def _print(numbers: dict[str, Any]) -> None:
    console = Console()
    table = Table("σ (data units)", "E‖s_θ−s‖² / E‖s‖²", title="relative score error")
    for sigma, error in numbers["score_error_per_level"].items():
        table.add_row(sigma, f"{error:.3g}")
    table.add_section()
    table.add_row("mean", f"{numbers['score_error']:.3g}")
    console.print(table)
    for name, share in numbers["off_support"].items():
        console.print(f"samples off the support, {name} with this sampler: {share:.2%}")
