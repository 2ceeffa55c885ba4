"""The labels and annotations that mark an object as created by Tiercel."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from engine.cluster.undo import EXPIRES_AT, MANAGED_BY, expiry_text
from engine.model.errors import PermanentError

if TYPE_CHECKING:
    from engine.actions.registry import StepContext
    from engine.model.calls import Object

_LONGEST_ANNOTATION = 1024
RUN, RULE = "tiercel.dev/run", "tiercel.dev/rule"
BLOB, REVISION = "tiercel.dev/blob", "tiercel.dev/revision"
"""Annotations. The blob and the revision are absent if they are not known."""
RUN_AS = "tiercel.dev/run-as"
"""Annotation: the ServiceAccount of ``runAs``, which also undoes the step. Absent without ``runAs``."""
PLAYBOOK = "tiercel.dev/playbook"
"""A label, so that ``kubectl -l`` finds the objects of a playbook."""


def short_digest(length: int, *parts: str) -> str:
    """Return ``length`` hex digits of a digest of the parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:length]


def ownership_metadata(
    context: StepContext, until: float | None = None, found: Object | None = None
) -> dict[str, Any]:
    """Return the labels and annotations of an object that a step creates.

    until: when the object expires, epoch seconds. found: the existing object. If it expires later, its later
    time is kept.
    """
    annotations = {
        RUN: context.run,
        RULE: context.event.rule[:_LONGEST_ANNOTATION],
        **({BLOB: context.blob} if context.blob else {}),
        **({REVISION: context.revision} if context.revision else {}),
        **({RUN_AS: context.run_as} if context.run_as else {}),
    }
    if until is not None:
        ours = expiry_text(until)
        before = (((found or {}).get("metadata") or {}).get("annotations") or {}).get(EXPIRES_AT)
        later = before and len(before) == len(ours) and before > ours
        annotations[EXPIRES_AT] = str(before) if later else ours
    return {
        "labels": {**MANAGED_BY, PLAYBOOK: context.playbook},
        "annotations": annotations,
    }


def is_managed(found: Object) -> bool:
    """Return whether an object has the label of Tiercel."""
    labels = (found.get("metadata") or {}).get("labels") or {}
    return bool(labels.items() >= MANAGED_BY.items())


def require_managed(found: Object | None, about: str) -> None:
    """Raise PermanentError if the existing object was not created by Tiercel. about: what to call it."""
    if found is not None and not is_managed(found):
        raise PermanentError(f"{about} already exists and was not created by Tiercel")
