"""A file that Falco writes (``file_output``), followed across rotation with an offset that is kept.

A file is known by its device and inode and by a digest of what stands before the offset, for inodes are used
again. What was renamed is read to its end before the new one is begun, also where that happened while nobody
followed it, and so is what was begun and renamed since; what was cut off is begun anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import structlog

from engine.journal.protocol import FILE_OFFSET_PREFIX
from engine.model.errors import JournalError
from engine.sources.base import SourceError, Taker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.journal.protocol import State

log = structlog.get_logger()
POLL = 0.25
"""Seconds between two looks at a file that has come to its end."""
EVENTS = 1_000
BYTES = 4 << 20
"""Of a batch, and the longest line."""
_TAIL = 1_024
"""Bytes before the offset that tell a file from another of the same inode: the last event's time is in them."""
_NEVER = 2**63
"""A time after which nothing is written."""


@dataclass(slots=True)
class _Place:
    """How far a file was read.

    tail: digest of the bytes before the offset. written: when the file was last changed, in nanoseconds, as of
    the last reading.
    """

    device: int
    inode: int
    offset: int = 0
    tail: str = ""
    written: int = _NEVER


class Follow:
    """Follows one file; it need not be there yet. A file that was never followed is read from its beginning."""

    kind = "follow"

    def __init__(self, path: Path, journal: State) -> None:
        self.target = str(path)
        self._path, self._journal = path, journal
        self._key = FILE_OFFSET_PREFIX + str(path)
        stem, suffix = re.escape(path.stem), re.escape(path.suffix)
        # as logrotate names them: events.log.1, events.log-20261125, events-20261125.log
        self._rotated = re.compile(rf"{stem}({suffix})?[.-][0-9][0-9TZ_.-]*({suffix})?")

    def work(self, taker: Taker) -> None:
        """See Fetching.work."""
        place, ended = self._kept(), False
        while not taker.stopping.is_set():
            try:
                path = None if place is None or ended else self._found(place)
                if path is None and not ended:
                    self._miss(place)
                    ended = True
                file = (path or self._after(place)).open("rb")
            except FileNotFoundError:
                taker.stopping.wait(POLL)
                continue
            except OSError as error:
                raise SourceError(f"{error.filename}: {error.strerror}") from None
            taker.connected()
            with file:
                place = self._begun(file, place)
                ended = self._follow(file, place, taker)

    def _begun(self, file: IO[bytes], before: _Place | None) -> _Place:
        """Where to begin in an open file. A new one is kept at once: the one before is done with."""
        place = _placed(file, before)
        if place is not before:
            self._keep(file, place)
        return place

    def _found(self, place: _Place) -> Path | None:
        """The file that was being read, whatever its name is now."""
        for path in (self._path, *self._beside()):
            if _identity(path) == (place.device, place.inode):
                with path.open("rb") as file:
                    if _placed(file, place) is place:
                        return path
        return None

    def _after(self, place: _Place | None) -> Path:
        """The file to be read after that one: the first that was begun and renamed since, else our own."""
        if place is None:
            return self._path
        rotated = [
            (path.stat().st_mtime_ns, path)
            for path in self._beside()
            if self._rotated.fullmatch(path.name) and path.is_file()
        ]
        since = (one for one in rotated if one[0] > place.written)
        return min(since, default=(0, self._path))[1]

    def _beside(self) -> Iterator[Path]:
        """The other files of its folder."""
        for path in self._path.parent.iterdir():
            if path != self._path:
                yield path

    def _miss(self, place: _Place | None) -> None:
        """Tell that the end of what was being read cannot be read."""
        if place is not None:
            was = f"{self._path}: the file that was read to its byte {place.offset} is gone or was cut off"
            log.warning("source", kind=self.kind, error=f"{was}; what came then may be lost")

    def _follow(self, file: IO[bytes], place: _Place, taker: Taker) -> bool:
        """Read on until nothing more is in the file; whether that is because there is another one."""
        file.seek(place.offset)
        ending = False
        while not taker.stopping.is_set():
            lines, size = _batch(file)
            if lines:
                events = [line for line in lines if line.lstrip().startswith(b"{")]
                if events:  # the rest is Falco's own log
                    taker.take(b"\n".join(events))
            if size:
                place.offset += size
                self._keep(file, place)
                continue
            file.seek(place.offset)
            found = os.fstat(file.fileno())
            if found.st_size < place.offset:  # cut off, to be written anew
                place.offset, place.tail = 0, ""
                return False
            place.written = found.st_mtime_ns
            if ending:
                return True
            if self._is_another(place):
                ending = True  # what was written to it until then is read first
                continue
            taker.stopping.wait(POLL)
        return False

    def _is_another(self, place: _Place) -> bool:
        return _identity(self._path) not in (None, (place.device, place.inode))

    def _kept(self) -> _Place | None:
        found: Any = self._journal.key_values().get(self._key)
        return None if found is None else _Place(**found)

    def _keep(self, file: IO[bytes], place: _Place) -> None:
        """Write the offset down. What was taken is on disk already: at worst it is read twice."""
        place.tail = _tail(file, place.offset)
        place.written = os.fstat(file.fileno()).st_mtime_ns
        told = {key: getattr(place, key) for key in _Place.__slots__}
        try:
            self._journal.save_key_values({self._key: told})
        except JournalError as error:
            raise SourceError(f"the offset cannot be kept: {error}") from None


def _identity(path: Path) -> tuple[int, int] | None:
    """The device and inode of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _placed(file: IO[bytes], before: _Place | None) -> _Place:
    """Where to begin in an open file, given how far the last one was read."""
    found = os.fstat(file.fileno())
    known = before is not None and (before.device, before.inode) == (found.st_dev, found.st_ino)
    if before is None or not known or found.st_size < before.offset:
        return _Place(found.st_dev, found.st_ino)
    if _tail(file, before.offset) == before.tail:
        return before
    return _Place(found.st_dev, found.st_ino)


def _tail(file: IO[bytes], offset: int) -> str:
    """A digest of what stands before the offset, where the file is left."""
    file.seek(max(0, offset - _TAIL))
    tail = file.read(min(_TAIL, offset))
    return hashlib.sha256(tail).hexdigest()[:16] if tail else ""


def _batch(file: IO[bytes]) -> tuple[list[bytes], int]:
    """Whole lines, as many as one body may have, and how many bytes they are; a line too long is left out."""
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
            break  # Falco has not finished it
        else:
            size += len(line)
    return lines, size
