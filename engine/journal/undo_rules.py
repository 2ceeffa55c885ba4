"""The rules of undo intents: which values they keep, and what their outcome changes. Shared by the backends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from engine.journal import codec
from engine.model import json_codec
from engine.model.calls import ObjectChange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.journal.hydrate import Row


@dataclass(frozen=True, slots=True)
class UndoIntent:
    """The changes of a step and the time of their undo: epoch seconds, or None (only on request)."""

    run: str
    step: str
    position: int
    changes: Sequence[ObjectChange]
    until: float | None


def add_to_object(
    change: ObjectChange, others: Sequence[Row]
) -> tuple[bytes, list[tuple[bytes, str, int]]]:
    """Return a new change of an object, encoded, and the updates of the other undo intents for the object.

    others: rows of the other undo intents. updates: (encoded change, undo, place).

    All undo intents for an object keep the value from before the first change. All of them get the newest value.
    """
    updates = []
    for other in others:
        earlier = ObjectChange.of(codec.decode(other["change"]))
        change = replace(change, before=earlier.before)
        newest = msgspec.json.encode(replace(earlier, put=change.put))
        updates.append((newest, other["undo"], other["place"]))
    return msgspec.json.encode(change), updates


def with_undo_outcome(results: bytes, step: str, outcome: tuple[str, str]) -> bytes:
    """Write the outcome of an undo into the encoded results of its run. outcome: state and message."""
    state, message = outcome
    decoded = codec.decode(results)
    for result in decoded:
        if result["step"] == step and state == "undone":
            result |= {"state": state, "message": message}
        elif result["step"] == step:
            result["message"] = f"{result['message']} (not undone: {message})"
    return json_codec.encode_json(decoded)
