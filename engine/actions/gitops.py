"""Objects that Argo CD or Flux manages. A change to them would be reverted, or would conflict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.model.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

MARKS = {
    "annotations": ("argocd.argoproj.io/tracking-id",),
    "labels": (
        "app.kubernetes.io/instance",
        "argocd.argoproj.io/instance",
        "kustomize.toolkit.fluxcd.io/name",
        "helm.toolkit.fluxcd.io/name",
        "fluxcd.controlplane.io/name",
    ),
}
"""The tracking annotation and labels of Argo CD, and the labels of Flux (also of its operator)."""


def refuse_managed(metadata: Mapping[str, Any], about: str, *, even_if_managed: bool) -> None:
    """Raise RefusedError if Argo CD or Flux manages the object, unless the step overrides it.

    metadata: of the object. about: its name in the message.
    """
    marked = any(
        name in (metadata.get(part) or {}) for part, names in MARKS.items() for name in names
    )
    if marked and not even_if_managed:
        raise RefusedError(f"{about} is managed from Git (evenIfManaged: true overrides)")
