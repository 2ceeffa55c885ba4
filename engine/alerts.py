"""Files of alerts: one alert, a JSON array, or one alert a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import EventError
from engine.event import decode, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.event import Event

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a file: its event, or why it is none. line: from 1; in an array the element's number."""

    line: int
    event: Event | None
    error: EventError | None = None


def read_alerts(content: bytes) -> Iterator[Alert]:
    """The alerts of a file, those that are none included."""
    content = content.removeprefix(_BOM)
    if content.lstrip()[:1] in (b"[", b"{"):
        try:
            whole = decode(content)
        except EventError:
            pass  # one a line, then
        else:
            items = whole if isinstance(whole, list) else [whole]
            for number, item in enumerate(items, 1):
                yield _alert(number, item)
            return
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                yield _alert(number, decode(line))
            except EventError as error:
                yield Alert(number, None, error)


def _alert(number: int, value: Any) -> Alert:
    try:
        return Alert(number, parse(value, salt=f"line {number}"))
    except EventError as error:
        return Alert(number, None, error)
