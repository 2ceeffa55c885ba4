"""Bodies as senders make them: one alert, an array, one a line, CloudEvents around any of them."""

from __future__ import annotations

import base64
from typing import Any

from engine.errors import EventError
from engine.event import decode

HINT = "send one alert, an array, or one alert a line, as JSON"


def elements(body: bytes) -> list[Any]:
    """The elements of a body: decoded ones, or the lines of NDJSON as bytes. Raises EventError."""
    if not body.strip():
        raise EventError("the body is empty", HINT)
    try:
        value = decode(body)
    except EventError:
        lines = [line for line in body.split(b"\n") if line.strip()]
        if len(lines) < 2:  # noqa: PLR2004 - one line is no NDJSON
            raise
        return list(lines)
    return value if isinstance(value, list) else [value]


def unwrap(value: Any) -> Any:
    """The alert within a CloudEvent in structured mode; anything else as it is. Raises EventError."""
    if not isinstance(value, dict) or "specversion" not in value or "rule" in value:
        return value
    if "data_base64" in value:
        try:
            return decode(base64.b64decode(str(value["data_base64"]), validate=True))
        except ValueError:  # binascii.Error, and what it raises of letters beyond ASCII
            raise EventError("`data_base64` is no base64") from None
    data = value.get("data")
    return decode(data) if isinstance(data, str) else data
