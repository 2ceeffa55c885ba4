"""Escapes for untrusted text: control characters, line breaks and bidirectional marks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from typing import Any


def printable(text: str) -> str:
    """Escape every character that a terminal interprets or does not show."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escape_json(text: str) -> str:
    """Escape every character of a JSON text that is not printable. text: JSON without line breaks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def encode_printable(value: Any) -> bytes:
    """Encode a value as JSON in UTF-8 that is safe to print on a terminal."""
    content = msgspec.json.encode(value)
    plain = content.isascii() and b"\x7f" not in content
    return content if plain else escape_json(content.decode()).encode()
