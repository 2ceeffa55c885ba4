"""The kinds of Kubernetes that a playbook can name, and other kinds by their resource.

The table has the namespaced and cluster-scoped kinds of the stable APIs of Kubernetes 1.35 that an operator
creates. Other kinds, such as custom resources, are named as for kubectl: ``certificates.v1.cert-manager.io``.
"""

from __future__ import annotations

import re

from engine.cluster.api import (
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
    NAMESPACE,
    NETWORK_POLICY,
    NODE,
    POD,
    REPLICA_SET,
    SERVICE,
    STATEFUL_SET,
)
from engine.model.calls import Kind

_RBAC = "rbac.authorization.k8s.io/v1"
_ADMISSION = "admissionregistration.k8s.io/v1"
KINDS = {
    kind.kind: kind
    for kind in (
        POD, NODE, NAMESPACE, NETWORK_POLICY, REPLICA_SET, DEPLOYMENT, STATEFUL_SET, DAEMON_SET,
        JOB, CRON_JOB, SERVICE,
        Kind("v1", "configmaps", "ConfigMap"),
        Kind("v1", "secrets", "Secret"),
        Kind("v1", "serviceaccounts", "ServiceAccount"),
        Kind("v1", "endpoints", "Endpoints"),
        Kind("v1", "limitranges", "LimitRange"),
        Kind("v1", "resourcequotas", "ResourceQuota"),
        Kind("v1", "replicationcontrollers", "ReplicationController"),
        Kind("v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
        Kind("v1", "persistentvolumes", "PersistentVolume", namespaced=False),
        Kind("networking.k8s.io/v1", "ingresses", "Ingress"),
        Kind("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
        Kind("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
        Kind(_RBAC, "roles", "Role"),
        Kind(_RBAC, "rolebindings", "RoleBinding"),
        Kind(_RBAC, "clusterroles", "ClusterRole", namespaced=False),
        Kind(_RBAC, "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
        Kind(
            _ADMISSION, "mutatingwebhookconfigurations", "MutatingWebhookConfiguration",
            namespaced=False,
        ),
        Kind(
            _ADMISSION, "validatingwebhookconfigurations", "ValidatingWebhookConfiguration",
            namespaced=False,
        ),
    )
}  # fmt: skip
"""By the name of the kind."""
_RESOURCE = re.compile(r"([a-z0-9]+)\.(v[0-9][a-z0-9]*)\.([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)")


def kind_named(text: str) -> Kind | None:
    """Return the kind with a name of the table, or of the form RESOURCE.VERSION.GROUP, or None."""
    found = _RESOURCE.fullmatch(text)
    if found is None:
        return KINDS.get(text)
    return Kind(f"{found[3]}/{found[2]}", found[1], found[1])


def rbac_resource(kind: Kind) -> str:
    """Return the resource with its group, as in RBAC: ``roles.rbac.authorization.k8s.io``."""
    group = kind.api_version.rpartition("/")[0]
    return f"{kind.resource}.{group}" if group else kind.resource
