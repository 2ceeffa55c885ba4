"""Foreign text made safe: control characters, line ends and bidirectional marks are escaped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from typing import Any


def printable(text: str) -> str:
    """Text with all escaped that a terminal obeys: control characters, line ends, bidirectional marks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escape_json(text: str) -> str:
    """The same JSON, with every character escaped that is not printable. text: JSON without line ends."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def encode_printable(value: Any) -> bytes:
    """A value as JSON in UTF-8 that a terminal may show."""
    content = msgspec.json.encode(value)
    plain = content.isascii() and b"\x7f" not in content
    return content if plain else escape_json(content.decode()).encode()
