"""Bodies as senders make them: alerts in any number, in an array or not, with CloudEvents around them.

A body that is JSON is decoded at once. Any other is split by its brackets, and each part is decoded alone, so
that an unreadable element does not affect the others. The split costs a bounded number of steps.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.model.errors import EventError
from engine.model.event import decode_json, parse_event

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from engine.model.event import Event

FORMAT_HINT = "send one alert, an array, or one alert per line, as JSON"
MAX_BRACKETS = 200_000
"""Brackets that a split looks at: 0.1 s. 1,000 audit events of 4 KiB have half of them."""
_DEPTH = 100
"""Open brackets whose kind is remembered; beyond, they are only counted."""
_BLANK = re.compile(rb"(?:[ \t\r\n]|\xef\xbb\xbf)*+")
"""What separates values: JSON's white space, and the byte order mark of files that were joined."""
_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_TEXT_OF_A_LINE = rb'"(?:[^"\\\r\n]++|\\[^\r\n])*+"'
_TO_SIGN = re.compile(rb'(?:[^",\[\]{}]++|' + _TEXT + rb")*+", re.DOTALL)
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + _TEXT + rb")*+", re.DOTALL)
_TO_BRACKET_OF_A_LINE = re.compile(rb'(?:[^"\[\]{}]++|' + _TEXT_OF_A_LINE + rb")*+")
_OBJECTS = re.compile(rb"\[[ \t\r\n]*+[{\]]")
_DATA = re.compile(rb'"data"[ \t\r\n]*+:[ \t\r\n]*+(?=\[)')


class Unreadable(NamedTuple):
    """An element that is not JSON: its content, and why."""

    content: bytes
    error: EventError


class Value(NamedTuple):
    """A value of a text. start: its first byte; None where the text was decoded at once."""

    value: Any
    start: int | None


def body_elements(body: bytes) -> Iterator[Any]:
    """The elements of a body in order: decoded values, the alerts within CloudEvents, and Unreadable ones."""
    for value, _ in json_values(body):
        if isinstance(value, dict) and "specversion" in value and "rule" not in value:
            yield from _data(value)
        else:
            yield value


def json_values(content: bytes, start: int = 0) -> Iterator[Value]:
    """The values of a text, those of its arrays one by one; a value may be Unreadable.

    start: the position of the text within what the sender sent, for errors.
    """
    begin = _past(_BLANK, content, 0)
    if begin == len(content):
        return
    try:
        whole = decode_json(content[begin:] if content.startswith(b"\xef\xbb\xbf") else content)
    except EventError:
        for part, at in _parts(content, start):
            yield from _part(part, at)
        return
    for value in whole if isinstance(whole, list) else [whole]:
        yield Value(value, None)


def _parts(content: bytes, start: int) -> Iterator[tuple[bytes, int]]:
    """The parts of a text that is not JSON as a whole, with their positions."""
    for at, end in _Split(content).parts():
        yield content[at:end], start + at


def _part(part: bytes, start: int) -> Iterator[Value]:
    """The value of a part; of a CloudEvent that is not JSON as a whole, those of the array in ``data``."""
    value = _decoded(part, start)
    at = _data_array(part) if isinstance(value, Unreadable) else None
    if at is None:
        yield Value(value, start)
        return
    for inner, begin in _parts(part[at : _Split(part).end_of(at)], start + at):
        yield Value(_decoded(inner, begin), begin)


def _decoded(part: bytes, start: int) -> Any:
    try:
        return decode_json(part, start)
    except EventError as error:
        return Unreadable(part, error)


def _data_array(part: bytes) -> int | None:
    """Where the array in ``data`` of an unreadable CloudEvent begins; None for anything else."""
    if not part.startswith(b"{") or b'"specversion"' not in part:
        return None
    for at, end in _Split(part).items(0):
        found = _DATA.match(part, at, end)
        if found:
            return found.end()
    return None


def _data(envelope: dict[str, Any]) -> Iterator[Any]:
    """The alerts within a CloudEvent in structured mode."""
    data = envelope.get("data")
    if "data_base64" in envelope:
        try:
            data = base64.b64decode(str(envelope["data_base64"]), validate=True)
        except ValueError:  # binascii.Error, and what it raises of letters beyond ASCII
            yield _unreadable(envelope, "`data_base64` is not base64")
            return
    if isinstance(data, (str, bytes)):
        data = [value for value, _ in json_values(data.encode() if isinstance(data, str) else data)]
    if data == []:
        yield _unreadable(envelope, "`data` of the CloudEvent contains no event")
    elif isinstance(data, list):
        yield from data
    else:
        yield data


def _unreadable(value: Any, why: str) -> Unreadable:
    return Unreadable(msgspec.json.encode(value), EventError(why))


class _Split:
    """Finds the values of a text by its brackets; the text need not be JSON."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._brackets = MAX_BRACKETS
        self._in_vain = 2 * len(content)

    def parts(self) -> Iterator[tuple[int, int]]:
        """Where each value begins and ends; of an array each of its items. A broken one ends with its line."""
        content, at = self._content, self._blank(0)
        while at < len(content):
            if content[at : at + 1] == b"[" and (
                _OBJECTS.match(content, at) or self.end_of(at) is not None
            ):
                at = yield from self.items(at)
            else:
                end = self._object(at) or _line_end(content, at)
                yield at, end
                at = end
            at = self._blank(at)

    def items(self, at: int) -> Generator[tuple[int, int], None, int]:
        """Where each item of the array or object begins and ends that begins there. Returns where that ends."""
        content, at = self._content, self._blank(at + 1)
        while at < len(content) and content[at : at + 1] not in (b"]", b"}"):
            end = self._item(at)
            yield at, end
            at = self._blank(end + 1 if content[end : end + 1] == b"," else end)
        return min(at + 1, len(content))

    def end_of(self, at: int, inside: re.Pattern[bytes] = _TO_BRACKET) -> int | None:
        """Where the brackets end that begin there; None: nowhere, or beyond the bound."""
        content, opened, deeper = self._content, bytearray(), 0
        while self._brackets > 0:
            at = _past(inside, content, at)
            sign = content[at : at + 1]
            at += 1
            self._brackets -= 1
            if sign in (b"", b'"'):
                return None
            if sign in (b"[", b"{"):
                if len(opened) < _DEPTH:
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
        return None

    def _object(self, at: int) -> int | None:
        """Where the object ends that begins there; a string of it that has a line break was cut."""
        if self._content[at : at + 1] != b"{" or self._in_vain <= 0:
            return None
        end = self.end_of(at, _TO_BRACKET_OF_A_LINE)
        if end is None:
            self._in_vain -= len(self._content) - at
        return end

    def _item(self, at: int) -> int:
        """Where an item ends: at the comma or bracket after it."""
        content = self._content
        while at < len(content):
            at = _past(_TO_SIGN, content, at)
            sign = content[at : at + 1]
            if sign in (b",", b"]", b"}"):
                return at
            after = self.end_of(at) if sign in (b"[", b"{") else None
            if after is None:
                break
            at = after
        return len(content)

    def _blank(self, at: int) -> int:
        return _past(_BLANK, self._content, at)


def _past(pattern: re.Pattern[bytes], content: bytes, at: int) -> int:
    """Where what the pattern matches at that position ends."""
    found = pattern.match(content, at)
    return found.end() if found else at


def _line_end(content: bytes, at: int) -> int:
    end = content.find(b"\n", at)
    return len(content) if end < 0 else end


_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ReadEvent:
    """One alert of a file: its event, or why it is none. line: from 1; in an array the element's number."""

    line: int
    event: Event | None
    error: EventError | None = None


def read_events(content: bytes) -> Iterator[ReadEvent]:
    """The alerts of a file, and the values and lines that are not alerts."""
    in_array = content.removeprefix(_BOM).lstrip().startswith(b"[")
    line, counted = 1, 0
    for number, (value, start) in enumerate(json_values(content), 1):
        if start is None or in_array:
            line = number
        else:
            line, counted = line + content.count(b"\n", counted, start), start
        if isinstance(value, Unreadable):
            yield ReadEvent(line, None, value.error)
        else:
            yield _alert(line, value)


def _alert(line: int, value: Any) -> ReadEvent:
    try:
        return ReadEvent(line, parse_event(value, salt=f"line {line}"))
    except EventError as error:
        return ReadEvent(line, None, error)
