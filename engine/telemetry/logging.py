"""The log on stderr: its format, and which engine events it contains.

Lines are JSON, or aligned text on a terminal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

from engine.model.safe_text import escape_json, printable
from engine.telemetry.events import (
    UNWRITTEN,
    AttemptEnded,
    CommandExecuted,
    CommandRefused,
    EngineEvent,
    Reloaded,
)

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

log = structlog.get_logger()


def log_reloads(engine_event: EngineEvent) -> None:
    """Log which playbook set is in force, or why a new one was refused."""
    if not isinstance(engine_event, Reloaded):
        return
    if engine_event.findings:
        log.error(
            "playbooks_refused",
            digest=engine_event.digest,
            effect="the last good set stays in force",
        )
        for finding in engine_event.findings:
            log.error("playbook_finding", finding=str(finding))
    else:
        log.info(
            "playbooks_loaded",
            digest=engine_event.digest,
            revision=engine_event.revision or None,
            playbooks=engine_event.playbooks,
            **(engine_event.changes or {}),
        )


def log_operator_commands(engine_event: EngineEvent) -> None:
    """Log what operators do."""
    if isinstance(engine_event, CommandExecuted):
        log.info(
            "operator_command",
            command=engine_event.what,
            by=engine_event.by,
            playbook=engine_event.playbook,
            run=engine_event.run,
            step=engine_event.step,
            reason=engine_event.reason,
        )
    elif isinstance(engine_event, CommandRefused):
        log.warning(
            "operator_command_refused",
            command=engine_event.what,
            by=engine_event.by,
            run=engine_event.run,
            error=engine_event.why,
        )


def log_steps(engine_event: EngineEvent) -> None:
    """Log the steps that failed, are held, or wait for the first time, and the undos that were refused.

    The audit log contains all steps.

    The workers log why an outcome was not written.
    """
    if not isinstance(engine_event, AttemptEnded) or engine_event.became == UNWRITTEN:
        return
    claim, outcome = engine_event.claim, engine_event.outcome
    is_first_wait = outcome.state == "waiting" and claim.attempt == 1
    if not is_first_wait and not engine_event.needs_attention:
        return
    write = log.warning if engine_event.needs_attention else log.info
    write(
        "undo_refused" if engine_event.undo_refused else f"step_{outcome.state}",
        run=claim.run.id,
        playbook=claim.run.playbook.name,
        step=claim.step.name,
        message=outcome.message,
        retry_in=outcome.retry_in,
    )


class LossyStream:
    """A stream that loses what it cannot write, because its reader is gone or its disk is full.

    Otherwise an error of the log would interrupt the work that is logged.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write text if possible."""
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream if possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure(stream: TextIO, level: str = "info", form: str | None = None) -> None:
    """Send the engine's log, and errors that libraries log, to the stream.

    level: debug, info, warning or error. form: json or text; by default text on a terminal, else json.
    """
    lossy = cast("TextIO", LossyStream(stream))
    colors = stream.isatty() and not os.environ.get("NO_COLOR")
    renderers: list[Processor] = [structlog.processors.JSONRenderer(serializer=_json)]
    if form == "text" or (form is None and stream.isatty()):
        renderers = [_printable, structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="time")]
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _ordered,
    ]
    structlog.configure(
        processors=[*processors, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(_number(level)),
        logger_factory=structlog.WriteLoggerFactory(lossy),
        cache_logger_on_first_use=False,
    )
    libraries = logging.StreamHandler(lossy)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *processors],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(handlers=[libraries], level=max(logging.ERROR, _number(level)))


def _json(line: Any, **options: Any) -> str:
    return escape_json(json.dumps(line, ensure_ascii=False, **options))


def _printable(_: Any, __: str, line: EventDict) -> EventDict:
    """Escape control characters in values, for a terminal. A traceback keeps its line breaks."""
    safe = {k: printable(v) if isinstance(v, str) else v for k, v in line.items()}
    if "exception" in line:
        safe["exception"] = "\n  ".join(map(printable, str(line["exception"]).split("\n")))
    return safe


def _ordered(_: Any, __: str, line: EventDict) -> EventDict:
    """Put the keys that every line has first."""
    return {key: line[key] for key in ("time", "level", "event") if key in line} | dict(line)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
