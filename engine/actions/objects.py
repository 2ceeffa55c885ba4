"""What every object that an action makes carries, and how one of its name is told to be ours."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from engine.errors import PermanentError

if TYPE_CHECKING:
    from engine.actions.action import Doing
    from engine.ports.cluster import Object

MANAGED_BY = {"app.kubernetes.io/managed-by": "tiercel"}
_LONGEST_ANNOTATION = 1024


def digest(length: int, *parts: str) -> str:
    """So many hex digits that the parts, taken together, always give."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:length]


def marks(doing: Doing, expires_at: str | None = None) -> dict[str, Any]:
    """The labels and annotations of an object that a step makes."""
    annotations = {
        "tiercel.dev/run": doing.run,
        "tiercel.dev/rule": doing.event.rule[:_LONGEST_ANNOTATION],
    }
    if expires_at:
        annotations["tiercel.dev/expires-at"] = expires_at
    return {
        "labels": {**MANAGED_BY, "tiercel.dev/playbook": doing.playbook},
        "annotations": annotations,
    }


def must_be_ours(found: Object | None, about: str) -> None:
    """Raises PermanentError where an object of the name exists that Tiercel has not made."""
    labels = ((found or {}).get("metadata") or {}).get("labels") or {}
    if found is not None and not labels.items() >= MANAGED_BY.items():
        raise PermanentError(f"{about} exists and is not Tiercel's: it is left alone")
