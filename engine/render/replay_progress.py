"""A progress bar by bytes of a file, on stderr, only on a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.recorded import Source


@contextmanager
def progress(source: Source) -> Iterator[Callable[[], None]]:
    """What moves the bar when called; of a compressed file it shows the compressed bytes."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415 - 60 ms that only a bar needs
    from rich.progress import (  # noqa: PLC0415 - the same
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = TextColumn("Replaying"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=source.size)
        yield lambda: shown.update(task, completed=source.position())
