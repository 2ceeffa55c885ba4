"""Record every event as a line of a bounded file, for ``tiercel replay``."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import structlog

from engine.model.safe_text import escape_json

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 256 << 20
"""Size of the file. A full file is renamed to FILE.1, which replaces the previous one."""
_MAX_WAITING = 20_000
"""Events that wait for the disk. During a flood, further ones are left out and counted."""

log = structlog.get_logger()


class EventRecorder:
    """Collects alerts, and writes them to a file on ``flush``. Thread-safe."""

    def __init__(self, file: Path, max_bytes: int = MAX_BYTES) -> None:
        self._file, self._max_bytes = file, max_bytes
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._left_out = 0
        self._is_failing = False

    def add(self, alert: bytes) -> None:
        """Add an alert, as JSON, to the next write."""
        with self._lock:
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.append(alert)
            else:
                self._left_out += 1

    def flush(self) -> None:
        """Write the waiting alerts. If the disk fails, they are lost; the log reports the first failure."""
        with self._lock:
            alerts, self._waiting = self._waiting, deque()
            left_out, self._left_out = self._left_out, 0
        if left_out:
            log.warning("event_recording_incomplete", left_out=left_out)
        if not alerts:
            return
        try:
            self._write(b"".join(map(_line, alerts)))
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                log.error("event_recording_failed", file=str(self._file), error=error.strerror)
            self._is_failing = True

    def _write(self, content: bytes) -> None:
        size = self._file.stat().st_size if self._file.exists() else 0
        if size and size + len(content) > self._max_bytes:
            self._file.replace(self._file.with_name(f"{self._file.name}.1"))
        with self._file.open("ab") as file:
            self._file.chmod(0o600)  # events may contain secrets
            file.write(content)


def _line(alert: bytes) -> bytes:
    """JSON as a line that is safe to show in a terminal."""
    is_plain = alert.isascii() and b"\x7f" not in alert
    return (alert if is_plain else escape_json(alert.decode()).encode()) + b"\n"
