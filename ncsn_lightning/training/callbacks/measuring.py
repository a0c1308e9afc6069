"""What callbacks that measure have in common: the score that they measure, and a place for their results."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import lightning as L
import torch

from ...models.scores import Score
from ..module import HasScore

Kind = TypeVar("Kind")


class MeasuringCallback(L.Callback):
    """A callback whose results go into the metrics of the run's `summary.json`.

    Attributes:
        results: numbers, or dictionaries of numbers, by name.
    """

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the results of an earlier training."""
        self.results = {}


def first(trainer: L.Trainer, kind: type[Kind]) -> Kind | None:
    """The trainer's first callback of a class; None where it has none."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


@contextmanager
def measured(module: L.LightningModule, *, on_cpu: bool = False) -> Iterator[Score]:
    """A module's score as metrics, samplers and pictures call it: for evaluation, without gradients.

    Args:
        module: has a property or method `score`.
        on_cpu: use a copy in the CPU's memory where the module is on another device.
    """
    if on_cpu and module.device.type != "cpu":
        module = copy.deepcopy(module).cpu()
    assert isinstance(module, HasScore)
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield module.score
    finally:
        for part in training:
            part.training = True
