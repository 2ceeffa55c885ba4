"""A file that Falco writes (``file_output``), followed across rotation with an offset that is kept.

A file is known by its device and inode and by a digest of what stands before the offset, for inodes are used
again. What was renamed is read to its end before the new one is begun; what was cut off is begun anew.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from engine.journal.journal import JournalError
from engine.known import FOLLOWED
from engine.sources.source import SourceError, Taker

if TYPE_CHECKING:
    from pathlib import Path

    from engine.journal.journal import Journal

POLL = 0.25
"""Seconds between two looks at a file that has come to its end."""
EVENTS = 1_000
BYTES = 4 << 20
"""Of a batch, and the longest line."""
_TAIL = 1_024
"""Bytes before the offset that tell a file from another of the same inode: the last event's time is in them."""


@dataclass(slots=True)
class _Place:
    """How far a file was read. tail: digest of the bytes before the offset."""

    device: int
    inode: int
    offset: int = 0
    tail: str = ""


class Follow:
    """Follows one file; it need not be there yet. A file that was never followed is read from its beginning."""

    kind = "follow"

    def __init__(self, path: Path, journal: Journal) -> None:
        self.target = str(path)
        self._path, self._journal = path, journal
        self._key = FOLLOWED + str(path)

    def work(self, taker: Taker) -> None:
        """See Fetching.work."""
        place = self._kept()
        while not taker.stopping.is_set():
            try:
                file = self._path.open("rb")
            except FileNotFoundError:
                taker.stopping.wait(POLL)
                continue
            except OSError as error:
                raise SourceError(f"{self._path}: {error.strerror}") from None
            taker.connected()
            with file:
                place = _placed(file, place)
                self._follow(file, place, taker)

    def _follow(self, file: IO[bytes], place: _Place, taker: Taker) -> None:
        """Read on until the file is another one, and nothing more is in this one."""
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
            if os.fstat(file.fileno()).st_size < place.offset:  # cut off, to be written anew
                place.offset, place.tail = 0, ""
                return
            if ending:
                return
            if self._is_another(place):
                ending = True  # what was written to it until then is read first
                continue
            taker.stopping.wait(POLL)

    def _is_another(self, place: _Place) -> bool:
        try:
            found = self._path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) != (place.device, place.inode)

    def _kept(self) -> _Place | None:
        found: Any = self._journal.memory().get(self._key)
        return None if found is None else _Place(**found)

    def _keep(self, file: IO[bytes], place: _Place) -> None:
        """Write the offset down. What was taken is on disk already: at worst it is read twice."""
        place.tail = _tail(file, place.offset)
        told = {key: getattr(place, key) for key in _Place.__slots__}
        try:
            self._journal.remember({self._key: told})
        except JournalError as error:
            raise SourceError(f"the offset cannot be kept: {error}") from None


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
