"""How logs look: JSON lines on stderr, or aligned text where a person watches a terminal."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

from engine.model.safe_text import escape_json, printable

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor


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


def _json(told: Any, **options: Any) -> str:
    return escape_json(json.dumps(told, ensure_ascii=False, **options))


def _cleaned(_: Any, __: str, told: EventDict) -> EventDict:
    """Escape what comes from outside, for a terminal; a traceback keeps its lines."""
    safe = {k: printable(v) if isinstance(v, str) else v for k, v in told.items()}
    if "exception" in told:
        safe["exception"] = "\n  ".join(map(printable, str(told["exception"]).split("\n")))
    return safe


def _ordered(_: Any, __: str, told: EventDict) -> EventDict:
    """The keys that every line has come first."""
    return {key: told[key] for key in ("time", "level", "event") if key in told} | dict(told)


def configure(stream: TextIO, level: str = "info", form: str | None = None) -> None:
    """Send the engine's log to the stream, and libraries' errors with it.

    level: the least severe that is written: debug, info, warning or error. form: json or text; by default text
    on a terminal, else json.
    """
    lossy = cast("TextIO", Unfailing(stream))
    colors = stream.isatty() and not os.environ.get("NO_COLOR")
    renderers: list[Processor] = [structlog.processors.JSONRenderer(serializer=_json)]
    if form == "text" or (form is None and stream.isatty()):
        renderers = [_cleaned, structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="time")]
    told: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _ordered,
    ]
    structlog.configure(
        processors=[*told, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(_number(level)),
        logger_factory=structlog.WriteLoggerFactory(lossy),
        cache_logger_on_first_use=False,
    )
    libraries = logging.StreamHandler(lossy)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *told],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(handlers=[libraries], level=max(logging.ERROR, _number(level)))


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
