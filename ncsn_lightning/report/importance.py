"""Which keys matter if the points form no grid: the functional analysis of variance of a random forest.

The forest is a model of the metric (Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter
Importance, ICML 2014; Optuna's implementation). It gives a share to a parameter without any effect too. So a random
number is added to every point as one more parameter, and only a parameter whose share exceeds that of the random number
can be said to matter.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LEAST_POINTS = 10
"""The smallest number of points to which a forest is fitted."""


class Importance(NamedTuple):
    """A parameter's share of the variance, according to the forest.

    Attributes:
        key: of the parameter.
        share: of the parameter in the variance that single parameters explain.
        chance: the share of the random number.
    """

    key: str
    share: float
    chance: float


def installed() -> bool:
    """Whether the packages that the forest needs are installed (the extra `search`)."""
    return all(importlib.util.find_spec(name) for name in ("optuna", "sklearn"))


def importances(points: Sequence[Mapping[str, str]], values: Sequence[float]) -> list[Importance]:
    """The shares of the swept parameters, largest first; none for fewer than `LEAST_POINTS` points or equal values.

    Args:
        points: the parameters of each job, as the command line gives them; numbers count as numbers.
        values: the metric at each point.
    """
    if len(points) < LEAST_POINTS or len(set(values)) == 1:
        return []
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    draw = random.Random(0)
    columns: dict[str, list[Any]] = {key: _column([point.get(key, "") for point in points]) for key in _keys(points)}
    noise = "a random number"
    columns[noise] = [draw.random() for _ in points]
    space = {key: _distribution(column) for key, column in columns.items()}
    study = optuna.create_study()
    for index, value in enumerate(values):
        row = {key: column[index] for key, column in columns.items()}
        study.add_trial(optuna.trial.create_trial(params=row, distributions=space, value=value))
    shares = FanovaImportanceEvaluator(n_trees=32, max_depth=8, seed=0).evaluate(study)
    whole = sum(shares.values())
    found = [
        Importance(key, float(share / whole), float(shares[noise] / whole))
        for key, share in shares.items()
        if key != noise
    ]
    return sorted(found, key=lambda importance: -importance.share)


def _keys(points: Sequence[Mapping[str, str]]) -> list[str]:
    """The parameters that differ between points."""
    every = dict.fromkeys(key for point in points for key in point)
    return [key for key in every if len({point.get(key) for point in points}) > 1]


def _column(texts: list[str]) -> list[Any]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        return texts


def _distribution(column: list[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(column[0], str):
        return CategoricalDistribution(list(dict.fromkeys(column)))
    low, high = min(column), max(column)
    return FloatDistribution(low, high, log=low > 0 and high / low >= 10)
