"""How logs look: JSON lines on stderr, or aligned text where a person watches a terminal."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, TextIO, cast

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor


class Unfailing:
    """A stream that may fail as it likes, since its reader is gone or its disk is full: the line is lost.

    Else whoever logs would fail with it, in the middle of what he does.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write it if that can be."""
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Send it on if that can be."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure(stream: TextIO, *, text: bool = False) -> None:
    """Send the engine's log to the stream, and libraries' errors with it. text: also off a terminal."""
    lossy = cast("TextIO", Unfailing(stream))
    colors = stream.isatty() and not os.environ.get("NO_COLOR")
    renderer: Processor = structlog.processors.JSONRenderer(ensure_ascii=False)
    if text or stream.isatty():
        renderer = structlog.dev.ConsoleRenderer(colors=colors)
    told: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*told, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(lossy),
        cache_logger_on_first_use=False,
    )
    libraries = logging.StreamHandler(lossy)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *told],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[libraries], level=logging.ERROR)
