"""Mask secrets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection


MASK = "***"


_SHORT = 6
"""Letters that a part of a secret has at least to be looked for; `Bearer` is found, and nobody's loss."""


def mask_secrets(value: Any, secrets: Collection[str]) -> Any:
    """JSON without secrets, which a server may say again: it is kept, shown, and asked by later steps."""
    said = {part for secret in secrets for part in (secret, *secret.split()) if len(part) >= _SHORT}
    if not said:
        return value
    try:
        text = json.dumps(value, ensure_ascii=False)
        for secret in sorted(said, key=len, reverse=True):
            text = text.replace(json.dumps(secret, ensure_ascii=False)[1:-1], MASK)
        return json.loads(text)
    except RecursionError:
        return None
