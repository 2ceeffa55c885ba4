"""Durations of the language: ``500ms``, ``30s``, ``10m``, ``2h``, ``7d``."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
PATTERN = "^0*[1-9][0-9]{0,8}(ms|s|m|h|d)$"
"""The pattern of a duration, for JSON Schema."""
HINT = "like 500ms, 30s, 10m, 2h or 7d"


def seconds(text: object) -> float | None:
    """Return the seconds of a duration, or None if the text is not a duration or the duration is 0."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if not match or not int(match[1]):
        return None
    return int(match[1]) * _SECONDS[match[2]]


def text(value: float) -> str:
    """Return a duration in seconds as text, in the largest unit that needs no fraction."""
    for unit, size in reversed(_SECONDS.items()):
        if value >= size and (value / size).is_integer():
            return f"{int(value / size)}{unit}"
    return f"{value:g}s"
