"""A progress bar for long work: on stderr, only on a terminal, never between lines of output there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

T = TypeVar("T")


def tracked(items: Sequence[T], what: str) -> Iterable[T]:
    """The items, with a bar where a person waits and the output goes elsewhere."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        return items
    return _bar(items, what)


def _bar(items: Sequence[T], what: str) -> Iterator[T]:
    from rich.console import Console  # noqa: PLC0415 - 60 ms that only a bar needs
    from rich.progress import track  # noqa: PLC0415 - the same

    yield from track(items, what, console=Console(stderr=True), transient=True)
