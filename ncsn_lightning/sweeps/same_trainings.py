"""Which jobs of a sweep are one and the same training, and differ only in what follows it, such as their sampling.

A job that has been built, and not yet trained, holds all that decides its training: the module with its first weights,
the data module with its target, its levels and its seed. So two jobs are the same training where these are equal, byte
by byte, whatever their configurations say. For example, a continuous density of levels takes only its two ends from the
schedule, so that schedules with the same ends train the same network.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config.plain import can_change_result
from .planning import Planned

if TYPE_CHECKING:
    from ..runs.lifecycle import Job

SEED = "seed"

BUILT = (
    "module",
    "data",
    "distribution",
    "schedule",
    "levels",
    "weighting",
    "objective",
    "network",
    "score",
    "optimizer",
)
"""Groups whose effect on the training is held by the built module and data module."""

AFTERWARDS = ("sampler", "evaluation", "score_test", "callbacks")
"""Groups that no step of a training depends on; they measure, draw, save and show."""


class _Digest:
    """A file that keeps the hash of what is written into it, and nothing else."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, content: Any) -> int:
        self.hash.update(content)
        return len(content)


class _Pickler(pickle.Pickler):
    """Writes tensors by their content alone; torch's own pickling would depend on where they lie in memory."""

    def reducer_override(self, value: Any) -> Any:
        import torch

        if isinstance(value, torch.Tensor):
            content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            return tuple, ((str(value.dtype), tuple(value.shape), content),)
        return NotImplemented


def fingerprint(job: Job) -> str | None:
    """A hash of all that decides a training that was built; None where a part of it cannot be pickled."""
    digest = _Digest()
    config = {key: value for key, value in job.record.config.items() if key not in (*BUILT, *AFTERWARDS)}
    settings = {key: value for key, value in config.items() if can_change_result(key)}
    settings["trainer"] = {
        key: value for key, value in config["trainer"].items() if can_change_result(f"trainer.{key}")
    }
    digest.write(json.dumps(settings, sort_keys=True, default=str).encode())
    try:
        _Pickler(digest).dump((job.module, job.data))
    except (pickle.PicklingError, AttributeError, TypeError):  # a user's own module may hold anything
        return None
    return digest.hash.hexdigest()


def idle_lines(jobs: Sequence[Planned], prints: Mapping[str, str | None], *, whole: bool = True) -> list[str]:
    """A line that names the swept keys that change no training, and how many trainings there are; empty without such.

    Args:
        jobs: that are about to begin.
        prints: the fingerprint of each job by its hash; jobs that differ in their seed alone may share one.
        whole: whether these are all jobs, and not a sample of those that a search may propose.
    """
    swept = list(dict.fromkeys(key for job in jobs for key in job.swept if key != SEED))
    idle = [key for key in swept if _is_idle(key, jobs, prints)]
    if not idle:
        return []
    changes, it = ("changes", "it") if len(idle) == 1 else ("change", "them")
    trainings = len({_without(job, *idle) for job in jobs})
    same = f"these {len(jobs)} jobs are {trainings} training{'s' * (trainings != 1)}"
    learns = f"a search by score_error learns nothing about {it}; leave {it} out"
    remedy = "; with levels=ladder training takes the schedule's own levels" if _would_matter(idle) else ""
    what = f"{changes} no training, only what follows it, such as the sampling"
    return [f"{' and '.join(idle)}: {what}, so {same if whole else learns}{remedy}"]


def _is_idle(key: str, jobs: Sequence[Planned], prints: Mapping[str, str | None]) -> bool:
    """Whether there are jobs that differ in this key alone, and all of them are one training."""
    groups: dict[tuple[str, ...], list[Planned]] = {}
    for job in jobs:
        groups.setdefault(_without(job, key), []).append(job)
    different = [{prints[job.hash] for job in group} for group in groups.values() if len(group) > 1]
    return bool(different) and all(len(found) == 1 and None not in found for found in different)


def _without(job: Planned, *keys: str) -> tuple[str, ...]:
    return tuple(text for text in job.line if text.partition("=")[0] not in keys)


def _would_matter(idle: Sequence[str]) -> bool:
    return any(key == "schedule" or key.startswith("schedule.") for key in idle)
