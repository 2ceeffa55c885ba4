"""What every object that an action makes carries, and how one of its name is told to be ours."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from engine.cluster.undo import EXPIRES_AT, MANAGED_BY, expiry_text
from engine.model.errors import PermanentError

if TYPE_CHECKING:
    from engine.actions.registry import StepContext
    from engine.model.calls import Object

_LONGEST_ANNOTATION = 1024


def digest(length: int, *parts: str) -> str:
    """So many hex digits that the parts, taken together, always give."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:length]


def marks(
    context: StepContext, until: float | None = None, found: Object | None = None
) -> dict[str, Any]:
    """The labels and annotations of an object that a step makes.

    until: when it goes, epoch seconds; never earlier than the one that was found already says.
    """
    annotations = {
        "tiercel.dev/run": context.run,
        "tiercel.dev/rule": context.event.rule[:_LONGEST_ANNOTATION],
    }
    if until is not None:
        ours = expiry_text(until)
        before = (((found or {}).get("metadata") or {}).get("annotations") or {}).get(EXPIRES_AT)
        later = before and len(before) == len(ours) and before > ours
        annotations[EXPIRES_AT] = str(before) if later else ours
    return {
        "labels": {**MANAGED_BY, "tiercel.dev/playbook": context.playbook},
        "annotations": annotations,
    }


def must_be_ours(found: Object | None, about: str) -> None:
    """Raises PermanentError where an object of the name exists that Tiercel has not made."""
    labels = ((found or {}).get("metadata") or {}).get("labels") or {}
    if found is not None and not labels.items() >= MANAGED_BY.items():
        raise PermanentError(f"{about} exists and is not Tiercel's: it is left alone")
