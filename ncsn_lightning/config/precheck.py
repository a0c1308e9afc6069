"""A check of a training's mathematics before Lightning and W&B are imported.

Their import takes several seconds, for which the message about a mistyped learning rate need not wait. All wrong values
are still said at once: if the command line also sets a value that only Lightning can judge, this check says nothing,
and the check of the whole training says everything.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..distributions.base import Distribution
from ..samplers.base import Sampler
from ..schedules import Schedule
from .build import REFUSALS, Builder, fill_automatic, first_line

SEEN = ("distribution", "schedule", "levels", "weighting", "objective", "network", "score", "sampler", "optimizer")
"""Groups whose objects are built by this check."""

HARMLESS = ("logger", "experiment", "evaluation", "name", "project", "group", "tags", "sweep_name", "sweep")
"""Overrides that need no further check: they choose an option, or take any text."""


def refused(config: dict[str, Any], *, overrides: list[str]) -> list[str]:
    """A line for each wrong value of a training; no lines where only the check of the whole training can tell.

    Args:
        config: the plain configuration.
        overrides: of the command line.
    """
    seen = all(_is_seen(override) for override in overrides)
    if not seen or (config.get("distribution") or {}).get("path"):  # a file of points should be read only once
        return []
    builder = Builder(config)
    fill_automatic(builder)
    for path in (name for name in SEEN if config.get(name) is not None):
        builder.build(path)
    check_parts(builder)
    return builder.lines


def check_parts(builder: Builder) -> None:
    """Refuse a sampler that cannot walk the ladder on the target, and an optimiser that torch refuses."""
    sampler, schedule, target = builder.build("sampler"), builder.build("schedule"), builder.target
    optimizer = builder.build("optimizer")
    if isinstance(sampler, Sampler) and isinstance(schedule, Schedule):
        builder.attempt("sampler.", lambda: sampler.check(schedule.sigmas))
        if isinstance(target, Distribution):
            builder.attempt("sampler.", lambda: sampler.check_target(target, schedule.sigmas))
    if isinstance(optimizer, functools.partial):
        _check_optimizer(builder, optimizer)


def _check_optimizer(builder: Builder, optimizer: functools.partial[Any]) -> None:
    """Refuse an optimiser that torch refuses, by the one setting that is wrong, where it is one."""

    def refusal(settings: dict[str, Any]) -> str:
        try:
            optimizer.func([{"params": [torch.zeros(1)]}], **settings)
        except REFUSALS as error:
            return first_line(error)
        return ""

    if said := refusal(optimizer.keywords):
        alone = [f".{key}={value}" for key, value in optimizer.keywords.items() if refusal({key: value}) == said]
        settings = ", of " + ", ".join(f"{key}={value}" for key, value in optimizer.keywords.items())
        builder.refuse(f"optimizer{alone[0] if alone else settings}: {said}; give another value")


def _is_seen(override: str) -> bool:
    """Whether this check sees everything that can be wrong with an override."""
    key, _, value = override.lstrip("+~").partition("=")
    if key in ("seed", "trainer.max_steps", "threads", "data.batch_size"):
        return value.isdecimal() and (int(value) > 0 or key == "seed") and len(value) < 9
    group = key.partition(".")[0].partition("/")[0].partition("@")[0]
    return group in (*SEEN, "hydra") or key in HARMLESS
