"""Simulated clusters for previews: objects from a file or a test, or objects that an event implies."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from engine.cluster.api import DEPLOYMENT, NAMESPACE, NODE, POD, REPLICA_SET
from engine.cluster.label_selectors import as_list, as_object
from engine.model.event import format_time
from engine.model.event_subject import first_field, subject_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.model.calls import Kind, Object
    from engine.model.event import Event

HOUR_NS = 3_600_000_000_000
ASSUMED_REPLICAS = 3


class StaticCluster:
    """A cluster that consists of a list of objects. Other objects do not exist, except namespaces.

    A namespaced object without a namespace is in ``default``, as in kubectl. If an object occurs twice, the
    first one is used.
    """

    def __init__(self, objects: Iterable[Object]) -> None:
        self._objects = list(objects)
        self._found: dict[Kind, dict[tuple[str | None, str], Object]] = {}

    def get(
        self, kind: Kind, name: str, namespace: str | None = None, *, fresh: bool = False
    ) -> Object | None:
        """Return an object, or None. A namespace always exists."""
        del fresh
        found = self._of(kind).get((namespace if kind.namespaced else None, name))
        return assumed_namespace(name) if found is None and kind == NAMESPACE else found

    def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        node: str | None = None,
        address: str | None = None,
    ) -> list[Object]:
        """Return the objects of a kind."""
        return [
            item
            for (there, _), item in self._of(kind).items()
            if namespace in (None, there)
            and node in (None, (item.get("spec") or {}).get("nodeName"))
            and address in (None, (item.get("status") or {}).get("podIP"))
        ]

    def serves(self, kind: Kind) -> bool:
        """Return whether the objects contain one of the kind, or its CustomResourceDefinition."""
        group, _, version = kind.api_version.partition("/")
        return any(
            (item.get("apiVersion"), item.get("kind")) == (kind.api_version, kind.kind)
            or (
                item.get("kind") == "CustomResourceDefinition"
                and _defines(item, group, version, kind.resource)
            )
            for item in self._objects
        )

    def _of(self, kind: Kind) -> dict[tuple[str | None, str], Object]:
        """Return the objects of a kind by namespace and name, each with an explicit namespace."""
        found = self._found.get(kind)
        if found is None:
            found = self._found[kind] = {}
            for item in self._objects:
                if not _has_kind(kind, item):
                    continue
                metadata = item["metadata"]
                namespace = (metadata.get("namespace") or "default") if kind.namespaced else None
                placed = {**item, "metadata": {**metadata, "namespace": namespace}}
                one = placed if kind.namespaced else item
                found.setdefault((namespace, str(metadata.get("name"))), one)
        return found


def _defines(definition: Object, group: str, version: str, resource: str) -> bool:
    """Return whether a CustomResourceDefinition from a file defines a resource in a version that is served."""
    spec = as_object(definition.get("spec"))
    names = (spec.get("group"), as_object(spec.get("names")).get("plural"))
    versions = map(as_object, as_list(spec.get("versions")))
    served = {one.get("name") for one in versions if one.get("served") is True}
    return names == (group, resource) and version in served


def _has_kind(kind: Kind, item: Object) -> bool:
    """Whether an object is of the kind, in any version; Calico has a NetworkPolicy in a group of its own."""
    given = item.get("apiVersion") or kind.api_version
    groups = {text.rpartition("/")[0] for text in (given, kind.api_version)}
    return item.get("kind") == kind.kind and len(groups) == 1


class AssumedCluster:
    """A cluster in which the pod of one event exists, on the event's node and older than the event.

    The object of an audit event exists, too.

    The pod belongs to a ReplicaSet of a Deployment. Its namespace has no labels and no NetworkPolicies.
    """

    def __init__(self, event: Event) -> None:
        subject = subject_of(event)
        self._node = event.hostname
        self._pod: Object | None = None
        self._created = format_time(event.time_ns - HOUR_NS)
        fields = ("ka.target.resource", "ka.target.namespace", "ka.target.name")
        self._audited = tuple(first_field(event, field) for field in fields)
        if subject.pod is not None and subject.namespace is not None:
            self._pod = self._assumed_pod(
                subject.namespace, subject.pod, subject.uid, subject.container_id
            )

    def get(
        self, kind: Kind, name: str, namespace: str | None = None, *, fresh: bool = False
    ) -> Object | None:
        """Return the object if it is the pod, one of its owners, its node or a namespace."""
        del fresh
        pod = self._pod
        if kind == NAMESPACE:
            return assumed_namespace(name)
        if kind == NODE and name == self._node:
            return {"kind": "Node", "metadata": {"name": name, "uid": _uid("node", name)}}
        if (kind.resource, namespace, name) == self._audited and kind != POD:
            metadata = {"name": name, "creationTimestamp": self._created}
            if namespace:
                metadata["namespace"] = namespace
            metadata["uid"] = _uid(kind.resource, namespace, name)
            return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
        if pod is None or pod["metadata"]["namespace"] != namespace:
            return None
        if kind == POD and name == pod["metadata"]["name"]:
            return pod
        owned = pod["metadata"]["name"]
        if kind in (REPLICA_SET, DEPLOYMENT) and name in (f"{owned}-replicas", f"{owned}-app"):
            return self._assumed_owner(kind, name, namespace, owned)
        return None

    def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        node: str | None = None,
        address: str | None = None,
    ) -> list[Object]:
        """Return the pod if the query includes it. No other objects are listed."""
        pod = self._pod
        if kind != POD or pod is None or node is not None or address is not None:
            return []
        return [pod] if namespace in (None, pod["metadata"]["namespace"]) else []

    def serves(self, kind: Kind) -> bool:
        """Return False: only kinds of Kubernetes are assumed, and a step does not ask for those."""
        del kind
        return False

    def _assumed_pod(
        self, namespace: str, name: str, uid: str | None, container: str | None
    ) -> Object:
        owner = f"{name}-replicas"
        statuses = (
            [{"name": "app", "containerID": f"containerd://{container}"}] if container else []
        )
        metadata: dict[str, Any] = {
            "name": name,
            "namespace": namespace,
            "uid": uid or _uid("pod", namespace, name),
            "creationTimestamp": self._created,
            "labels": _assumed_labels(namespace, name),
            "ownerReferences": [_reference("ReplicaSet", owner, _uid("rs", namespace, owner))],
        }
        status = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": statuses,
        }
        spec = {"nodeName": self._node} if self._node else {}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": spec,
            "status": status,
        }

    def _assumed_owner(self, kind: Kind, name: str, namespace: str | None, owned: str) -> Object:
        app = f"{owned}-app"
        owners = [_reference("Deployment", app, _uid("deploy", namespace, app))]
        metadata: dict[str, Any] = {
            "name": name,
            "namespace": namespace,
            "uid": _uid("owner", namespace, name),
        }
        if kind == REPLICA_SET:
            metadata = {**metadata, "uid": _uid("rs", namespace, name), "ownerReferences": owners}
        selector = {"matchLabels": _assumed_labels(namespace, owned)} if kind == REPLICA_SET else {}
        return {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": metadata,
            "spec": {"replicas": ASSUMED_REPLICAS, **({"selector": selector} if selector else {})},
            "status": {"replicas": ASSUMED_REPLICAS, "readyReplicas": ASSUMED_REPLICAS},
        }


def assumed_namespace(name: str) -> Object:
    """Return a namespace that has only the label that Kubernetes sets on each namespace."""
    labels = {"kubernetes.io/metadata.name": name}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _assumed_labels(namespace: str | None, pod: str) -> dict[str, str]:
    """Return the label by which the ReplicaSet of the assumed pod selects it."""
    return {"pod-template-hash": _uid("rs", namespace, f"{pod}-replicas")[:8]}


def _uid(*parts: str | None) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(map(str, parts))))


def _reference(kind: str, name: str, uid: str) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": True}
