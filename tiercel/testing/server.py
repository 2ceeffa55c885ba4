"""The API server of the contract suite: clients that have any set of rights and record what they use."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import urllib3
from engine.actions.rbac import roles
from engine.cluster.api import AlreadyExistsError
from engine.cluster.circuit_breaker import CircuitBreaker
from engine.cluster.client import KubernetesCluster
from engine.cluster.kinds import KINDS
from engine.cluster.kubeconfig import Credentials, read_access
from engine.cluster.rate_limiter import RateLimiter
from engine.cluster.requests import ApiServerState
from engine.cluster.transport import ApiServer, OpenStream
from engine.model.calls import Call
from engine.model.errors import GoneError

from tiercel.testing import pod_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.actions.registry import Right
    from engine.cluster.transport import Response
    from engine.model.calls import Kind, Object

_Reply = TypeVar("_Reply")
USER = "tiercel-contract"
_RBAC = "rbac.authorization.k8s.io"
_REVIEW = "authorization.k8s.io/v1"
_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}
_PATH = re.compile(
    r"/api(?:s/(?P<group>[^/]+))?/[^/]+(?:/namespaces/[^/]+(?=/))?"
    r"/(?P<resource>[^/?]+)(?:/(?P<name>[^/?]+))?(?:/(?P<subresource>[^/?]+))?(?:\?.*)?"
)
_PATIENCE = 60.0
"""Seconds until a role must be in force. It usually takes some milliseconds."""


class KilledError(BaseException):
    """The process ended at this request. It is not an Exception, so no code of the engine handles it."""


@dataclass
class Traffic:
    """What a client sends.

    rights: that were used. writes: the requests that can change something. kill_after: the process ends after
    so many writes; with 0, before the first one. before_write: called once, before the first write.
    """

    rights: set[Right] = field(default_factory=set)
    writes: int = 0
    kill_after: int | None = None
    before_write: Callable[[], None] | None = None


class _Client(ApiServer):
    """A connection to the API server as a user with some groups. It records the requests."""

    traffic: Traffic
    _user: str
    _groups: tuple[str, ...]
    _shared: Callable[..., Any]

    def request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        content: tuple[bytes, str] | None,
        seconds: float,
    ) -> Response:
        """Send one request, and record it."""
        self.traffic.rights |= used_rights(method, path, content)
        is_write = method != "GET" and not _is_dry(query, content)
        return self._record(
            is_write, lambda: super(_Client, self).request(method, path, query, content, seconds)
        )

    def open_stream(
        self, path: str, query: Sequence[tuple[str, str]], seconds: float, *, websocket: bool
    ) -> OpenStream:
        """Open a log or a command, and record it. The API server requires two rights for a command."""
        self.traffic.rights |= used_rights("GET", path, None)
        if websocket:
            self.traffic.rights |= used_rights("POST", path, None)
        return self._record(
            websocket,
            lambda: super(_Client, self).open_stream(path, query, seconds, websocket=websocket),
        )

    def _record(self, is_write: bool, send: Callable[[], _Reply]) -> _Reply:  # noqa: FBT001 - of two callers
        """Send a request. A write is counted, and can be the last one of the process."""
        traffic = self.traffic
        if is_write and traffic.before_write:
            before, traffic.before_write = traffic.before_write, None
            before()
        if is_write and traffic.kill_after == 0:
            raise KilledError
        reply = send()
        if is_write:
            traffic.writes += 1
            if traffic.writes == traffic.kill_after:
                if isinstance(reply, OpenStream):
                    reply.close()
                raise KilledError
        return reply

    def as_user(self, user: str, groups: Sequence[str], traffic: Traffic) -> _Client:
        """Return a client that impersonates a user with these groups. It shares the connections."""
        client = copy.copy(self)
        client._user, client._groups = user, tuple(groups)  # noqa: SLF001
        client.traffic, client._shared = traffic, self._open  # noqa: SLF001
        client._open = client._open_as_groups  # noqa: SLF001 - a copy of itself
        return client

    def _open_as_groups(self, *request: Any, headers: Mapping[str, str], **options: Any) -> Any:
        return self._shared(*request, headers=self._impersonate(headers), **options)

    def _open_stream(self, url: str, deadline: float, *, websocket: bool) -> OpenStream:
        client = copy.copy(self)
        client._headers = self._impersonate(self._headers)  # type: ignore[assignment]  # noqa: SLF001
        return ApiServer._open_stream(client, url, deadline, websocket=websocket)  # noqa: SLF001

    def _impersonate(self, headers: Mapping[str, str]) -> urllib3.HTTPHeaderDict:
        many = urllib3.HTTPHeaderDict(headers)
        many["Impersonate-User"] = self._user
        for group in self._groups:
            many.add("Impersonate-Group", group)
        return many


class ContractServer:
    """An API server that only tests use, with the rights of an administrator.

    Every right has a ClusterRole that is bound to a group. A client with some rights impersonates their groups,
    so that a test with another set of rights needs no other roles.
    """

    def __init__(self, kubeconfig: str, context: str | None = None) -> None:
        credentials = Credentials(lambda: read_access(kubeconfig, context))
        self.admin = KubernetesCluster(ApiServer(credentials), _state())
        self._client = _Client(credentials)
        self._groups: dict[Right, str] = {}

    def cluster(self, rights: Iterable[Right], traffic: Traffic) -> KubernetesCluster:
        """Return the cluster for a user who has exactly these rights."""
        groups = [self._group(right) for right in sorted(set(rights))]
        return self._as_user(USER, groups, traffic)

    def reserve_pods(self, namespace: str) -> None:
        """Wait until the controllers of Kubernetes do not change the pods of a namespace (see pod_policy)."""
        pod_policy.install(self)
        controllers = self._as_user(pod_policy.CONTROLLER_MANAGER, ["system:masters"], Traffic())
        pod_policy.wait_until_in_force(controllers, namespace)

    def close(self) -> None:
        """Delete the roles and the policy."""
        pod_policy.remove(self)
        for name in self._groups.values():
            for kind in ("ClusterRoleBinding", "ClusterRole"):
                self.delete(KINDS[kind], name)

    def create(self, kind: Kind, item: Object) -> Object:
        """Create an object as the administrator. Return it."""
        metadata = item["metadata"]
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **item}
        namespace = metadata.get("namespace")
        call = Call("create", kind.api_version, kind.resource, namespace, metadata["name"], body)
        return self.admin.send(call)

    def ensure(self, kind: Kind, item: Object) -> None:
        """Create an object as the administrator, unless a suite that was interrupted left it."""
        with contextlib.suppress(AlreadyExistsError):
            self.create(kind, item)

    def patch(self, kind: Kind, item: Object, body: Object, subresource: str = "") -> Object:
        """Send a merge patch for an object as the administrator. Return the object."""
        metadata = item["metadata"]
        resource, namespace = kind.resource + subresource, metadata.get("namespace")
        call = Call("patch", kind.api_version, resource, namespace, metadata["name"], body)
        return self.admin.send(call)

    def delete(self, kind: Kind, name: str, namespace: str | None = None, **options: Any) -> None:
        """Delete an object as the administrator, if it exists."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        with contextlib.suppress(GoneError):
            self.admin.send(Call("delete", kind.api_version, kind.resource, namespace, name, body))

    def _as_user(self, user: str, groups: Sequence[str], traffic: Traffic) -> KubernetesCluster:
        return KubernetesCluster(self._client.as_user(user, groups, traffic), _state())

    def _group(self, right: Right) -> str:
        """Return the group that has one right. Create its role at first use, and wait until it is in force."""
        if right in self._groups:
            return self._groups[right]
        name = f"{USER}-{hashlib.sha256(repr(right).encode()).hexdigest()[:16]}"
        (role,) = roles(frozenset({right}), name, namespaced=False)
        reference = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name}
        subject = {"apiGroup": _RBAC, "kind": "Group", "name": name}
        binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
        self.ensure(KINDS["ClusterRole"], role)
        self.ensure(KINDS["ClusterRoleBinding"], binding)
        self._wait_for(right, name)
        self._groups[right] = name
        return name

    def _wait_for(self, right: Right, group: str) -> None:
        """Wait until the authorizer has read a role through its watch."""
        verb, qualified = right
        resource, _, api_group = qualified.partition(".")
        plural, _, subresource = resource.partition("/")
        attributes = {
            "verb": verb, "resource": plural, "subresource": subresource, "group": api_group,
        }  # fmt: skip
        spec = {"user": USER, "groups": [group], "resourceAttributes": attributes}
        body = {"apiVersion": _REVIEW, "kind": "SubjectAccessReview", "metadata": {}, "spec": spec}
        call = Call("create", _REVIEW, "subjectaccessreviews", None, "", body)
        deadline, pause = time.monotonic() + _PATIENCE, threading.Event()
        while not self.admin.send(call)["status"]["allowed"]:
            if time.monotonic() > deadline:
                raise AssertionError(f"the right {verb} on {qualified} is not in force")
            pause.wait(0.01)


def used_rights(method: str, path: str, content: tuple[bytes, str] | None) -> set[Right]:
    """Return the rights that the API server requires for a request. An apply can create the object."""
    parts = _PATH.fullmatch(path)
    if parts is None:
        raise AssertionError(f"not a path of an object: {path}")
    resource = parts["resource"] + (f"/{parts['subresource']}" if parts["subresource"] else "")
    qualified = f"{resource}.{parts['group']}" if parts["group"] else resource
    if method == "GET":
        return {("get" if parts["name"] else "list", qualified)}
    is_apply = content is not None and content[1].startswith("application/apply-patch")
    return {(_VERBS[method], qualified), *([("create", qualified)] if is_apply else [])}


def _is_dry(query: Sequence[tuple[str, str]], content: tuple[bytes, str] | None) -> bool:
    return ("dryRun", "All") in query or (content is not None and b'"dryRun":["All"]' in content[0])


def _state() -> ApiServerState:
    return ApiServerState(CircuitBreaker(time.monotonic), RateLimiter(1e6))
