"""Progress of sampling, measuring and drawing: a bar with the time left on a terminal, elsewhere lines of the log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm  # type: ignore[import-untyped]

log = logging.getLogger(__name__)

Item = TypeVar("Item")


def on_terminal() -> bool:
    """Whether standard error is a terminal, on which a bar can be drawn."""
    return sys.stderr is not None and sys.stderr.isatty()


def tracked(items: Iterable[Item], what: str, *, total: int, bar: bool, later: str = "") -> Iterator[Item]:
    """Pass items on under a bar, which says what is done to them and how long it will still take.

    Args:
        items: what is passed on.
        what: what is done, for the bar, or for a line of the log where there is no bar.
        total: how many items there are.
        bar: whether to draw a bar.
        later: what is left to do after this, for the line.
    """
    if not bar:
        log.info("%s%s", what, f"; {later} left after that" if later else "")
    yield from _bar(items, total=total, desc=what, disable=not bar)


def _bar(items: Iterable[Any] | None, **options: Any) -> Any:
    return tqdm(items, leave=False, dynamic_ncols=True, file=sys.stderr, **options)


class Stages:
    """The stages of a command, each of one or several parts: one bar over all parts, or a line of the log per stage.

    Args:
        parts: how many parts all stages have together.
    """

    def __init__(self, parts: int) -> None:
        self.parts, self.done = parts, 0
        self.bar = _bar(None, total=parts, disable=not on_terminal())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.bar.close()

    def run(self, name: str, action: Callable[[], Item]) -> Item:
        """Run a stage of one part, and return its result."""
        for _ in self.over(name, [None]):
            result = action()
        return result

    def over(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Pass on the items of a stage; a part is what is done with one of them."""
        self.bar.set_description(name)
        if self.bar.disable:
            log.info("%s; %d of %d parts are left", name, self.parts - self.done, self.parts)
        for item in items:
            yield item
            self.done += 1
            self.bar.update()
