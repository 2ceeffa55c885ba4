"""How logs look: JSON lines on stderr, or aligned text where a person watches a terminal."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor


def configure(stream: TextIO, *, text: bool = False) -> None:
    """Send the engine's log to the stream, and libraries' errors with it. text: also off a terminal."""
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
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    libraries = logging.StreamHandler(stream)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *told],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[libraries], level=logging.ERROR)
