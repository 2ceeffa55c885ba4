"""Masking: replace secrets in JSON that a server returns."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

MASK = "***"
"""The text that replaces a secret."""
_MIN_LENGTH = 6
"""Characters; shorter parts of a secret are not masked. ``Bearer`` is masked too, which does no harm."""


def mask_secrets(value: Any, secrets: Collection[str]) -> Any:
    """Return a JSON value in which ``MASK`` replaces each secret and each word of a secret.

    A server may repeat a credential in its response, and responses are stored and shown.
    """
    parts = {
        part for secret in secrets for part in (secret, *secret.split()) if len(part) >= _MIN_LENGTH
    }
    if not parts:
        return value
    try:
        text = json.dumps(value, ensure_ascii=False)
        for part in sorted(parts, key=len, reverse=True):
            text = text.replace(json.dumps(part, ensure_ascii=False)[1:-1], MASK)
        return json.loads(text)
    except RecursionError:
        return None
