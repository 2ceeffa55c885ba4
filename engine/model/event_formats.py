"""The formats in which events arrive: one alert, several alerts, a JSON array, CloudEvents.

A body that is valid JSON is decoded as a whole. Any other body is split at its brackets, and each part is
decoded alone, so that an unreadable element does not affect the others. The number of steps is limited.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.model.errors import EventError
from engine.model.event import decode_json, parse_event

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from engine.model.event import Event

FORMAT_HINT = "send one alert, an array, or one alert per line, as JSON"
MAX_BRACKETS = 200_000
"""Brackets that a Splitter looks at, which takes 0.1 s. 1,000 audit events of 4 KiB have half of them."""
BOM = b"\xef\xbb\xbf"
_MAX_STACK = 100
"""Open brackets whose kind is remembered. Deeper brackets are only counted."""
_BLANK = re.compile(rb"(?:[ \t\r\n]|\xef\xbb\xbf)*+")
"""What separates values: white space, and the byte order marks of concatenated files."""
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_STRING_IN_LINE = rb'"(?:[^"\\\r\n]++|\\[^\r\n])*+"'
_TO_COMMA_OR_BRACKET = re.compile(rb'(?:[^",\[\]{}]++|' + _STRING + rb")*+", re.DOTALL)
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+", re.DOTALL)
_TO_BRACKET_IN_LINES = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING_IN_LINE + rb")*+")
ARRAY_OF_OBJECTS = re.compile(rb"\[[ \t\r\n]*+[{\]]")
"""The start of an array of objects, or an empty array. Text such as ``[libs]: …`` does not match."""
_CLOUDEVENT_DATA = re.compile(rb'"data"[ \t\r\n]*+:[ \t\r\n]*+(?=\[)')


class Unreadable(NamedTuple):
    """An element that is not JSON: its bytes and the reason."""

    content: bytes
    error: EventError


class Value(NamedTuple):
    """A value of a body. start: position of its first byte, None if the body was decoded as a whole."""

    value: Any
    start: int | None


class ReadEvent(msgspec.Struct, frozen=True):
    """An element of a file: an event, or the reason why it is not an event.

    line: from 1. In a file that starts with an array, it is the number of the element.
    """

    line: int
    event: Event | None
    error: EventError | None = None


def read_events(content: bytes) -> Iterator[ReadEvent]:
    """Yield the events of a file, and an error for each element that is not an event."""
    in_array = content.removeprefix(BOM).lstrip().startswith(b"[")
    line, counted = 1, 0
    for number, (value, start) in enumerate(json_values(content), 1):
        if start is None or in_array:
            line = number
        else:
            line, counted = line + content.count(b"\n", counted, start), start
        yield read_event(line, value)


def read_event(line: int, value: Any) -> ReadEvent:
    """Return the event of a decoded value, or its error. value: may be Unreadable."""
    if isinstance(value, Unreadable):
        return ReadEvent(line, None, value.error)
    try:
        return ReadEvent(line, parse_event(value, salt=f"line {line}"))
    except EventError as error:
        return ReadEvent(line, None, error)


def body_elements(body: bytes) -> Iterator[Any]:
    """Yield the elements of a body: decoded values, the alerts within CloudEvents, and Unreadable."""
    for value, _ in json_values(body):
        if isinstance(value, dict) and "specversion" in value and "rule" not in value:
            yield from _cloudevent_alerts(value)
        else:
            yield value


def json_values(content: bytes, start: int = 0) -> Iterator[Value]:
    """Yield the values of a text; for an array, each of its items. A value may be Unreadable.

    start: position of the text in the input; errors give positions in the input.
    """
    if skip_blank(content, 0) == len(content):
        return
    try:
        whole = decode_json(content.removeprefix(BOM))
    except EventError:
        for part, at in _parts(content, start):
            yield from part_values(part, at)
        return
    for value in whole if isinstance(whole, list) else [whole]:
        yield Value(value, None)


def part_values(part: bytes, start: int = 0) -> Iterator[Value]:
    """Yield the value of a part: an object, an array's item or a line.

    If the part is a CloudEvent that is not valid JSON, yield the items of the array in its ``data``.
    """
    value = _decoded(part, start)
    at = _cloudevent_data(part) if isinstance(value, Unreadable) else None
    if at is None:
        yield Value(value, start)
        return
    for inner, begin in _parts(part[at : Splitter(part).end_of(at)], start + at):
        yield Value(_decoded(inner, begin), begin)


def skip_blank(content: bytes, at: int) -> int:
    """Return the position after the white space and byte order marks at ``at``."""
    return _match_end(_BLANK, content, at)


def _parts(content: bytes, start: int) -> Iterator[tuple[bytes, int]]:
    """Yield the parts of a text that is not valid JSON as a whole, with their positions."""
    for at, end in Splitter(content).parts():
        yield content[at:end], start + at


def _decoded(part: bytes, start: int) -> Any:
    try:
        return decode_json(part, start)
    except EventError as error:
        return Unreadable(part, error)


def _cloudevent_data(part: bytes) -> int | None:
    """Return where the array in ``data`` of an unreadable CloudEvent starts, or None for other text."""
    if not part.startswith(b"{") or b'"specversion"' not in part:
        return None
    for at, end in Splitter(part).items(0):
        found = _CLOUDEVENT_DATA.match(part, at, end)
        if found:
            return found.end()
    return None


def _cloudevent_alerts(cloudevent: dict[str, Any]) -> Iterator[Any]:
    """Yield the alerts in a CloudEvent in structured mode."""
    data = cloudevent.get("data")
    if "data_base64" in cloudevent:
        try:
            data = base64.b64decode(str(cloudevent["data_base64"]), validate=True)
        except ValueError:  # binascii.Error, or ValueError for characters outside ASCII
            yield _unreadable(cloudevent, "`data_base64` is not base64")
            return
    if isinstance(data, (str, bytes)):
        data = [value for value, _ in json_values(data.encode() if isinstance(data, str) else data)]
    if data == []:
        yield _unreadable(cloudevent, "`data` of the CloudEvent contains no event")
    elif isinstance(data, list):
        yield from data
    else:
        yield data


def _unreadable(value: Any, reason: str) -> Unreadable:
    return Unreadable(msgspec.json.encode(value), EventError(reason))


class Splitter:
    """Finds the values of a text by its brackets. The text need not be valid JSON.

    max_brackets: after so many brackets, no further end is found.
    """

    def __init__(self, content: bytes, max_brackets: int = MAX_BRACKETS) -> None:
        self._content = content
        self._brackets_left = max_brackets
        self._failed_bytes_left = 2 * len(content)
        self._stopped_at = 0

    @property
    def exhausted(self) -> bool:
        """Whether a limit was reached. ``end_of`` or ``object_end`` then return None."""
        return self._brackets_left <= 0 or self._failed_bytes_left <= 0

    def parts(self) -> Iterator[tuple[int, int]]:
        """Yield start and end of each value; for an array, of each item. A broken value ends with its line."""
        content, at = self._content, skip_blank(self._content, 0)
        while at < len(content):
            if content[at : at + 1] == b"[" and (
                ARRAY_OF_OBJECTS.match(content, at) or self.end_of(at) is not None
            ):
                at = yield from self.items(at)
            else:
                end = self.object_end(at) or _line_end(content, at)
                yield at, end
                at = end
            at = skip_blank(content, at)

    def items(self, at: int) -> Generator[tuple[int, int], None, int]:
        """Yield start and end of each item of the array or object at ``at``. Return where that ends."""
        content, at = self._content, skip_blank(self._content, at + 1)
        while at < len(content) and content[at : at + 1] not in (b"]", b"}"):
            end = self.item_end(at)
            yield at, end
            at = skip_blank(content, end + 1 if content[end : end + 1] == b"," else end)
        return min(at + 1, len(content))

    def item_end(self, at: int) -> int:
        """Return where an item ends: at the comma or bracket after it, or at the end of the text."""
        content = self._content
        while at < len(content):
            at = _match_end(_TO_COMMA_OR_BRACKET, content, at)
            sign = content[at : at + 1]
            if sign in (b",", b"]", b"}"):
                return at
            after = self.end_of(at) if sign in (b"[", b"{") else None
            if after is None:
                break
            at = after
        return len(content)

    def object_end(self, at: int) -> int | None:
        """Return the end of the object at ``at``, or None. A string with a line break has no end."""
        if self._content[at : at + 1] != b"{" or self._failed_bytes_left <= 0:
            return None
        end = self.end_of(at, _TO_BRACKET_IN_LINES)
        if end is None:
            self._failed_bytes_left -= self._stopped_at - at
        return end

    def end_of(self, at: int, to_bracket: re.Pattern[bytes] = _TO_BRACKET) -> int | None:
        """Return where the bracket at ``at`` is closed. None: not closed, or a limit was reached."""
        content, opened, deeper = self._content, bytearray(), 0
        while self._brackets_left > 0:
            at = _match_end(to_bracket, content, at)
            sign = content[at : at + 1]
            at += 1
            self._brackets_left -= 1
            if sign in (b"", b'"'):
                self._stopped_at = at
                return None
            if sign in (b"[", b"{"):
                if len(opened) < _MAX_STACK:
                    opened += sign
                else:
                    deeper += 1
            elif deeper:
                deeper -= 1
            else:
                begin = opened.rfind(b"{" if sign == b"}" else b"[")
                if begin >= 0:
                    del opened[begin:]
                if not opened:
                    return at
        self._stopped_at = at
        return None


def _match_end(pattern: re.Pattern[bytes], content: bytes, at: int) -> int:
    found = pattern.match(content, at)
    return found.end() if found else at


def _line_end(content: bytes, at: int) -> int:
    end = content.find(b"\n", at)
    return len(content) if end < 0 else end
