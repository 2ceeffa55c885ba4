"""Events as they came, one a line in a bounded file, for ``tiercel replay``."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import structlog

from engine.model.safe_text import escape_json

if TYPE_CHECKING:
    from pathlib import Path

    from engine.model.event import Event

BYTES = 256 << 20
"""Of the file; a full one becomes FILE.1, in place of the one before, and a new one is begun."""
_WAITING = 20_000
"""Events that wait for the disk at most; in a flood the newest are left out, and counted."""

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


def _shown(line: bytes) -> bytes:
    """A line of JSON as a terminal may show it."""
    plain = line.isascii() and b"\x7f" not in line
    return line if plain else escape_json(line[:-1].decode()).encode() + b"\n"


class EventRecorder:
    """Writes events to a file, when it is told to flush; thread-safe."""

    def __init__(self, file: Path, most: int = BYTES) -> None:
        self._file, self._most = file, most
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._left_out = 0
        self._fault: str | None = None

    def add(self, event: Event) -> None:
        """Have an event written soon."""
        line = _encode(event.sent) + b"\n"
        with self._lock:
            if len(self._waiting) < _WAITING:
                self._waiting.append(line)
            else:
                self._left_out += 1

    def flush(self) -> None:
        """Write what waits; what a broken disk does not take is lost, and told once."""
        with self._lock:
            lines, self._waiting = self._waiting, deque()
            left_out, self._left_out = self._left_out, 0
        if left_out:
            log.warning("record", left_out=left_out)
        if not lines:
            return
        try:
            self._write(b"".join(map(_shown, lines)))
            self._fault = None
        except OSError as error:
            if self._fault is None:
                log.error("record", file=str(self._file), error=error.strerror)
            self._fault = error.strerror

    def _write(self, content: bytes) -> None:
        size = self._file.stat().st_size if self._file.exists() else 0
        if size and size + len(content) > self._most:
            self._file.replace(self._file.with_name(f"{self._file.name}.1"))
        with self._file.open("ab") as file:
            # events may tell secrets
            self._file.chmod(0o600)
            file.write(content)
