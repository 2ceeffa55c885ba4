"""Follow a file that Falco writes (``file_output``), across rotations and restarts.

The read offset is kept in the journal. A file is identified by its device and inode, and by a digest of the
bytes before the offset, because inodes are reused.

- A renamed file is read to its end before the new one, also if it was renamed while the engine was down.
- Files that were created and renamed since then are read in the order of their last change.
- A truncated file is read from its beginning.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import structlog

from engine.model.errors import JournalError
from engine.sources.base import EventSink, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.journal.protocol import State

log = structlog.get_logger()
POLL = 0.25
"""Seconds between two checks for new lines."""
EVENTS = 1_000
"""Lines of a batch."""
BYTES = 4 << 20
"""Bytes of a batch, and of the longest line."""
_TAIL = 1_024
"""Bytes before the offset that identify a file. They contain the time of the last event."""
_NEVER = 2**63
"""A modification time that no file reaches."""


@dataclass(slots=True)
class _Position:
    """How far a file was read.

    tail: digest of the bytes before the offset. written: the file's last modification time at the last read,
    in nanoseconds. These names are keys in the journal.
    """

    device: int
    inode: int
    offset: int = 0
    tail: str = ""
    written: int = _NEVER


class FollowedFile:
    """A file to follow. It does not have to exist yet. The first time, it is read from its beginning."""

    kind = "follow"

    def __init__(self, path: Path, journal: State, key: str | None = None) -> None:
        self.target = str(path)
        self._path, self._journal = path, journal
        self._key = key or str(path)
        stem, suffix = re.escape(path.stem), re.escape(path.suffix)
        # logrotate's names: events.log.1, events.log-20261125, events-20261125.log
        self._rotated_name = re.compile(rf"{stem}({suffix})?[.-][0-9][0-9TZ_.-]*({suffix})?")

    def run(self, sink: EventSink) -> None:
        """See Source.run."""
        position, finished = self._load(), False
        while not sink.stopping.is_set():
            try:
                path = None if position is None or finished else self._find(position)
                if path is None and not finished:
                    self._warn_lost(position)
                    finished = True
                file = (path or self._next(position)).open("rb")
            except FileNotFoundError:
                sink.stopping.wait(POLL)
                continue
            except OSError as error:
                raise SourceError(f"{error.filename}: {error.strerror}") from None
            sink.connected()
            with file:
                position = self._start(file, position)
                finished = self._read(file, position, sink)

    def _start(self, file: IO[bytes], previous: _Position | None) -> _Position:
        """Return the position in an open file. That of a new file is saved, which ends the previous file."""
        position = _position(file, previous)
        if position is not previous:
            self._save(file, position)
        return position

    def _find(self, position: _Position) -> Path | None:
        """The file of the position, whatever its current name. None if it is gone or was truncated."""
        for path in (self._path, *self._siblings()):
            if _identity(path) == (position.device, position.inode):
                with path.open("rb") as file:
                    if _position(file, position) is position:
                        return path
        return None

    def _next(self, position: _Position | None) -> Path:
        """The file to read after that of the position: the oldest one rotated since, or the current one."""
        if position is None:
            return self._path
        rotated = [
            (path.stat().st_mtime_ns, path)
            for path in self._siblings()
            if self._rotated_name.fullmatch(path.name) and path.is_file()
        ]
        since = (one for one in rotated if one[0] > position.written)
        return min(since, default=(0, self._path))[1]

    def _siblings(self) -> Iterator[Path]:
        """The other files in the folder."""
        for path in self._path.parent.iterdir():
            if path != self._path:
                yield path

    def _warn_lost(self, position: _Position | None) -> None:
        """Log that the rest of the previous file cannot be read."""
        if position is not None:
            log.warning(
                "source_events_lost",
                kind=self.kind,
                error=f"{self._path}: the file that was read up to byte {position.offset} is gone or was "
                "truncated; events after that may be lost",
            )

    def _read(self, file: IO[bytes], position: _Position, sink: EventSink) -> bool:
        """Read until the file has no more lines. Returns whether it is finished, because a new file exists."""
        file.seek(position.offset)
        is_last_pass = False
        while not sink.stopping.is_set():
            lines, size = _batch(file)
            if lines:
                events = [line for line in lines if line.lstrip().startswith(b"{")]
                if events:  # other lines are Falco's own log
                    sink.deliver(b"\n".join(events))
            if size:
                position.offset += size
                self._save(file, position)
                continue
            file.seek(position.offset)
            found = os.fstat(file.fileno())
            if found.st_size < position.offset:  # truncated
                position.offset, position.tail = 0, ""
                return False
            position.written = found.st_mtime_ns
            if is_last_pass:
                return True
            if self._is_replaced(position):
                is_last_pass = True  # lines may have been written before the rename
                continue
            sink.stopping.wait(POLL)
        return False

    def _is_replaced(self, position: _Position) -> bool:
        return _identity(self._path) not in (None, (position.device, position.inode))

    def _load(self) -> _Position | None:
        found: Any = self._journal.offset(self._key)
        return None if found is None else _Position(**found)

    def _save(self, file: IO[bytes], position: _Position) -> None:
        """Write the offset. Events before it are on disk already; after a crash some are read twice."""
        position.tail = _tail(file, position.offset)
        position.written = os.fstat(file.fileno()).st_mtime_ns
        record = {key: getattr(position, key) for key in _Position.__slots__}
        try:
            self._journal.save_offset(self._key, record)
        except JournalError as error:
            raise SourceError(f"cannot save the offset: {error}") from None


def _identity(path: Path) -> tuple[int, int] | None:
    """The device and inode of a regular file, or None."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _position(file: IO[bytes], previous: _Position | None) -> _Position:
    """Return ``previous`` if it is of this open file, else the beginning of the file."""
    found = os.fstat(file.fileno())
    same = previous is not None and (previous.device, previous.inode) == (
        found.st_dev,
        found.st_ino,
    )
    if previous is None or not same or found.st_size < previous.offset:
        return _Position(found.st_dev, found.st_ino)
    if _tail(file, previous.offset) == previous.tail:
        return previous
    return _Position(found.st_dev, found.st_ino)


def _tail(file: IO[bytes], offset: int) -> str:
    """A digest of the bytes before the offset. Leaves the file at the offset."""
    file.seek(max(0, offset - _TAIL))
    tail = file.read(min(_TAIL, offset))
    return hashlib.sha256(tail).hexdigest()[:16] if tail else ""


def _batch(file: IO[bytes]) -> tuple[list[bytes], int]:
    """Return whole lines, up to EVENTS and BYTES, and the bytes read. A line that is too long is left out."""
    lines: list[bytes] = []
    size = 0
    while len(lines) < EVENTS and size < BYTES:
        line = file.readline(BYTES)
        if line.endswith(b"\n"):
            if size and size + len(line) > BYTES:
                break
            lines.append(line.strip())
            size += len(line)
        elif len(line) < BYTES:
            break  # Falco has not finished the line
        else:
            size += len(line)
    return lines, size
