"""The objects on which the contract suite runs an action: pods with controllers, on a node of their own."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

from engine.cluster.api import NAMESPACE, NODE, POD
from engine.cluster.kinds import KINDS
from engine.model.calls import Kind
from engine.model.errors import GoneError

from tiercel.testing.pod_policy import LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.model.calls import Call, Object

    from tiercel.testing.server import ContractServer

IMAGE = "registry.k8s.io/pause:3.10"
_FINALIZER = "tiercel.dev/contract"
_PATIENCE = 60.0
"""Seconds until a node must run a pod."""
_SERVER_FIELDS = ("managedFields", "resourceVersion", "generation", "creationTimestamp")
"""Metadata that the API server counts or notes."""
_CONTROLLER_NOTES = ("deployment.kubernetes.io/", "node.alpha.kubernetes.io/")
"""Prefixes of annotations that controllers write."""


class World:
    """A namespace and a node for the cases of a session.

    No kubelet runs the node, and a policy keeps the controllers of Kubernetes from the pods. So nothing but the
    tests changes them.
    """

    def __init__(self, server: ContractServer) -> None:
        self.server = server
        self.name = f"contract-{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._pods: dict[str, str] = {}
        self._kept: list[tuple[Kind, Object]] = []
        server.create(NAMESPACE, {"metadata": {"name": self.name, "labels": {LABEL: "true"}}})
        self._node = content(server.create(NODE, {"metadata": {"name": self.name}}))
        server.reserve_pods(self.name)

    def close(self) -> None:
        """Delete the namespace and the node."""
        self._release_controllers()
        self.server.delete(NODE, self.name)
        unlabelled = {"metadata": {"labels": {LABEL: None}}}  # its pods can go with it
        self.server.patch(NAMESPACE, {"metadata": {"name": self.name}}, unlabelled)
        self.server.delete(NAMESPACE, self.name)

    def new_pod(self, owner: str = "", *, runs: bool = False) -> Object:
        """Create a pod. owner: the kind of its topmost controller, "" for none.

        runs: whether a node of the cluster runs it; otherwise only its status says so.
        """
        name = f"web-{next(self._numbers)}"
        spec: Object = {"containers": [{"name": "main", "image": IMAGE}]}
        spec |= {} if runs else {"nodeName": self.name}
        owners = {"ownerReferences": [_reference(self._controller(owner, name))]} if owner else {}
        given = {"name": f"{name}-x", "namespace": self.name, "labels": {"app": name}, **owners}
        pod = self.server.create(POD, {"metadata": given, "spec": spec})
        self._pods[pod["metadata"]["uid"]] = pod["metadata"]["name"]
        if runs:
            return self._until_running(pod)
        container = {
            "name": "main", "image": IMAGE, "imageID": "", "ready": True, "restartCount": 0,
            "containerID": f"containerd://{secrets.token_hex(32)}",
            "state": {"running": {"startedAt": pod["metadata"]["creationTimestamp"]}},
        }  # fmt: skip
        status = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [container],
        }
        return self.server.patch(POD, pod, {"status": status}, "/status")

    def _until_running(self, pod: Object) -> Object:
        deadline, pause = time.monotonic() + _PATIENCE, threading.Event()
        name = pod["metadata"]["name"]
        while time.monotonic() < deadline:
            found = self.server.admin.get(POD, name, self.name)
            if found and found["status"].get("containerStatuses"):
                return found
            pause.wait(0.02)
        raise AssertionError(f"no node runs the pod {self.name}/{name}")

    def new_object(self, kind: Kind) -> Object:
        """Create an object of a kind that needs no spec, such as a ConfigMap."""
        name = f"object-{next(self._numbers)}"
        namespace = {"namespace": self.name} if kind.namespaced else {}
        return self.server.create(kind, {"metadata": {"name": name, **namespace}})

    def reset(self) -> None:
        """Delete the pods and their controllers, and let the node be as it was at first."""
        for name in self._pods.values():
            self.server.delete(POD, name, self.name, gracePeriodSeconds=0)
        self._pods.clear()
        self._release_controllers()
        node = self.server.admin.get(NODE, self.name)
        if node is None or content(node) != self._node:
            self.server.delete(NODE, self.name)
            self._node = content(self.server.create(NODE, {"metadata": {"name": self.name}}))

    def _release_controllers(self) -> None:
        for kind, item in self._kept:
            with contextlib.suppress(GoneError):
                self.server.patch(kind, item, {"metadata": {"finalizers": None}})
        self._kept.clear()

    def end_pods(self) -> None:
        """Remove the pods that terminate, as a kubelet does."""
        for pod in self.server.admin.list(POD, self.name):
            if pod["metadata"].get("deletionTimestamp"):
                name = pod["metadata"]["name"]
                self.server.delete(POD, name, self.name, gracePeriodSeconds=0)

    def state(self, calls: Sequence[Call]) -> dict[str, Object]:
        """Return the pods, their controllers, the node and the objects of the calls, by place.

        The objects are without what servers note.
        """
        places: set[tuple[Kind, str | None, str]] = set()
        places |= {(POD, self.name, name) for name in self._pods.values()}
        places |= {(kind, self.name, item["metadata"]["name"]) for kind, item in self._kept}
        places |= {(NODE, None, self.name)}
        places |= {(kind_of(call), call.namespace, call.name) for call in calls}
        found = {}
        for kind, namespace, name in places:
            item = self.server.admin.get(kind, name, namespace)
            if item is not None:
                found[f"{kind.resource} {namespace} {name}"] = content(item)
        return found

    def _controller(self, owner: str, name: str) -> Object:
        """Create a controller, and what owns it. Return the controller.

        It is being deleted and a finalizer keeps it. So Kubernetes does not try to replace its pod.
        """
        labels = {"app": name}
        pod: Object = {"containers": [{"name": "main", "image": IMAGE}]}
        if owner in ("Job", "CronJob"):
            pod["restartPolicy"] = "Never"
        selected: Object = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        }
        specs: dict[str, Object] = {
            "Deployment": {"replicas": 1, "paused": True, **selected},
            "ReplicaSet": {"replicas": 1, **selected},
            "StatefulSet": {"replicas": 1, "serviceName": name, **selected},
            "DaemonSet": selected,
            "Job": {"manualSelector": True, "suspend": True, **selected},
        }
        job = {"spec": {"template": selected["template"]}}
        specs["CronJob"] = {"schedule": "0 0 30 2 *", "suspend": True, "jobTemplate": job}
        metadata: Object = {
            "name": name, "namespace": self.name, "labels": labels, "finalizers": [_FINALIZER],
        }  # fmt: skip
        below = {"Deployment": "ReplicaSet", "CronJob": "Job"}.get(owner)
        made = self._create_deleted(owner, metadata, specs[owner])
        if below:
            owned = {**metadata, "ownerReferences": [_reference(made)]}
            made = self._create_deleted(below, owned, specs[below])
        return made

    def _create_deleted(self, name: str, metadata: Object, spec: Object) -> Object:
        kind = KINDS[name]
        made = self.server.create(kind, {"metadata": metadata, "spec": spec})
        self.server.delete(kind, metadata["name"], self.name, propagationPolicy="Background")
        self._kept.append((kind, made))
        return made


def kind_of(call: Call) -> Kind:
    """Return the kind of the object that a call changes."""
    resource = call.resource.partition("/")[0]
    for kind in KINDS.values():
        if (kind.api_version, kind.resource) == (call.api_version, resource):
            return kind
    namespaced = call.namespace is not None
    return Kind(call.api_version, resource, str(call.body.get("kind", resource)), namespaced)


def content(item: Object) -> Object:
    """Return an object without its status, and without what servers and controllers note."""
    metadata = {k: v for k, v in item["metadata"].items() if k not in _SERVER_FIELDS}
    annotations = {
        key: value
        for key, value in (metadata.pop("annotations", None) or {}).items()
        if not key.startswith(_CONTROLLER_NOTES)
    }
    if annotations:
        metadata["annotations"] = annotations
    kept = {key: value for key, value in item.items() if key not in ("metadata", "status")}
    if (
        item.get("kind") == NODE.kind
    ):  # a controller mirrors conditions and spec.unschedulable as taints
        taints = (item.get("spec") or {}).get("taints") or []
        own = [one for one in taints if not one["key"].startswith("node.kubernetes.io/")]
        kept["spec"] = {**(item.get("spec") or {}), "taints": own}
    return {**kept, "metadata": metadata}


def _reference(item: Object) -> dict[str, Any]:
    metadata = item["metadata"]
    return {
        "apiVersion": item["apiVersion"], "kind": item["kind"], "name": metadata["name"],
        "uid": metadata["uid"], "controller": True,
    }  # fmt: skip
