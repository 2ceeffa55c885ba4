"""Durations as the language writes them: ``500ms``, ``30s``, ``10m``, ``2h``, ``7d``."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
PATTERN = "^0*[1-9][0-9]{0,8}(ms|s|m|h|d)$"
"""Durations for a JSON Schema."""
HINT = "like 500ms, 30s, 10m, 2h or 7d"


def seconds(text: object) -> float | None:
    """The seconds of a duration, or None where the text is none (or lasts no time at all)."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if not found or not int(found[1]):
        return None
    return int(found[1]) * _SECONDS[found[2]]


def text(value: float) -> str:
    """A duration in the largest unit that says it whole."""
    for unit, size in reversed(_SECONDS.items()):
        if value >= size and (value / size).is_integer():
            return f"{int(value / size)}{unit}"
    return f"{value:g}s"
