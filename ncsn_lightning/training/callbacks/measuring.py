"""What callbacks that measure share: a module's score as it is measured, and a place for what they find."""

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
    """A callback whose findings go into the metrics of the run's `summary.json`.

    Attributes:
        results: what was found, by name: numbers, or dictionaries of numbers.
    """

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.results = {}


def first(trainer: L.Trainer, kind: type[Kind]) -> Kind | None:
    """The trainer's first callback of a kind, if it has one."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


@contextmanager
def measured(module: L.LightningModule, *, on_cpu: bool = False) -> Iterator[Score]:
    """A module's score as metrics, samplers and pictures call it: for evaluation, without gradients.

    Args:
        module: has a property or method `score`.
        on_cpu: use a copy on the processor where the module is elsewhere.
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
