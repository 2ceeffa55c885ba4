"""May this step touch this target now? What is protected is neither marked nor disrupted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import RefusedError
from engine.pod import Pod
from engine.ports.cluster import NAMESPACE, NODE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.ports.cluster import Object, Reads

SYSTEM_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")
PROTECTED_LABEL = ("tiercel.dev/protected", "true")
_MIRROR = "kubernetes.io/config.mirror"


@dataclass(frozen=True, slots=True)
class Guard:
    """The floor that holds before any guardrails are written.

    own_namespace: the engine's, or None outside a cluster.
    """

    own_namespace: str | None = None

    def check(self, subject: Pod | Object, reads: Reads) -> None:
        """Raises RefusedError with the reason where the target (a pod, or a node) is protected."""
        if not isinstance(subject, Pod):
            self._check_labels("node", subject)
            return
        if subject.namespace in SYSTEM_NAMESPACES:
            raise RefusedError(f"namespace {subject.namespace} is protected")
        if subject.namespace == self.own_namespace:
            raise RefusedError(f"namespace {subject.namespace} is Tiercel's own, so protected")
        if _MIRROR in (subject.metadata.get("annotations") or {}):
            raise RefusedError(f"pod {subject} is a mirror pod: its node's kubelet owns it")
        self._check_labels("namespace", reads.get(NAMESPACE, subject.namespace))
        node = subject.spec.get("nodeName")
        if node:
            self._check_labels("node", reads.get(NODE, node))

    def _check_labels(self, what: str, found: Mapping[str, Any] | None) -> None:
        metadata = (found or {}).get("metadata") or {}
        key, value = PROTECTED_LABEL
        if (metadata.get("labels") or {}).get(key) == value:
            raise RefusedError(f"{what} {metadata.get('name')} is protected by its label {key}")
