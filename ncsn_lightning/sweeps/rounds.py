"""What a command is to run: all the jobs of a grid at once, or those of a search as they are proposed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .conductor import Conductor
from .folder import State
from .planning import Planned

Record = Callable[[list[Planned]], None]
"""Notes the jobs of a command in its sweep's folder."""

Say = Callable[[str], None]
"""Prints a line."""


@dataclass(frozen=True)
class Rounds:
    """The jobs of a command.

    Attributes:
        opening: what they are, in a few words.
        sample: jobs that are built before the first one begins, for what is wrong with any of them.
        total: how many there will be.
        names: their hashes, round by round; whoever asks for a round has run the one before.
        well: states in which they may end.
    """

    opening: str
    sample: list[Planned]
    total: int
    names: Iterator[list[str]]
    well: tuple[State, ...] = ("finished",)


def grid(jobs: list[Planned], conductor: Conductor, record: Record, *, retry_failed: bool) -> Rounds:
    """One round of all that is left of some jobs."""
    conductor.add(jobs)
    names = conductor.unfinished(retry_failed=retry_failed)

    def once() -> Iterator[list[str]]:
        record(jobs)
        yield names

    opening = f"{len(jobs)} job{'s' if len(jobs) != 1 else ''}, {len(jobs) - len(names)} done before"
    return Rounds(opening, [conductor.jobs[name] for name in names], len(jobs), once())
