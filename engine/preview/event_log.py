"""Recorded events, read as a stream: one a line (a Falco log with other lines between, too), or an array.

What is held at once does not grow with the file: a chunk of 1 MiB, and one line or element of at most 4 MiB,
as much as the engine takes in one body. gzip and Zstandard are told by their first bytes, so stdin may be
either.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from engine.model.errors import EventError
from engine.model.event import decode_json, parse_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.model.event import Event

MAX_LINE = 4 * 2**20
"""Bytes of a line, or of an array's element: the engine's own limit for a body."""
TOLD = 20
"""How many lines that cannot be read are kept, to be named."""
_CHUNK = 2**20
_BLOCK = 2**16
_WINDOW = 2**27
"""Bytes that a Zstandard frame may ask for: what its own command allows without being told more."""
_BOM = b"\xef\xbb\xbf"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ARRAY = re.compile(rb"\s*\[\s*[{\]]")
_BETWEEN = re.compile(r"[ \t\r\n]*([,\]]?)[ \t\r\n]*")
_BLANKS = re.compile(r"[ \t\r\n]*()")

# only where an element ends is asked of it; numbers are left alone, since int() refuses very long ones
_scan = json.JSONDecoder(strict=False, parse_int=len, parse_float=len).raw_decode


@dataclass(frozen=True, slots=True)
class EventFile:
    """An open file of events.

    read: the next bytes, decompressed, at most so many; none at the end. position: bytes read of the file
    itself. size: of the file itself; None for stdin.
    """

    read: Callable[[int], bytes]
    position: Callable[[], int]
    size: int | None = None


@contextmanager
def open_event_file(file: IO[bytes], size: int | None = None) -> Iterator[EventFile]:
    """The source that an open file is."""
    raw = file if hasattr(file, "peek") else io.BufferedReader(cast("io.RawIOBase", file))
    counted = _Counted(raw)
    start = cast("io.BufferedReader", raw).peek(len(_ZSTD))
    if start.startswith(_GZIP):
        with gzip.GzipFile(fileobj=cast("BinaryIO", counted)) as inside:
            # read1, for read would lose what stands before the place where a file breaks off
            yield EventFile(inside.read1, counted.position, size)
    elif start.startswith(_ZSTD):
        import zstandard  # noqa: PLC0415 - 15 ms that few files need

        unpack = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        with unpack.stream_reader(
            cast("BinaryIO", counted), read_across_frames=True, closefd=False
        ) as stream:
            # a block at a time: an error costs what its read had unpacked before it
            read = _quietly(lambda most: stream.read1(min(most, _BLOCK)), zstandard.ZstdError)
            yield EventFile(read, counted.position, size)
    else:
        yield EventFile(counted.read, counted.position, size)


class _Counted:
    """A file that counts what was read of it; stdin cannot be asked."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._read = 0

    def read(self, most: int = -1) -> bytes:
        content = self._file.read(most)
        self._read += len(content)
        return content

    def position(self) -> int:
        return self._read


def _quietly(read: Callable[[int], bytes], error: type[Exception]) -> Callable[[int], bytes]:
    """The reader, with its library's error turned into the one that gzip's raises, too."""

    def reads(most: int) -> bytes:
        try:
            return read(most)
        except error as wrong:
            raise OSError(str(wrong)) from None

    return reads


class EventLog:
    """The events of a source, each with its line (in an array: the element's number), from 1.

    Counted on the way: ``events``, ``other`` (lines of other log text), ``unreadable``; of the last,
    ``told`` has the first 20 with the reason. on_progress: is called with the bytes of the file that have been
    worked off, every 64 KiB and at the end; of a compressed file, with their share of the bytes read.
    """

    def __init__(
        self, source: EventFile, on_progress: Callable[[int], None] = lambda _: None
    ) -> None:
        self.events = self.other = self.unreadable = 0
        self.told: list[tuple[int, str]] = []
        self._source = source
        self._on_progress = on_progress
        self._read = self._taken = self._reported = self._done = 0
        self._last = 0
        self._broken = ""

    def __iter__(self) -> Iterator[tuple[int, Event]]:
        """Read once, from the beginning to the end."""
        head = self._head()
        yield from self._array(head) if _ARRAY.match(head) else self._whole_or_lines(head)
        if self._broken:
            self._wrong(self._last + 1, f"the file cannot be read from here on: {self._broken}")
        self._on_progress(self._source.position())

    def _head(self) -> bytes:
        """As much as may be one alert over several lines, or more."""
        head = b""
        while len(head) <= MAX_LINE:
            chunk = self._next()
            if not chunk:
                break
            head += chunk
        return head.removeprefix(_BOM)

    def _next(self) -> bytes:
        if self._broken:
            return b""
        try:
            chunk = self._source.read(_CHUNK)
        except (OSError, EOFError, zlib.error) as error:
            self._broken = str(error) or type(error).__name__
            return b""
        self._read += len(chunk)
        return chunk

    def _report(self, taken: int) -> None:
        """Report progress. taken: bytes, unpacked, of what was read that have been worked off."""
        self._taken = taken
        if taken - self._reported >= _BLOCK:
            self._reported = taken
            self._done = max(self._done, self._source.position() * taken // self._read)
            self._on_progress(self._done)

    def _whole_or_lines(self, head: bytes) -> Iterator[tuple[int, Event]]:
        if len(head) <= MAX_LINE and head.lstrip()[:1] in (b"{", b"["):
            try:
                whole = decode_json(head)
            except EventError:
                pass  # one a line, then
            else:
                for number, item in enumerate(whole if isinstance(whole, list) else [whole], 1):
                    yield from self._parsed(number, item)
                return
        yield from self._lines(head)

    def _lines(self, head: bytes) -> Iterator[tuple[int, Event]]:
        for number, line in enumerate(self._split(head), 1):
            self._taken += len(line) + 1
            if line[:1] != b"{":
                line = line.lstrip()  # noqa: PLW2901 - a sender may indent
                if line[:1] != b"{":
                    self.other += line != b""
                    continue
            self._last = number
            self._report(self._taken)
            if len(line) > MAX_LINE:
                self._wrong(number, f"longer than {MAX_LINE:,} bytes")
                continue
            try:
                event = parse_event(decode_json(line), salt=f"line {number}")
            except EventError as error:
                self._wrong(number, str(error))
                continue
            self.events += 1
            yield number, event

    def _split(self, head: bytes) -> Iterator[bytes]:
        """The lines; of one that is too long only its beginning."""
        rest, chunk = b"", head
        while chunk:
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            yield from lines
            if len(rest) > MAX_LINE:
                beginning, rest = rest, b""
                while (chunk := self._next()) and b"\n" not in chunk:
                    pass
                self._taken = self._read - len(chunk.partition(b"\n")[2]) - len(beginning) - 1
                yield beginning
                chunk = chunk.partition(b"\n")[2] or self._next()
            else:
                chunk = self._next()
        if rest:
            yield rest

    def _array(self, head: bytes) -> Iterator[tuple[int, Event]]:
        """The elements one by one. JSON's own signs are ASCII, so Latin-1 shows where each of them ends."""
        text = head.decode("latin-1")
        at, sign = text.index("[") + 1, ","
        while True:
            at, text, found = self._between(at, text)
            sign = found or sign
            if sign == "]":
                if text[at:]:
                    self._wrong(self._last + 1, "something follows the end of the array")
                return
            end, at, text = self._end(at, text)
            if end is None or sign != ",":
                if not self._broken:
                    self._wrong(self._last + 1, "the array cannot be read from here on")
                return
            self._last += 1
            self._report(self._read - len(text) + at)
            try:
                value = decode_json(text[at:end].encode("latin-1"))
            except EventError as error:
                self._wrong(self._last, str(error))
            else:
                yield from self._parsed(self._last, value)
            at, sign = end, ""

    def _between(self, at: int, text: str) -> tuple[int, str, str]:
        """Past blanks and one comma or bracket: the position, the text there, the sign."""
        sign = ""
        while True:
            found = cast("re.Match[str]", (_BLANKS if sign else _BETWEEN).match(text, at))
            at, sign = found.end(), sign + found[1]
            if at < len(text) or not (chunk := self._next()):
                return at, text, sign
            at, text = 0, chunk.decode("latin-1")

    def _end(self, at: int, text: str) -> tuple[int | None, int, str]:
        """Where the element ends that begins there, read on as far as need be; None: nowhere."""
        while True:
            try:
                end = _scan(text, at)[1]
            except (ValueError, RecursionError):
                end = None
            if end is not None and end < len(text):
                return end, at, text
            chunk = self._next() if len(text) - at <= MAX_LINE else b""
            if not chunk:
                return end, at, text
            while len(chunk) < len(text) - at and (more := self._next()):
                chunk += more  # doubled each time, so that a long element is not scanned too often
            text, at = text[at:] + chunk.decode("latin-1"), 0

    def _parsed(self, number: int, value: Any) -> Iterator[tuple[int, Event]]:
        self._last = number
        try:
            event = parse_event(value, salt=f"line {number}")
        except EventError as error:
            self._wrong(number, str(error))
        else:
            self.events += 1
            yield number, event

    def _wrong(self, number: int, reason: str) -> None:
        self.unreadable += 1
        if len(self.told) < TOLD:
            self.told.append((number, reason))
