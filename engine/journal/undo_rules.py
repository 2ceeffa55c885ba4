"""The rules of undo intents: which values they keep, and what their outcome changes. Shared by the backends."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from engine.journal import codec
from engine.model import json_codec
from engine.model.calls import ObjectChange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.journal.hydrate import Row

MAX_VALUES = 16
"""Values of other steps that a change remembers."""
_FIELDS = [field.name for field in dataclasses.fields(ObjectChange)]


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

    All undo intents for an object keep the value from before the first change. All of them get the newest value,
    and remember the others, because the newest step may not act.
    """
    updates = []
    found = [ObjectChange.of(codec.decode(other["change"])) for other in others]
    values = [value for earlier in found for value in (*earlier.others, earlier.put)]
    known = _distinct(values, change.put)
    for other, earlier in zip(others, found, strict=True):
        change = replace(change, before=earlier.before, others=known)
        newest = _encode(replace(earlier, put=change.put, others=known))
        updates.append((newest, other["undo"], other["place"]))
    return _encode(change), updates


def _distinct(values: Sequence[Any], newest: Any) -> tuple[Any, ...]:
    """Return the last MAX_VALUES distinct values except the newest."""
    distinct: list[Any] = []
    for value in reversed(values):
        if value != newest and value not in distinct:
            distinct.append(value)
    return tuple(distinct[:MAX_VALUES])


def _encode(change: ObjectChange) -> bytes:
    """Encode a change. Versions before ``others`` can read those that have none."""
    fields = {name: getattr(change, name) for name in _FIELDS}
    if not change.others:
        del fields["others"]
    return msgspec.json.encode(fields)


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
