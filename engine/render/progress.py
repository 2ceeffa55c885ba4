"""Progress bars on stderr. Shown only on a terminal, and not while the output goes to a pipe."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")


def with_progress(items: Sequence[T], what: str) -> Iterable[T]:
    """Return the items. Show a bar while they are used, if stdout is a file."""
    return _bar(items, what) if is_shown() and not sys.stdout.isatty() else items


def is_shown() -> bool:
    """Return whether a bar is shown: stderr is a terminal, and stdout is not a pipe (for example, a pager)."""
    if not sys.stderr.isatty():
        return False
    try:
        return not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):  # closed, or not a file
        return True


@contextmanager
def byte_progress(size: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """Return a function that sets the bar to a number of bytes. size: all bytes (None: not known)."""
    if not is_shown():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - takes 60 ms, and only a bar needs it
    from rich.progress import (  # noqa: PLC0415 - the same
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=size)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def row_progress(what: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Return a function that starts the bar with the number of rows, and returns one that sets the done ones."""
    if not is_shown():
        yield lambda _: lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - takes 60 ms, and only a bar needs it
    from rich.progress import Progress  # noqa: PLC0415 - the same

    with Progress(console=Console(stderr=True), transient=True) as bar:

        def started(rows: int) -> Callable[[int], None]:
            task = bar.add_task(what, total=rows)
            return lambda done: bar.update(task, completed=done)

        yield started


def _bar(items: Sequence[T], what: str) -> Iterator[T]:
    from rich.console import Console  # noqa: PLC0415 - takes 60 ms, and only a bar needs it
    from rich.progress import track  # noqa: PLC0415 - the same

    yield from track(items, what, console=Console(stderr=True), transient=True)
