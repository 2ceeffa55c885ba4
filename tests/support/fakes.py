"""An API server in memory behind the real client, an HTTP client, and an attempt store.

``KubernetesCluster(ApiServer())`` sends HTTP methods and paths and reads statuses. So the tests also cover
how the client handles a 404, 409 or 422.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.cluster import transport
from engine.cluster.circuit_breaker import CircuitBreaker
from engine.cluster.client import KubernetesCluster
from engine.cluster.rate_limiter import RateLimiter
from engine.cluster.requests import ApiServerState
from engine.cluster.streams import Stream
from engine.outbound.api import Answer
from tiercel.testing.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.model.run import Claim, Notice

Key = tuple[str, str | None, str]
"""resource (with its API group), namespace, name"""

KINDS = {
    "Pod": ("v1", "pods"),
    "Node": ("v1", "nodes"),
    "Namespace": ("v1", "namespaces"),
    "Event": ("v1", "events"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "ReplicaSet": ("apps/v1", "replicasets"),
    "Deployment": ("apps/v1", "deployments"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "DaemonSet": ("apps/v1", "daemonsets"),
    "Job": ("batch/v1", "jobs"),
    "CronJob": ("batch/v1", "cronjobs"),
    "ConfigMap": ("v1", "configmaps"),
    "Service": ("v1", "services"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
    "ClusterRoleBinding": ("rbac.authorization.k8s.io/v1", "clusterrolebindings"),
}
CUSTOM = {
    ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2"): "clusternetworkpolicies",
    ("CiliumNetworkPolicy", "cilium.io/v2"): "ciliumnetworkpolicies",
    ("NetworkPolicy", "projectcalico.org/v3"): "networkpolicies",
    ("GlobalNetworkPolicy", "projectcalico.org/v3"): "globalnetworkpolicies",
    ("NetworkPolicy", "crd.projectcalico.org/v1"): "networkpolicies",
    ("GlobalNetworkPolicy", "crd.projectcalico.org/v1"): "globalnetworkpolicies",
}
"""Kinds that a server may serve: kind and apiVersion -> resource."""
_CLUSTER_WIDE = (
    "nodes",
    "namespaces",
    "clusternetworkpolicies",
    "globalnetworkpolicies",
    "clusterrolebindings",
)
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_PATH = re.compile(r"/(api/v1|apis/[a-z0-9.]+/v[a-z0-9]+)(/[A-Za-z0-9.-]+)+")
_DISCOVERY = re.compile(r"/apis/([a-z0-9.]+/v[a-z0-9]+)")


def qualified(resource: str, api_version: str) -> str:
    """The resource as RBAC and ``needs`` write it: ``networkpolicies.networking.k8s.io``."""
    group = api_version.rpartition("/")[0]
    return f"{resource}.{group}" if group else resource


def key_of(item: dict[str, Any]) -> Key:
    api_version, resource = _kind(item)
    metadata = item["metadata"]
    where = None if resource in _CLUSTER_WIDE else metadata.get("namespace", "default")
    return qualified(resource, api_version), where, metadata["name"]


def _kind(item: dict[str, Any]) -> tuple[str, str]:
    """Return apiVersion and resource of an object."""
    custom = CUSTOM.get((item["kind"], item.get("apiVersion", "")))
    return (item["apiVersion"], custom) if custom else KINDS[item["kind"]]


class Failed(Exception):  # noqa: N818 - an answer, not a fault
    """A response other than success."""

    def __init__(self, status: int, reason: str, *causes: dict[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.causes = list(causes)


class NotServed(Exception):  # noqa: N818 - an answer, not a fault
    """The server does not serve this kind."""


class ApiServer:
    """The objects of a cluster, with the API server's rules to create, patch, apply and delete them.

    asked: rights that were used, also for reads. wrote: keys of objects that were created or changed.
    served: apiVersions of CUSTOM kinds that exist. streams: path and query of the commands and logs.
    refused: validation errors. interfere: called once, before
    the next write. answers: status, headers and (optional) details of the responses to the next writes, which
    have no effect. body: of the responses to ``body_methods``, with status 200, as a broken proxy answers; None
    for the server's own.
    """

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects: dict[Key, dict[str, Any]] = {}
        self.asked: set[tuple[str, str]] = set()
        self.wrote: list[Key] = []
        self.streams: list[tuple[str, list[tuple[str, str]]]] = []
        self.refused: list[str] = []
        self.interfere: Any = None
        self.answers: list[tuple[Any, ...]] = []
        self.body: bytes | None = None
        self.body_methods = {"GET", "POST", "PATCH", "DELETE"}
        self.host = "https://fake"
        self.served: set[str] = set()
        self._owners: dict[Key, dict[tuple[str, ...], str]] = {}
        self._version = 0
        for item in objects:
            self.put(item)

    @property
    def cluster(self) -> KubernetesCluster:
        return self.connect()

    def connect(self, cache_seconds: float = 0.0) -> KubernetesCluster:
        """Return a client. cache_seconds: for which it caches Namespaces and Nodes."""
        breaker, rate = CircuitBreaker(lambda: 0.0), RateLimiter(1e9)
        return KubernetesCluster(self, ApiServerState(breaker, rate, cache_seconds))

    def put(self, item: dict[str, Any]) -> dict[str, Any]:
        """Create or replace an object, as a user with kubectl does."""
        stored = copy.deepcopy(item)
        key = key_of(stored)
        stored.setdefault("apiVersion", _kind(stored)[0])
        stored["metadata"].setdefault("uid", str(uuid.uuid5(uuid.NAMESPACE_URL, repr(key))))
        self.objects[key] = stored
        self._owners[key] = dict.fromkeys(_leaves(stored), "kubectl")
        return stored

    def state(self) -> dict[Key, dict[str, Any]]:
        """Return a copy of all objects, without resource versions."""
        found = copy.deepcopy(self.objects)
        for item in found.values():
            item["metadata"].pop("resourceVersion", None)
            for part in ("labels", "annotations"):
                if not item["metadata"].get(part, True):  # the server omits empty maps
                    del item["metadata"][part]
        return found

    def find(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        api_version, resource = KINDS[kind]
        return self.objects.get((qualified(resource, api_version), namespace, name))

    def let_go(self) -> None:
        """Remove the pods that are terminating, as the kubelets do."""
        for key in [k for k, v in self.objects.items() if v["metadata"].get("deletionTimestamp")]:
            del self.objects[key]

    # The interface of engine.cluster.transport.

    def request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        sent: tuple[bytes, str] | None,
        left: float,
    ) -> transport.Response:
        assert left > 0
        if self.body is not None and method in self.body_methods:
            return transport.Response(200, {}, self.body)
        if discovery := _DISCOVERY.fullmatch(path):
            version = discovery[1]
            names = [{"name": r} for (_, api), r in CUSTOM.items() if api == version]
            body = {"resources": names}
            return response(200, body) if version in self.served else response(404, {})
        if self.answers and method != "GET":
            status, headers, *details = self.answers.pop(0)
            body = {"message": "set by the test", **({"details": details[0]} if details else {})}
            return response(status, body, headers)
        assert _PATH.fullmatch(path), f"a path that no object has: {path!r}"
        content = sent[1] if sent else None
        body = json.loads(sent[0]) if sent else None
        try:
            return response(200, self._answer(method, path, dict(query), content, body))
        except NotServed:
            return response(404, {"message": "the server could not find the requested resource"})
        except Failed as failed:
            details = {"name": path.rpartition("/")[2], "causes": failed.causes}
            return response(failed.status, {"message": str(failed), "details": details})

    def open_stream(
        self, path: str, query: Sequence[tuple[str, str]], left: float, *, websocket: bool
    ) -> transport.OpenStream:
        """Answer a command with one line and the exit code 0, and a log with one line."""
        assert left > 0
        if self.answers:
            status, headers = self.answers.pop(0)
            return transport.OpenStream(Stream(status, headers, iter([])), lambda: None)
        resource, namespace, name = _where(path)
        verbs = ("get", "create") if websocket else ("get",)
        self.asked |= {(verb, resource) for verb in verbs}
        if ("pods", namespace, name) not in self.objects:
            body = json.dumps({"details": {"name": name}}).encode()
            return transport.OpenStream(Stream(404, {}, iter([(1, body)])), lambda: None)
        if websocket and self.interfere:
            interfere, self.interfere = self.interfere, None
            interfere()
        self.streams.append((path, list(query)))
        end = [(3, b'{"status": "Success"}')] if websocket else []
        pieces = iter([(1, b"a line\n"), *end])
        status = 101 if websocket else 200
        return transport.OpenStream(Stream(status, {}, pieces), lambda: None)

    def _answer(
        self, method: str, path: str, query: dict[str, str], content: str | None, body: Any
    ) -> dict[str, Any]:
        version = "/".join(path.split("/")[2:4])
        if version in {api for _, api in CUSTOM} - self.served:
            raise NotServed
        resource, namespace, name = _where(path)
        key = (_parent(resource), namespace, name or "")
        if method == "GET":
            self.asked.add(("get" if name else "list", resource))
            if "/scale" in resource:
                return _scale(self._get(key))
            return self._get(key) if name else self._list(resource, namespace, query)
        if self.interfere:
            interfere, self.interfere = self.interfere, None
            interfere()
        # the server ignores the query of a DELETE with options in its body
        in_body = method == "DELETE" and body
        dry = "All" in (body.get("dryRun", []) if in_body else [query.get("dryRun")])
        before = copy.deepcopy((self.objects, self._owners, self._version))
        answer = self._write(method, resource, key, content, body)
        if dry:
            self.objects, self._owners, self._version = before
        else:
            self.wrote.append(answer[0])
        return answer[1]

    def _write(
        self, method: str, resource: str, key: Key, content: str | None, body: Any
    ) -> tuple[Key, dict[str, Any]]:
        namespace = key[1]
        if method == "POST":
            self.asked.add(("create", resource))
            if resource == "pods/eviction":
                return key, self._delete(key, body["deleteOptions"])
            key = (resource, namespace, body["metadata"]["name"])
            return key, self._create(key, body)
        if method == "DELETE":
            self.asked.add(("delete", resource))
            return key, self._delete(key, body or {})
        self.asked.add(("patch", resource))
        if content == "application/apply-patch+yaml":
            self.asked.add(
                ("create", resource)
            )  # an apply can create the object, so it needs both rights
            return key, self._apply(key, body)
        assert content == "application/merge-patch+json"
        if resource == "pods/ephemeralcontainers":
            return key, self._add_ephemeral_containers(key, body)
        if "/scale" in resource:
            self._check_scale(key, body)
        return key, self._patch(key, body)

    def _add_ephemeral_containers(self, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        """Add the containers, which end at once."""
        patched = self._patch(key, body)
        ended = {"terminated": {"exitCode": 0}}
        self.objects[key].setdefault("status", {})["ephemeralContainerStatuses"] = [
            {"name": one["name"], "state": ended} for one in patched["spec"]["ephemeralContainers"]
        ]
        return patched

    def _check_scale(self, key: Key, body: dict[str, Any]) -> None:
        """Fail for another uid, as the API server does for a ``scale``."""
        wanted, uid = body["metadata"].get("uid"), self._get(key)["metadata"]["uid"]
        if wanted not in (None, uid):
            told = f"UID in precondition: {wanted}, UID in object meta: {uid}"
            raise Failed(409, f"Precondition failed: {told}")

    def _get(self, key: Key) -> dict[str, Any]:
        if key not in self.objects:
            raise Failed(404, f"{key[0]} {key[2]!r} not found")
        return copy.deepcopy(self.objects[key])

    def _list(self, resource: str, namespace: str | None, query: dict[str, str]) -> dict[str, Any]:
        field_, _, wanted = query.get("fieldSelector", "").rpartition("=")
        node, ip = (wanted if field_ == f else "" for f in ("spec.nodeName", "status.podIP"))
        items = [
            copy.deepcopy(item)
            for (kind, where, _), item in sorted(self.objects.items(), key=lambda o: str(o[0]))
            if kind == resource and namespace in (None, where)
            if not node or item.get("spec", {}).get("nodeName") == node
            if not ip or item.get("status", {}).get("podIP") == ip
        ]
        start, limit = int(query.get("continue", "0")), int(query["limit"])
        rest = {"continue": str(start + limit)} if len(items) > start + limit else {}
        return {"items": items[start : start + limit], "metadata": rest}

    def _create(self, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        if key in self.objects:
            raise Failed(409, f"{key[2]} already exists")
        return self._store(key, copy.deepcopy(body), dict.fromkeys(_leaves(body), "tiercel"))

    def _patch(self, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        found = self._get(key)
        patched = _merged(found, body)
        if patched["metadata"].get("uid") != found["metadata"].get("uid"):
            cause = {"field": "metadata.uid", "reason": "FieldValueInvalid"}
            raise Failed(422, "metadata.uid: field is immutable", cause)
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version not in (None, found["metadata"].get("resourceVersion")):
            raise Failed(409, "the object has been modified")
        assert patched["metadata"]["name"] == found["metadata"]["name"]
        owners = self._owners[key] | dict.fromkeys(_leaves(body), "tiercel")
        return self._store(key, patched, owners)

    def _apply(self, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        wanted, found = set(_leaves(body)), self.objects.get(key)
        if found is None:
            if body["metadata"].get("uid"):
                raise Failed(409, "uid mismatch: the object does not exist")
            return self._create(key, body)
        if body["metadata"].get("uid") not in (None, found["metadata"]["uid"]):
            raise Failed(409, "uid mismatch")
        version = body["metadata"].get("resourceVersion")
        if version not in (None, found["metadata"].get("resourceVersion")):
            raise Failed(409, "the object has been modified")
        owners = self._owners[key]
        for path in wanted:
            theirs = owners.get(path, "tiercel") != "tiercel" and path[0] in ("metadata", "spec")
            if theirs and path[1] != "name" and _at(found, path) != _at(body, path):
                cause = {"reason": "FieldManagerConflict", "field": ".".join(path)}
                raise Failed(409, f"conflict with {owners[path]}", cause)
        applied = copy.deepcopy(found)
        for path in [p for p, who in owners.items() if who == "tiercel" and p not in wanted]:
            _remove(applied, path)
        kept = {p: who for p, who in owners.items() if who != "tiercel"}
        body = {**body, "metadata": {**body["metadata"], "uid": found["metadata"]["uid"]}}
        return self._store(key, _merged(applied, body), kept | dict.fromkeys(wanted, "tiercel"))

    def _delete(self, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        found = self._get(key)
        for key_, wanted in (body.get("preconditions") or {}).items():
            if wanted != found["metadata"].get(key_):
                raise Failed(409, f"the {key_} in the precondition is another")
        if key[0] == "pods" and body.get("gracePeriodSeconds") != 0:
            self.objects[key]["metadata"]["deletionTimestamp"] = "2026-03-01T10:01:00Z"
            return self.objects[key]
        return self.objects.pop(key)

    def _store(
        self, key: Key, item: dict[str, Any], owners: dict[tuple[str, ...], str]
    ) -> dict[str, Any]:
        fault = _invalid(key, item)
        if fault:
            self.refused.append(fault)
            raise Failed(422, fault, {"field": "metadata", "reason": "FieldValueInvalid"})
        self._version += 1
        item["metadata"].setdefault("uid", str(uuid.uuid5(uuid.NAMESPACE_URL, repr(key))))
        item["metadata"]["resourceVersion"] = str(self._version)
        self.objects[key], self._owners[key] = item, owners
        return copy.deepcopy(item)


@dataclass
class FakeHttpClient:
    """Answers each request with 200, and records it."""

    sent: list[tuple[Any, ...]] = field(default_factory=list)

    def request(
        self, method: str, url: str, headers: dict[str, Any], body: Any, auth: Any = None
    ) -> Answer:
        self.sent.append((method, url, headers, body, *([auth] if auth else [])))
        return Answer(200, {"id": 7})

    def post_slack_message(self, message: dict[str, Any], webhook: Any, token: Any) -> Answer:
        self.sent.append((message, webhook, token))
        return Answer(200, {"ts": "1.2", "channel": "C1"})

    def send_notification(self, to: Any, title: str, body: str) -> Answer:
        self.sent.append((to, title, body))
        return Answer(None)


@dataclass
class FakeAttemptStore(MemoryStore):
    """An AttemptStore in memory. open: whether no other attempt has taken over. notices: that were kept."""

    open: bool = True
    notices: list[Notice] = field(default_factory=list)

    def keep(self, claim: Claim, attempt_state: Any, notice: Notice | None = None) -> bool:
        if notice and self.open:
            self.notices.append(notice)
        return self.open and super().keep(claim, attempt_state, notice)

    def add_undo_intent(self, claim: Claim, changes: Any, until: Any, attempt_state: Any) -> bool:
        return self.open and super().add_undo_intent(claim, changes, until, attempt_state)

    def let_go(self, claim: Claim) -> None:
        self.intents.pop(claim.undo, None)


def response(status: int, body: Any, headers: dict[str, str] | None = None) -> transport.Response:
    return transport.Response(status, headers or {}, json.dumps(body).encode())


def _where(path: str) -> tuple[str, str | None, str | None]:
    """Return the resource with its group, the namespace and the name in a path."""
    parts = path.strip("/").split("/")
    version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
    namespace = None
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource = "/".join([rest[0], *rest[2:]])
    return qualified(resource, version), namespace, rest[1] if len(rest) > 1 else None


def _scale(found: dict[str, Any]) -> dict[str, Any]:
    """Return the Scale of a workload. The API server omits 0 replicas."""
    replicas = found["spec"]["replicas"]
    spec = {"replicas": replicas} if replicas else {}
    return {"kind": "Scale", "metadata": found["metadata"], "spec": spec}


def _parent(resource: str) -> str:
    """Return the resource without its subresource: ``deployments.apps`` for ``deployments/scale.apps``."""
    parent, slash, rest = resource.partition("/")
    group = rest.partition(".")[2]
    return f"{parent}.{group}" if slash and group else parent


def _leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the paths of all fields. A list is one field, as in a NetworkPolicy for the API server."""
    if isinstance(value, dict) and value:
        return [leaf for k, v in value.items() for leaf in _leaves(v, (*path, k))]
    return [path]


def _at(item: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        item = item.get(part) if isinstance(item, dict) else None
    return item


def _remove(item: dict[str, Any], path: tuple[str, ...]) -> None:
    inner = _at(item, path[:-1])
    if isinstance(inner, dict):
        inner.pop(path[-1], None)


def _merged(item: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(item) if isinstance(item, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _invalid(key: Key, item: dict[str, Any]) -> str | None:
    """Return the API server's validation error for an object, or None."""
    metadata = item["metadata"]
    if not _NAME.fullmatch(metadata["name"]) or metadata["name"] != key[2]:
        return f"metadata.name: {metadata['name']!r}"
    if metadata.get("namespace") != key[1]:
        return f"metadata.namespace: {metadata.get('namespace')!r}"
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    for name, value in {**annotations, **labels}.items():
        prefix, slash, rest = name.rpartition("/")
        if not rest or not _LABEL.fullmatch(rest) or (slash and not _NAME.fullmatch(prefix)):
            return f"a key of labels or annotations: {name!r}"
        if not isinstance(value, str):
            return f"a value of labels or annotations: {value!r}"
    for value in labels.values():
        if not _LABEL.fullmatch(value):
            return f"metadata.labels: {value!r}"
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > 256 << 10:
        return "metadata.annotations: too long"
    if len(item.get("message", "")) > 1024:
        return "message: too long"
    is_policy = key[0] == "networkpolicies.networking.k8s.io"
    return _invalid_policy(item["spec"]) if is_policy else None


def _invalid_policy(spec: dict[str, Any]) -> str | None:
    if not spec["policyTypes"]:
        return "spec.policyTypes is empty: the server would make it Ingress"
    rules = [*spec.get("ingress", []), *spec.get("egress", [])]
    for peer in [p for rule in rules for p in [*rule.get("to", []), *rule.get("from", [])]]:
        if "ipBlock" in peer:
            ipaddress.ip_network(peer["ipBlock"]["cidr"])
        for value in (peer.get("namespaceSelector") or {}).get("matchLabels", {}).values():
            if not _LABEL.fullmatch(value):
                return f"spec: {value!r}"
    return None
