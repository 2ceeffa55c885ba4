"""JSON for the journal and the audit log."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from engine.model.errors import UnwritableError


def encode_json(value: Any) -> bytes:
    """Encode a record or plain data as JSON. NaN and infinity become null.

    A half of a surrogate pair, which a server's answer can contain, becomes ``?``. Raises
    UnwritableError if the value cannot be encoded.
    """
    try:
        try:
            return msgspec.json.encode(value)
        except UnicodeEncodeError:
            text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
            return msgspec.json.encode(json.loads(text.encode("utf-8", "replace")))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UnwritableError(f"it cannot be written as JSON: {error}") from error
