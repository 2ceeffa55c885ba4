"""Files of alerts: one alert, several one after the other, or a JSON array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.model.bodies import Unreadable, values
from engine.model.errors import EventError
from engine.model.event import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.model.event import Event

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a file: its event, or why it is none. line: from 1; in an array the element's number."""

    line: int
    event: Event | None
    error: EventError | None = None


def read_alerts(content: bytes) -> Iterator[Alert]:
    """The alerts of a file, and the values and lines that are not alerts."""
    in_array = content.removeprefix(_BOM).lstrip().startswith(b"[")
    line, counted = 1, 0
    for number, (value, start) in enumerate(values(content), 1):
        if start is None or in_array:
            line = number
        else:
            line, counted = line + content.count(b"\n", counted, start), start
        if isinstance(value, Unreadable):
            yield Alert(line, None, value.error)
        else:
            yield _alert(line, value)


def _alert(line: int, value: Any) -> Alert:
    try:
        return Alert(line, parse(value, salt=f"line {line}"))
    except EventError as error:
        return Alert(line, None, error)
