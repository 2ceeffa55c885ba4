"""JSON as the journal and the audit write it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from engine.model.errors import UnwritableError


def encode_json(value: Any) -> bytes:
    """JSON of a record or of plain data; what no JSON can hold (NaN, infinity) is null.

    Halves of a surrogate pair, which a server's answer may hold, become ``?``. Raises
    UnwritableError for a value that is no data.
    """
    try:
        try:
            return msgspec.json.encode(value)
        except UnicodeEncodeError:
            text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
            return msgspec.json.encode(json.loads(text.encode("utf-8", "replace")))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UnwritableError(f"it cannot be written as JSON: {error}") from error
