"""The live cluster: reads and writes through the API server.

The retries of the official client are off. The client would retry on its own and sleep for a Retry-After in a
worker's thread; waiting is the task of the journal.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from engine.cluster.api import FIELD_MANAGER, LOG, NAMESPACE, NODE, POD, AlreadyExistsError
from engine.cluster.circuit_breaker import CircuitBreaker
from engine.cluster.execution import Output
from engine.cluster.impersonation import missing_right
from engine.cluster.kind_names import find_kind
from engine.cluster.kubeconfig import Credentials, read_access
from engine.cluster.rate_limiter import RateLimiter
from engine.cluster.transport import ApiServer, NoResponseError, ResponseTooLongError
from engine.model.errors import (
    GoneError,
    MissingRightError,
    PermanentError,
    TemporaryError,
)
from engine.outbound.destination import mask_userinfo
from engine.outbound.masking import mask_secrets
from engine.outbound.retry_after import retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.cluster.kubeconfig import ApiServerAccess
    from engine.cluster.transport import OpenStream
    from engine.model.calls import Call, Kind, Object

log = structlog.get_logger()
PAGE_SIZE = 500
MAX_LIST_OBJECTS = 20_000
"""Objects of a list over all pages; Kubernetes is tested with up to 3,000 pods in a namespace."""
MAX_LIST_BYTES = 256 << 20
"""Bytes of a list over all pages; 8,000 pods of 30 KiB."""
QPS = 100.0
"""The default limit on calls a second. The default of client-go is 5; controllers use 20 to 100."""
OVERLOADED = (429, 503)
CACHE_SECONDS = 10.0
"""Seconds that a Namespace or Node is cached. Every step reads those of its target, and they rarely change."""
MAX_RATE_WAIT = 8.0
"""Seconds that an attempt may wait for the rate limiter in addition to its timeout.

A lease lasts longer than the timeout and this time together.
"""
DEFAULT_TIMEOUT = 30.0
"""Seconds for a call that does not belong to an attempt."""
MAX_CACHED = 10_000
"""Namespaces and Nodes in the cache."""
_MAX_ERROR = 64 << 10
"""Bytes that are read of the error response to a stream."""
_METHODS = {"create": "POST", "apply": "PATCH", "patch": "PATCH", "delete": "DELETE"}
_CONTENT_TYPES = {
    "apply": "application/apply-patch+yaml",
    "patch": "application/merge-patch+json",
}


@dataclass(frozen=True, slots=True)
class ApiServerState:
    """The state that all calls to one API server share.

    cache_seconds: how long a Namespace or Node that was read, or a Node that does not exist, is cached; pods
    are never cached. cache: by user, resource and name, because each user may read only what its rights allow.
    users: the users that calls impersonate, and None for the engine itself.
    """

    breaker: CircuitBreaker
    rate_limiter: RateLimiter
    cache_seconds: float = 0.0
    cache: dict[_CacheKey, _Cached] = field(default_factory=dict)
    users: set[str | None] = field(default_factory=lambda: {None})


_CacheKey = tuple[str | None, str, str]


class _Cached(NamedTuple):
    """An object in the cache. until: end of its validity on the monotonic clock."""

    until: float
    object: Object | None


class _Reply(NamedTuple):
    """A response of the API server. size: bytes of its body."""

    status: int
    headers: Mapping[str, str]
    body: Object
    size: int


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


class KubernetesCluster:
    """Reads and writes objects through the API server.

    dry_run: send writes with ``dryRun=All``. deadline: of all calls together, on the monotonic clock.
    user: the user that ``server`` impersonates, or None.
    """

    def __init__(
        self,
        server: ApiServer,
        state: ApiServerState,
        *,
        dry_run: bool = False,
        deadline: float | None = None,
        user: str | None = None,
    ) -> None:
        self._server = server
        self._state = state
        self._dry_run = dry_run
        self._deadline = deadline
        self._user = user
        self._rate_wait = MAX_RATE_WAIT

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

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """Return an object, or None if it does not exist; see ``ClusterReader.get``."""
        if kind not in (NAMESPACE, NODE) or not self._state.cache_seconds:
            return self._get(kind, name, namespace)
        cache, key = self._state.cache, (self._user, kind.resource, name)
        now = time.monotonic()
        cached = cache.get(key)
        if cached is not None and now < cached.until:
            return cached.object
        found = self._get(kind, name, namespace)
        # a missing Node is normal: by default, Falco's hostname is the name of its own pod
        worth_caching = found is not None or kind == NODE
        if worth_caching and cache.get(key) is cached:  # else it was written during the read
            self._store(key, _Cached(now + self._state.cache_seconds, found))
        return found

    def _forget(self, resource: str, name: str) -> None:
        """Let the next read ask the API server. An expired entry also stops a read that is in progress."""
        for user in tuple(self._state.users):
            self._store((user, resource, name), _Cached(0.0, None))

    def _store(self, key: _CacheKey, entry: _Cached) -> None:
        cache = self._state.cache
        if len(cache) >= MAX_CACHED:
            cache.clear()
        cache[key] = entry

    def _get(self, kind: Kind, name: str, namespace: str | None) -> Object | None:
        reply = self._request("GET", _path(kind.api_version, kind.resource, namespace, name))
        if reply.status == 404 and _is_about_object(reply.body):  # noqa: PLR2004 - HTTP
            return None
        about = f"{kind.resource}/{name}"
        if reply.status == 404:  # noqa: PLR2004 - HTTP
            missing = f"{kind.resource} of {kind.api_version}"
            raise PermanentError(f"{about}: the API server does not serve {missing}")
        self._raise_for_status("get", kind.resource, about, reply)
        return reply.body

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
            reply = self._request("GET", _path(kind.api_version, "", None, None).rstrip("/"))
            if reply.status != 404:  # noqa: PLR2004 - HTTP
                self._raise_for_status("get", kind.api_version, kind.api_version, reply)
            cached = _Cached(now + self._state.cache_seconds, reply.body)
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
        size = 0
        query: list[tuple[str, str]] = [("limit", str(PAGE_SIZE))]
        if node is not None:
            query.append(("fieldSelector", f"spec.nodeName={node}"))
        if address is not None:
            query.append(("fieldSelector", f"status.podIP={address}"))
        path = _path(kind.api_version, kind.resource, namespace, None)
        token = ""
        while True:
            more = [("continue", token)] if token else []
            reply = self._request("GET", path, [*query, *more])
            self._raise_for_status("list", kind.resource, kind.resource, reply)
            items += reply.body.get("items") or []
            size += reply.size
            if len(items) > MAX_LIST_OBJECTS:
                limit = f"{MAX_LIST_OBJECTS:,} objects"
                raise PermanentError(f"{kind.resource}: the list has more than {limit}")
            if size > MAX_LIST_BYTES:
                limit = f"{MAX_LIST_BYTES >> 20} MiB"
                raise PermanentError(f"{kind.resource}: the list is larger than {limit}")
            token = (reply.body.get("metadata") or {}).get("continue") or ""
            if not token:
                return items

    def send(self, call: Call) -> Object:
        """Send one write; see ``Cluster.send``."""
        is_new = call.verb == "create" and "/" not in call.resource
        name = None if is_new else call.name
        path = _path(call.api_version, call.resource, call.namespace, name)
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
        return reply.body

    def execute(self, call: Call) -> Output:
        """Run a command in a container; see ``Cluster.execute``."""
        if self._dry_run:  # the API server ignores dryRun of exec
            return Output(exit_code=0)
        about = f"{call.resource}/{call.name}"
        path = _path(call.api_version, call.resource, call.namespace, call.name)
        query = [("command", word) for word in call.body["command"]]
        query += [("container", call.body["container"]), ("stdout", "true"), ("stderr", "true")]
        opened = self._open(path, query, websocket=True)
        self._raise_for_stream("exec", call.resource, about, opened)
        return Output(self._pieces(opened, "the command", may_have_run=True), opened.close)

    def read_log(
        self,
        namespace: str,
        name: str,
        container: str,
        query: Mapping[str, str],
        seconds: float | None = None,
    ) -> Output:
        """Read the log of a container; see ``Cluster.read_log``."""
        if self._dry_run:
            return Output()
        path = _path(POD.api_version, LOG, namespace, name)
        given = [("container", container), *query.items()]
        opened = self._open(path, given, websocket=False, seconds=seconds)
        self._raise_for_stream("get", LOG, f"{LOG}/{name}", opened)
        is_limited = seconds is not None
        return Output(self._pieces(opened, "the log", ends=is_limited), opened.close)

    def _open(
        self,
        path: str,
        query: Sequence[tuple[str, str]],
        *,
        websocket: bool,
        seconds: float | None = None,
    ) -> OpenStream:
        """Open a stream for so many seconds, at most until the deadline.

        Raises TemporaryError if there is no response, or the circuit breaker is open.
        """
        breaker = self._state.breaker
        if not breaker.try_acquire():
            raise TemporaryError(f"API server: {breaker.error}; waiting for a successful probe")
        left = self._wait_for_rate()
        left = left if seconds is None else min(left, seconds)
        try:
            opened = self._server.open_stream(path, query, left, websocket=websocket)
        except NoResponseError as error:
            breaker.record_failure(str(error))
            raise TemporaryError(f"API server: {error}") from None
        if opened.stream.status not in OVERLOADED:
            breaker.record_response()
        return opened

    def _raise_for_stream(self, verb: str, resource: str, about: str, opened: OpenStream) -> None:
        """Raise the error that the response means, with the connection closed."""
        status, headers, pieces = opened.stream
        if status < 300:  # noqa: PLR2004 - HTTP
            return
        body = bytearray()
        try:
            for _, piece in pieces:
                body += piece
                if len(body) > _MAX_ERROR:
                    break
        except OSError:
            pass  # the status is enough
        finally:
            opened.close()
        answer = _json(bytes(body), opened.credentials)
        reply = _Reply(status, headers, mask_secrets(answer, opened.credentials), len(body))
        if status == 404 and _is_about_object(reply.body):  # noqa: PLR2004 - HTTP
            raise GoneError(f"{about} is gone")
        if status == 500 and verb == "exec":  # noqa: PLR2004 - HTTP
            raise TemporaryError(f"{about}: {status} {_message(reply.body)}", answered=True)
        self._raise_for_status(verb, resource, about, reply)

    @staticmethod
    def _pieces(
        opened: OpenStream, what: str, *, may_have_run: bool = False, ends: bool = False
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the pieces of a stream. Raises TemporaryError if it breaks off; PermanentError of a command.

        ends: whether the deadline is the end of the stream.
        """
        try:
            yield from opened.stream.pieces
        except TimeoutError:
            if ends:
                return
            message = f"{what} did not end within the timeout of the step"
        except OSError as error:
            message = f"{what} broke off: {mask_secrets(str(error), opened.credentials)[:200]}"
        else:
            return
        if may_have_run:
            raise PermanentError(f"{message}; it may still run")
        raise TemporaryError(message, answered=True)

    def _raise_for_write(self, call: Call, reply: _Reply) -> None:
        """Raise the error that the response to a write means, if any."""
        about = f"{call.resource}/{call.name}"
        if reply.status == 404:  # noqa: PLR2004 - HTTP
            raise GoneError(f"{about} is gone")
        if reply.status == 409:  # noqa: PLR2004 - HTTP
            if _has_cause(reply.body, "reason", "FieldManagerConflict"):
                raise PermanentError(f"{about}: {_message(reply.body)}")
            if _means_replaced(call, reply.body):
                raise GoneError(f"{about} was replaced by another object of the same name")
            if call.verb == "create":
                raise AlreadyExistsError(f"{about} already exists")
            raise TemporaryError(f"{about} was changed at the same time", answered=True)
        is_uid_rejected = _has_cause(reply.body, "field", "metadata.uid")
        if reply.status == 422 and call.verb == "patch" and is_uid_rejected:  # noqa: PLR2004 - HTTP
            raise GoneError(f"{about} was replaced by another object of the same name")
        self._raise_for_status(call.verb, call.resource, about, reply)

    def _raise_for_status(self, verb: str, resource: str, about: str, reply: _Reply) -> None:
        """Raise the error that a status other than success means for any request."""
        status = reply.status
        if status < 300:  # noqa: PLR2004 - HTTP
            return
        message = f"{about}: {status} {_message(reply.body)}"
        after = retry_after(reply.headers)
        if status == 403 and self._state.breaker.recently_unavailable:  # noqa: PLR2004 - HTTP
            raise TemporaryError(f"{message} (the server was recently unavailable)", after=after)
        if status == 403:  # noqa: PLR2004 - HTTP
            missing = missing_right(_rbac_verbs(verb), resource, self._user, reply.body)
            raise MissingRightError(f"{message} ({missing})")
        if status in OVERLOADED:
            # an eviction that a PodDisruptionBudget does not allow is also a 429
            has_budget = _has_cause(reply.body, "reason", "DisruptionBudget")
            if not has_budget:
                self._state.breaker.record_failure(message)
                self._state.rate_limiter.halve()
            raise TemporaryError(message, after=after, answered=has_budget)
        if status >= 500 or status in (401, 409):  # noqa: PLR2004 - HTTP
            raise TemporaryError(message, after=after, answered=True)
        raise PermanentError(message)

    def _wait_for_rate(self) -> float:
        """Wait for the rate limiter; return the seconds that are left for the call. Raises TemporaryError.

        The wait does not count as time of the attempt, so that a short timeout still suffices at a low rate.
        """
        left = DEFAULT_TIMEOUT if self._deadline is None else self._deadline - time.monotonic()
        if left <= 0:
            raise TemporaryError("the attempt timed out", answered=False)
        extra = 0.0 if self._deadline is None else self._rate_wait
        waited = self._state.rate_limiter.wait(left + extra)
        if waited is None:
            rate = f"{self._state.rate_limiter.rate:.0f} calls a second (--kube-qps)"
            raise TemporaryError(f"too many calls for the limit of {rate}", answered=False)
        if self._deadline is None:
            return left
        self._rate_wait = max(0.0, extra - waited)
        self._deadline += extra - self._rate_wait
        return self._deadline - time.monotonic()

    def _request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
        content_type: str | None = None,
    ) -> _Reply:
        """Send one request. Raises TemporaryError if there is no response, or the circuit breaker is open.

        Our credentials are masked in an error response, because its message is stored and shown.
        """
        breaker = self._state.breaker
        if not breaker.try_acquire():
            raise TemporaryError(f"API server: {breaker.error}; waiting for a successful probe")
        left = self._wait_for_rate()
        content = (msgspec.json.encode(body), content_type) if content_type else None
        try:
            response = self._server.request(method, path, query, content, left)
        except NoResponseError as error:
            breaker.record_failure(str(error))
            raise TemporaryError(f"API server: {error}") from None
        except ResponseTooLongError as error:
            breaker.record_response()
            raise PermanentError(f"API server: {method} {path}: {error}") from None
        status, headers, data, credentials = response
        if status not in OVERLOADED:
            breaker.record_response()
            self._state.rate_limiter.recover()
        answer = _json(data, credentials)
        if status >= 300:  # noqa: PLR2004 - HTTP
            answer = mask_secrets(answer, credentials)
        return _Reply(status, headers, answer if isinstance(answer, dict) else {}, len(data))


def _json(data: bytes, credentials: Sequence[str]) -> Any:
    """Return the JSON of a body. Text becomes the message of a Status."""
    try:
        return msgspec.json.decode(data) if data else {}
    except (msgspec.DecodeError, RecursionError):
        text = data.decode("utf-8", "replace")
        return {"message": mask_secrets(text, credentials)[:200]}


def _path(
    api_version: str,
    resource: str,
    namespace: str | None,
    name: str | None,
) -> str:
    """Return the path of a resource, of an object or of its subresource (``pods/eviction``)."""
    resource, _, subresource = resource.partition("/")
    path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    path += f"/namespaces/{namespace}" if namespace else ""
    path += f"/{resource}"
    path += f"/{name}" if name else ""
    return path + (f"/{subresource}" if subresource else "")


def _is_about_object(body: Object) -> bool:
    """Return whether a 404 is about an object. The details have no name if the resource does not exist."""
    return bool((body.get("details") or {}).get("name"))


def _has_cause(body: Object, key: str, value: str) -> bool:
    """Return whether one of the causes in a Status has this value."""
    causes = (body.get("details") or {}).get("causes") or []
    return any(cause.get(key) == value for cause in causes)


def _message(body: Object) -> str:
    """Return the message of a Status, up to 500 characters."""
    return str(body.get("message") or "no reason given")[:500]


def _rbac_verbs(verb: str) -> str:
    """Return the RBAC verbs that a verb of a Call needs."""
    return {"apply": "patch and create", "exec": "create and get"}.get(verb, verb)


def _means_replaced(call: Call, body: Object) -> bool:
    """Return whether a 409 means that the object has another uid than the call.

    For a patch of an object, the server rejects another uid with 422. For a patch of its ``scale`` it answers
    409 and names the precondition in the message only (pkg/registry/apps/deployment/storage).
    """
    if call.verb == "delete" or call.resource.endswith("/eviction"):
        return True
    has_uid = "uid" in (call.body.get("metadata") or {})
    if call.verb == "patch" and call.resource.endswith("/scale"):
        return has_uid and "UID in precondition" in _message(body)
    return call.verb == "apply" and has_uid
