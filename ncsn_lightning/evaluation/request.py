"""A request to sample or measure a trained run, made from a command line; all wrong values are said at once."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from ..config.build import Builder
from ..config.plain import config_hash, packages, value_at
from ..models.scores import ExactScore, Score
from ..plotting import Format
from ..runs.load import Run, load_run, take_threads
from ..samplers.base import Sampler
from ..schedules import Schedule
from ..training.module import HasScore
from .walks import Chains

RECIPE = ("distribution", "network", "score", "levels", "weighting", "optimizer", "data", "module", "trainer")
"""Keys of a configuration that decide how well a network can learn its targets."""

EXACT_SCORE = "ncsn_lightning.models.ExactScore"
"""The class that `score=exact` names."""

EXACT_OBJECTIVE = "ncsn_lightning.objectives.Exact"
"""The class that `objective=exact` names."""


class Request:
    """A run and the way in which it is to be sampled, as a command line asks for it.

    Target, scores and chains are in coordinates in which the target's mean is 0.

    Args:
        config: the plain configuration of the command, checked by `precheck.check`.

    Attributes:
        n: number of chains.
        seed: of the first walk.
        out: the file for the answer; None for no file.
        formats: of the figures.
        run: the trained run.
        schedule: the ladder down which the sampler walks.
        target: of the run.
        sampler: of the command line, else the run's own.
        exact: the exact score of the target.
        score: `exact` if the command line asks for it, else the network's.
        ceiling: a run of the same recipe trained on exact targets; None where none is given.

    Raises:
        Refusal: a value is wrong; the message has a line for each.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.builder = builder = Builder(config)
        take_threads(config["threads"])
        self.n, self.seed = config["n"], config["seed"]
        self.out = Path(config["out"]).expanduser() if config["out"] is not None else None
        self.formats = _formats(builder)
        run = self._run("run", config)
        if run is not None:
            self.schedule: Schedule = self._schedule(run)
        builder.check()
        assert run is not None
        self.run: Run = run
        self.target = run.distribution.centred()
        self.sampler: Sampler = self._sampler()
        builder.check()
        self.exact = ExactScore(self.target)
        self.score: Score = self.exact if self._wants_exact_score(config) else score_of(run)
        builder.attempt("sampler: ", lambda: self.sampler.check_score(self.score))
        self.ceiling = self._ceiling(config) if config.get("ceiling") is not None else None
        builder.check()

    def _run(self, key: str, config: dict[str, Any]) -> Run | None:
        """The run that the key `run` or `ceiling` names; None if it is refused."""
        path = self.builder.build(key, str)
        if not isinstance(path, str):
            return None
        try:
            return load_run(path, trust=packages(config["trust"]), threads=None)
        except (ValueError, FileNotFoundError) as error:
            for line in str(error).splitlines():
                self.builder.refuse(line.replace("run=", f"{key}=", 1))
            return None

    def _ceiling(self, config: dict[str, Any]) -> Run | None:
        """The run that `ceiling` names; its error is due to the network's capacity and not to noise of the targets."""
        ceiling = self._run("ceiling", config)
        if ceiling is None:
            return None
        others = [
            key for key in RECIPE if config_hash({key: self.run.config[key]}) != config_hash({key: ceiling.config[key]})
        ]
        if ceiling.config["objective"]["_target_"] != EXACT_OBJECTIVE:
            others.append("objective")
        if others:
            self.builder.refuse(
                f"ceiling={config['ceiling']}: its {', '.join(others)} is another; give the run's own recipe, trained "
                "with objective=exact"
            )
        return ceiling

    def _schedule(self, run: Run) -> Any:
        """The ladder that the command line names, else the run's own; ends that are `auto` are those of the run's."""
        node = self.builder.config.get("schedule")
        if node is None:
            return run.schedule
        for end, sigma in run.schedule.ends.items():
            if node.get(end) == "auto":
                node[end] = sigma
        return self.builder.build("schedule", Schedule)

    def _sampler(self) -> Any:
        """The sampler that the command line names, else the run's own."""
        named = self.builder.config.get("sampler") is not None
        sampler = self.builder.build("sampler", Sampler) if named else self.run.sampler
        if isinstance(sampler, Sampler):
            self.builder.attempt("sampler.", lambda: sampler.check(self.schedule.sigmas))
            self.builder.attempt("sampler.", lambda: sampler.check_target(self.target, self.schedule.sigmas))
        return sampler

    def _wants_exact_score(self, config: dict[str, Any]) -> bool:
        """Whether the exact score takes the network's place; any other score would need training and is refused."""
        name = (config.get("score") or {}).get("_target_")
        if name not in (None, EXACT_SCORE):
            self.builder.refuse(f"score={name}: a run has its own network; choose exact, or leave it out")
        return name is not None

    @cached_property
    def chains(self) -> Chains:
        """Chains of the sampler down the ladder; a property that is cached, and so are the walks in it."""
        return Chains(self.sampler, self.target, self.schedule, n=self.n)


def score_of(run: Run) -> Score:
    """The run's score as it was trained, in coordinates in which the target's mean is 0."""
    assert isinstance(run.module, HasScore)
    return run.module.score


def _formats(builder: Builder) -> list[Format]:
    """The formats of the figures, given as one format or as a list of them."""
    given = value_at(builder.config, "figures.format")
    formats: list[Format] = given if isinstance(given, list) else [given]
    if wrong := [kind for kind in formats if kind not in get_args(Format)]:
        builder.refuse(
            f"figures.format={given}: {wrong[0]} is none of {', '.join(get_args(Format))}; choose one of them"
        )
    return formats
