"""The live cluster: reads and writes objects through the API server."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

import structlog

from engine.cluster.api import FIELD_MANAGER, NAMESPACE, NODE, AlreadyExistsError
from engine.cluster.circuit_breaker import CircuitBreaker
from engine.cluster.kind_names import find_kind
from engine.cluster.kubeconfig import Credentials, read_access
from engine.cluster.label_selectors import as_object
from engine.cluster.rate_limiter import RateLimiter
from engine.cluster.requests import (
    MAX_RATE_WAIT,
    ApiServerState,
    Cached,
    CacheKey,
    Reply,
    has_cause,
    is_about_object,
    message_of,
    path_of,
)
from engine.cluster.stream_calls import StreamCalls
from engine.cluster.transport import ApiServer
from engine.model.errors import GoneError, PermanentError, TemporaryError
from engine.outbound.destination import mask_userinfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.cluster.kubeconfig import ApiServerAccess
    from engine.model.calls import Call, Kind, Object

log = structlog.get_logger()
PAGE_SIZE = 500
MAX_LIST_OBJECTS = 20_000
"""Objects of a list over all pages; Kubernetes is tested with up to 3,000 pods in a namespace."""
MAX_LIST_BYTES = 256 << 20
"""Bytes of a list over all pages; 8,000 pods of 30 KiB."""
QPS = 100.0
"""The default limit on calls a second. The default of client-go is 5; controllers use 20 to 100."""
CACHE_SECONDS = 10.0
"""Seconds that a Namespace or Node is cached. Every step reads those of its target, and they rarely change."""
MAX_CACHED = 10_000
"""Namespaces and Nodes in the cache."""
_METHODS = {"create": "POST", "apply": "PATCH", "patch": "PATCH", "delete": "DELETE"}
_CONTENT_TYPES = {
    "apply": "application/apply-patch+yaml",
    "patch": "application/merge-patch+json",
}


def connect(
    kubeconfig: str | None, context: str | None, qps: float = QPS, connections: int = 1
) -> KubernetesCluster:
    """Return the cluster of a kubeconfig's context; with neither, the cluster in which this pod runs.

    qps: the limit on calls a second. connections: how many are kept open. Raises ConnectionSettingsError.
    """

    def read() -> ApiServerAccess:
        access = read_access(kubeconfig, context)
        # connections over this number are closed after their call, which costs a TLS handshake each
        access.settings.connection_pool_maxsize = connections
        return access

    credentials = Credentials(read)
    if not credentials.current().settings.verify_ssl:
        import urllib3  # noqa: PLC0415 - loaded with the client

        log.warning("api_server_certificate_not_verified", reason="insecure-skip-tls-verify")
        # urllib3 would warn for each connection
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    state = ApiServerState(CircuitBreaker(time.monotonic), RateLimiter(qps), CACHE_SECONDS)
    return KubernetesCluster(ApiServer(credentials), state)


class KubernetesCluster(StreamCalls):
    """Reads and writes objects through the API server; see ``Cluster``."""

    @property
    def host(self) -> str:
        """The API server's URL without a password."""
        return mask_userinfo(self._server.host)

    @property
    def breaker(self) -> CircuitBreaker:
        """The circuit breaker of this API server."""
        return self._state.breaker

    def available_slots(self, running: int) -> int:
        """Return how many attempts may start in addition to ``running`` ones.

        More attempts than the rate limiter allows would wait for each other at every call until they time out.
        While the circuit breaker is open, only a probe may start.
        """
        free = max(0, self._state.rate_limiter.max_concurrent - running)
        probes = self._state.breaker.available_slots()
        return free if probes is None else min(free, probes)

    def set_rate(self, qps: float) -> None:
        """Change the limit on calls a second, for all copies of this cluster."""
        self._state.rate_limiter.set_full_rate(qps)

    def with_timeout(self, seconds: float) -> KubernetesCluster:
        """Return the same cluster with a deadline for all its calls together, ``seconds`` from now."""
        return self._changed(_deadline=time.monotonic() + seconds, _rate_wait=MAX_RATE_WAIT)

    def with_check(self, check: Callable[[], None]) -> KubernetesCluster:
        """Return the same cluster with a check before each call, after the wait for the rate limiter.

        check: raises TemporaryError to prevent the call.
        """
        return self._changed(_check=check)

    def with_dry_run(self) -> KubernetesCluster:
        """Return the same cluster with ``dryRun=All``: the server checks writes, but changes nothing."""
        return self._changed(_dry_run=True)

    def impersonate(self, user: str) -> KubernetesCluster:
        """Return the same cluster for another user: all calls have the rights of this user only.

        The engine needs the right to impersonate the user. user: ``system:serviceaccount:NAMESPACE:NAME``.
        """
        self._state.users.add(user)
        return self._changed(_server=self._server.impersonate(user), _user=user)

    def _changed(self, **attributes: object) -> KubernetesCluster:
        changed = copy.copy(self)
        for name, value in attributes.items():
            setattr(changed, name, value)
        return changed

    def get(
        self, kind: Kind, name: str, namespace: str | None = None, *, fresh: bool = False
    ) -> Object | None:
        """Return an object, or None if it does not exist; see ``ClusterReader.get``."""
        if kind not in (NAMESPACE, NODE) or not self._state.cache_seconds:
            return self._get(kind, name, namespace)
        cache, key = self._state.cache, (self._user, kind.resource, name)
        now = time.monotonic()
        cached = cache.get(key)
        if cached is not None and now < cached.until and not fresh:
            return cached.object
        found = self._get(kind, name, namespace)
        # a missing Node is normal: by default, Falco's hostname is the name of its own pod
        worth_caching = found is not None or kind == NODE
        if worth_caching and cache.get(key) is cached:  # else it was written during the read
            self._store(key, Cached(now + self._state.cache_seconds, found))
        return found

    def _forget(self, resource: str, name: str) -> None:
        """Let the next read ask the API server. An expired entry also stops a read that is in progress."""
        for user in tuple(self._state.users):
            self._store((user, resource, name), Cached(0.0, None))

    def _store(self, key: CacheKey, entry: Cached) -> None:
        cache = self._state.cache
        if len(cache) >= MAX_CACHED:
            cache.clear()
        cache[key] = entry

    def _get(self, kind: Kind, name: str, namespace: str | None) -> Object | None:
        reply = self._request("GET", path_of(kind.api_version, kind.resource, namespace, name))
        if reply.status == 404 and is_about_object(reply.body):  # noqa: PLR2004 - HTTP
            return None
        about = f"{kind.resource}/{name}"
        if reply.status == 404:  # noqa: PLR2004 - HTTP
            missing = f"{kind.resource} of {kind.api_version}"
            raise PermanentError(f"{about}: the API server does not serve {missing}")
        self._raise_for_status("get", kind.resource, about, reply)
        return _object_in(reply, about, name)

    def find_kind(self, word: str, group: str) -> Kind | None:
        """Return a kind by its plural, singular or short name, from discovery; None if it is not served.

        Raises TemporaryError, PermanentError.
        """

        def read(path: str) -> Object | None:
            reply = self._request("GET", path)
            if reply.status == 404:  # noqa: PLR2004 - HTTP
                return None
            self._raise_for_status("get", path, path, reply)
            return reply.body

        return find_kind(word, group, read)

    def serves(self, kind: Kind) -> bool:
        """Return whether the API server serves a kind, from its discovery; see ``ClusterReader.serves``."""
        cache, key, now = self._state.cache, (None, "discovery", kind.api_version), time.monotonic()
        cached = cache.get(key)
        if cached is None or now >= cached.until:
            reply = self._request("GET", path_of(kind.api_version, "", None, None).rstrip("/"))
            if reply.status != 404:  # noqa: PLR2004 - HTTP
                self._raise_for_status("get", kind.api_version, kind.api_version, reply)
            cached = Cached(now + self._state.cache_seconds, reply.body)
            self._store(key, cached)
        resources = (cached.object or {}).get("resources") or []
        return any(one.get("name") == kind.resource for one in resources)

    def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        node: str | None = None,
        address: str | None = None,
    ) -> list[Object]:
        """Return the objects of a kind, read page by page; see ``ClusterReader.list``.

        Raises PermanentError for more than ``MAX_LIST_OBJECTS`` objects or ``MAX_LIST_BYTES`` bytes.
        """
        items: list[Object] = []
        size = pages = 0
        query: list[tuple[str, str]] = [("limit", str(PAGE_SIZE))]
        if node is not None:
            query.append(("fieldSelector", f"spec.nodeName={node}"))
        if address is not None:
            query.append(("fieldSelector", f"status.podIP={address}"))
        path = path_of(kind.api_version, kind.resource, namespace, None)
        token = ""
        while True:
            more = [("continue", token)] if token else []
            reply = self._request("GET", path, [*query, *more])
            self._raise_for_status("list", kind.resource, kind.resource, reply)
            items += _items_in(reply, kind.resource)
            size += reply.size
            pages += 1
            if len(items) + pages > MAX_LIST_OBJECTS:  # a page can be empty
                limit = f"{MAX_LIST_OBJECTS:,} objects"
                raise PermanentError(f"{kind.resource}: the list has more than {limit}")
            if size > MAX_LIST_BYTES:
                limit = f"{MAX_LIST_BYTES >> 20} MiB"
                raise PermanentError(f"{kind.resource}: the list is larger than {limit}")
            token = as_object(reply.body.get("metadata")).get("continue") or ""
            if not token:
                return items

    def send(self, call: Call) -> Object:
        """Send one write; see ``Cluster.send``."""
        about = f"{call.resource}/{call.name}"
        is_new = call.verb == "create" and "/" not in call.resource
        name = None if is_new else call.name
        path = path_of(call.api_version, call.resource, call.namespace, name)
        query, body = [], call.body
        if call.verb != "delete":
            query.append(("fieldManager", FIELD_MANAGER))
        if self._dry_run and call.verb == "delete":
            # the API server ignores the query of a DELETE that has its options in the body
            body = {**body, "dryRun": ["All"]}
        elif self._dry_run:
            query.append(("dryRun", "All"))
        if call.verb == "apply":
            query.append(("force", "false"))
        content_type = _CONTENT_TYPES.get(call.verb, "application/json")
        reply = self._request(_METHODS[call.verb], path, query, body, content_type)
        if call.resource in (NAMESPACE.resource, NODE.resource):
            self._forget(call.resource, call.name)  # an undo must read what the step wrote
        self._raise_for_write(call, reply)
        # a Status answers a delete and an eviction, and a review has no name
        if reply.body.get("kind") == "Status" or not call.name:
            return reply.body
        return _object_in(reply, about, call.name)

    def _raise_for_write(self, call: Call, reply: Reply) -> None:
        """Raise the error that the response to a write means, if any."""
        about = f"{call.resource}/{call.name}"
        if reply.status == 404:  # noqa: PLR2004 - HTTP
            raise GoneError(f"{about} is gone")
        if reply.status == 409:  # noqa: PLR2004 - HTTP
            if has_cause(reply.body, "reason", "FieldManagerConflict"):
                raise PermanentError(f"{about}: {message_of(reply.body)}")
            if _means_replaced(call, reply.body):
                raise GoneError(f"{about} was replaced by another object of the same name")
            if call.verb == "create":
                raise AlreadyExistsError(f"{about} already exists")
            raise TemporaryError(f"{about} was changed at the same time", answered=True)
        is_uid_rejected = has_cause(reply.body, "field", "metadata.uid")
        if reply.status == 422 and call.verb == "patch" and is_uid_rejected:  # noqa: PLR2004 - HTTP
            raise GoneError(f"{about} was replaced by another object of the same name")
        self._raise_for_status(call.verb, call.resource, about, reply)


def _object_in(reply: Reply, about: str, name: str) -> Object:
    """Return the object of a response. Raises TemporaryError for another answer, such as that of a proxy."""
    if as_object(reply.body.get("metadata")).get("name") != name:
        raise TemporaryError(
            f"{about}: {reply.status}, but the answer is not this object", answered=True
        )
    return reply.body


def _items_in(reply: Reply, about: str) -> list[Object]:
    """Return the objects of a list. Raises TemporaryError if the response is not a list of objects."""
    items = reply.body.get("items", reply)
    items = [] if items is None else items
    if not isinstance(items, list) or not all(
        "name" in as_object(as_object(one).get("metadata")) for one in items
    ):
        raise TemporaryError(
            f"{about}: {reply.status}, but the answer is not a list of objects", answered=True
        )
    return items


def _means_replaced(call: Call, body: Object) -> bool:
    """Return whether a 409 means that the object has another uid than the call.

    For a patch of an object, the server rejects another uid with 422. For a patch of its ``scale`` it answers
    409 and names the precondition in the message only (pkg/registry/apps/deployment/storage).
    """
    if call.verb == "delete" or call.resource.endswith("/eviction"):
        return True
    has_uid = "uid" in (call.body.get("metadata") or {})
    if call.verb == "patch" and call.resource.endswith("/scale"):
        return has_uid and "UID in precondition" in message_of(body)
    return call.verb == "apply" and has_uid
