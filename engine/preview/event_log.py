"""Recorded events, read as a stream: one per line (also between other log lines), joined, or in arrays.

A file of any size needs a limited amount of memory: a chunk of 1 MiB, and an event of at most 4 MiB, which is
the limit for a body that is sent to the engine. gzip and Zstandard are recognised by their first bytes, so
stdin may be compressed, too.
"""

from __future__ import annotations

import gzip
import io
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from engine.model.errors import EventError
from engine.model.event import decode_json
from engine.model.event_formats import (
    ARRAY_OF_OBJECTS,
    BOM,
    Splitter,
    part_values,
    read_event,
    skip_blank,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from engine.model.event import Event

MAX_EVENT_BYTES = 4 * 2**20
"""Bytes of one event: the engine's limit for a body."""
MAX_ERRORS = 20
"""Errors that are kept with their lines. More errors are only counted."""
_CHUNK = 2**20
_BLOCK = 2**16
_ZSTD_WINDOW = 2**27
"""Bytes that a Zstandard frame may ask for: the default limit of the command ``zstd``."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SUFFIXES = {".gz": _GZIP, ".zst": _ZSTD}


@dataclass(frozen=True, slots=True)
class EventFile:
    """An open file of events.

    Attributes:
        read: return the next bytes, decompressed, at most as many as given; empty at the end.
        position: return how many bytes of the file itself were read.
        size: bytes of the file itself, or None for stdin.

    """

    read: Callable[[int], bytes]
    position: Callable[[], int]
    size: int | None = None


@contextmanager
def open_event_file(file: IO[bytes], size: int | None = None) -> Iterator[EventFile]:
    """Decompress an open file if needed. size: its bytes, or None if they are not known."""
    raw = file if hasattr(file, "peek") else io.BufferedReader(cast("io.RawIOBase", file))
    counting = _CountingReader(raw)
    start = cast("io.BufferedReader", raw).peek(len(_ZSTD))
    if start.startswith(_GZIP):
        with gzip.GzipFile(fileobj=cast("BinaryIO", counting)) as unpacked:
            # read1: at a damaged place, read() would lose the content before it
            yield EventFile(unpacked.read1, counting.position, size)
    elif start.startswith(_ZSTD):
        import zstandard  # noqa: PLC0415 - 15 ms that few files need

        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        with decompressor.stream_reader(
            cast("BinaryIO", counting), read_across_frames=True, closefd=False
        ) as stream:
            # small blocks: an error loses what the same call unpacked before it
            read = _with_os_error(
                lambda limit: stream.read1(min(limit, _BLOCK)), zstandard.ZstdError
            )
            yield EventFile(read, counting.position, size)
    else:
        yield EventFile(counting.read, counting.position, size)


def is_compressed_as_named(name: str, file: IO[bytes]) -> bool:
    """Return False if the name ends in .gz or .zst and the content is something else (a pointer of Git LFS)."""
    magic = _SUFFIXES.get(PurePath(name).suffix)
    return magic is None or cast("io.BufferedReader", file).peek(len(magic)).startswith(magic)


class _CountingReader:
    """A file that counts the bytes that were read; stdin has no position."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._read = 0

    def read(self, limit: int = -1) -> bytes:
        content = self._file.read(limit)
        self._read += len(content)
        return content

    def position(self) -> int:
        return self._read


def _with_os_error(
    read: Callable[[int], bytes], error_type: type[Exception]
) -> Callable[[int], bytes]:
    """Return the reader with its library's error turned into OSError, as gzip raises."""

    def read_or_raise(limit: int) -> bytes:
        try:
            return read(limit)
        except error_type as error:
            raise OSError(str(error)) from None

    return read_or_raise


class _Window:
    """The part of a stream that is held in memory, and the position in it.

    Attributes:
        content: the bytes in memory.
        at: position in ``content``; the bytes before it are done.
        splitter: finds the ends of values in ``content``.
        line: number of the line at ``at``, from 1.
        at_end: whether the stream has no more bytes.
        error: why the stream cannot be read further, or "".

    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.content, self.at, self.line = b"", 0, 1
        self.splitter = Splitter(b"")
        self.at_end = False
        self.error = ""
        self.bytes_read = 0

    @property
    def rest(self) -> int:
        """Bytes in memory that are not done."""
        return len(self.content) - self.at

    def grow(self) -> bool:
        """Drop what is done and read at least a chunk. Return whether the stream had more bytes.

        The window doubles, up to the largest event, so that the end of a long value is searched a few
        times only.
        """
        chunks = [self.content[self.at :]]
        wanted = max(_CHUNK, min(self.rest, MAX_EVENT_BYTES - self.rest))
        while wanted > 0 and (chunk := self._next_chunk()):
            chunks.append(chunk)
            wanted -= len(chunk)
        if len(chunks) == 1:
            return False
        self.content, self.at = b"".join(chunks), 0
        # No limit on brackets: the splitter limits repeated searches, and every byte is at most one bracket.
        self.splitter = Splitter(self.content, 4 * len(self.content))
        return True

    def advance(self, to: int) -> None:
        """Move to a later position."""
        self.line += self.content.count(b"\n", self.at, to)
        self.at = to

    def skip_blank(self) -> bytes:
        """Move past white space. Return the next byte, empty at the end of the stream."""
        while True:
            self.advance(skip_blank(self.content, self.at))
            if self.rest >= len(BOM) or not self.grow():
                return self.content[self.at : self.at + 1]

    def skip_line(self) -> None:
        """Move to the next line break, or to the end of the stream. The line may have any length."""
        while True:
            end = self.content.find(b"\n", self.at)
            if end >= 0:
                self.advance(end)
                return
            self.at = len(self.content)
            if not self.grow():
                return

    def _next_chunk(self) -> bytes:
        if self.at_end:
            return b""
        try:
            chunk = self._read(_CHUNK)
        except (OSError, EOFError, zlib.error) as error:
            self.error = str(error) or type(error).__name__
            chunk = b""
        self.at_end = not chunk
        self.bytes_read += len(chunk)
        return chunk


class EventLog:
    """The events of a file, each with its line from 1. In a file that starts with an array: its element.

    Values are split as in ``engine.model.event_formats``, but lines of other text are not errors.

    Attributes:
        events: number of events.
        other_lines: number of lines of other text.
        unreadable: number of elements that are not events.
        errors: line and reason of the first 20 of these.

    on_progress: called with the bytes of the file that are done, every 64 KiB and at the end. In a
    compressed file, this is a share of the bytes that were read.
    """

    def __init__(
        self, file: EventFile, on_progress: Callable[[int], None] = lambda _: None
    ) -> None:
        self.events = self.other_lines = self.unreadable = 0
        self.errors: list[tuple[int, str]] = []
        self._file = file
        self._window = _Window(file.read)
        self._on_progress = on_progress
        self._reported = self._done = 0
        self._element = 0
        self._by_element = False

    def __iter__(self) -> Iterator[tuple[int, Event]]:
        """Read the file once, from the start to the end."""
        window = self._window
        self._by_element = window.skip_blank() == b"[" and self._is_array()
        after_value = 0  # the line in which the last value ended
        while first := window.skip_blank():
            in_line = after_value == window.line
            if first == b"{" and not in_line and (yield from self._lines()):
                continue
            if first == b"{":
                yield from self._object()
            elif first == b"[" and self._is_array():
                yield from self._array()
            elif in_line:
                yield from self._values(self._line_end(grow=True))
            else:
                yield from self._other_line()
            after_value = window.line
            self._report()
        if window.error:
            self._fail(f"the file cannot be read from here on: {window.error}")
        self._on_progress(self._file.position())

    def _is_array(self) -> bool:
        """Return whether an array of objects starts here."""
        window = self._window
        while skip_blank(window.content, window.at + 1) == len(window.content):
            if window.rest > MAX_EVENT_BYTES or not window.grow():
                break
        return ARRAY_OF_OBJECTS.match(window.content, window.at) is not None

    def _lines(self) -> Generator[tuple[int, Event], None, bool]:
        """Read lines that are one JSON object each, which is fast. Return whether there was one."""
        window = self._window
        content, found = window.content, False
        while content.startswith(b"{", window.at):
            end = content.find(b"\n", window.at)
            if end < 0 or end - window.at > MAX_EVENT_BYTES:
                break
            try:
                value = decode_json(content[window.at : end])
            except EventError:
                break
            if event := self._event(value):
                yield event
            self._report()
            window.at, found = end + 1, True
            window.line += 1
        return found

    def _object(self) -> Iterator[tuple[int, Event]]:
        """Read an object that has several lines, or a part of a line."""
        window = self._window
        while True:
            end = window.splitter.object_end(window.at)
            if end is not None:
                yield from self._values(end)
                return
            is_line = window.splitter.exhausted and self._line_end() is not None
            if is_line or window.rest > MAX_EVENT_BYTES or not window.grow():
                yield from self._values(self._line_end(grow=True))
                return

    def _array(self) -> Iterator[tuple[int, Event]]:
        """Read the items of an array."""
        window = self._window
        window.advance(window.at + 1)
        while (first := window.skip_blank()) not in (b"", b"]", b"}"):
            end = window.splitter.item_end(window.at)
            while end == len(window.content) and window.rest <= MAX_EVENT_BYTES and window.grow():
                end = window.splitter.item_end(window.at)
            if window.rest > MAX_EVENT_BYTES and end == len(window.content):
                first = b""
                window.at_end, window.at = True, len(window.content)
                break
            yield from self._values(end)
            self._report()
            if window.skip_blank() == b",":
                window.advance(window.at + 1)
        if first:
            window.advance(window.at + 1)
        elif not window.error:
            self._fail("the array cannot be read from here on")

    def _line_end(self, *, grow: bool = False) -> int | None:
        """Return where the line ends, or None if that is not in memory. grow: read up to the largest event."""
        window = self._window
        while (end := window.content.find(b"\n", window.at)) < 0:
            if window.at_end:
                return len(window.content)
            if not grow or window.rest > MAX_EVENT_BYTES:
                return None
            window.grow()
        return end

    def _values(self, end: int | None) -> Iterator[tuple[int, Event]]:
        """Read the part up to ``end``. None: report a line that is too long, and skip it."""
        window = self._window
        if end is None or end - window.at > MAX_EVENT_BYTES:
            self._fail(f"longer than {MAX_EVENT_BYTES:,} bytes")
            if end is None:
                window.skip_line()
            else:
                window.advance(end)
            return
        for value, _ in part_values(window.content[window.at : end]):
            if event := self._event(value):
                yield event
        window.advance(end)

    def _other_line(self) -> Iterator[tuple[int, Event]]:
        """Skip a line of other text. If it is a JSON array, read its items."""
        window = self._window
        is_array = window.content.startswith(b"[", window.at)
        end = self._line_end(grow=True) if is_array else None
        if end is not None:
            try:
                value = decode_json(window.content[window.at : end])
            except EventError:
                pass
            else:
                self._by_element = self._by_element or not (self.events or self.unreadable)
                for item in value:
                    if event := self._event(item):
                        yield event
                window.advance(end)
                return
        self.other_lines += 1
        window.skip_line()

    def _event(self, value: object) -> tuple[int, Event] | None:
        """Count a decoded value. Return its event with the line, or None if it is not an event."""
        self._element += 1
        number = self._element if self._by_element else self._window.line
        read = read_event(number, value)
        if read.event is None:
            self._add_error(number, str(read.error))
            return None
        self.events += 1
        return number, read.event

    def _fail(self, reason: str) -> None:
        """Report an error at the place of the next value."""
        self._element += 1
        self._add_error(self._element if self._by_element else self._window.line, reason)

    def _add_error(self, number: int, reason: str) -> None:
        self.unreadable += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append((number, reason))

    def _report(self) -> None:
        """Report progress after each block."""
        window = self._window
        done = window.bytes_read - window.rest
        if done - self._reported >= _BLOCK:
            self._reported = done
            self._done = max(self._done, self._file.position() * done // window.bytes_read)
            self._on_progress(self._done)
