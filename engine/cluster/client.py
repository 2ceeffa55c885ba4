"""The live cluster, behind the official client's settings and connections.

The client would retry by itself and sleep a Retry-After in our thread, so its retries are off: waiting is
the journal's business.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from engine.cluster.api import FIELD_MANAGER, NAMESPACE, NODE, AlreadyExistsError
from engine.cluster.circuit_breaker import CircuitBreaker
from engine.cluster.kubeconfig import Credentials, read_access
from engine.cluster.rate_limiter import RateLimiter
from engine.cluster.transport import ApiServer, NoResponseError, ResponseTooLongError
from engine.model.errors import GoneError, PermanentError, TemporaryError
from engine.outbound.destination import mask_userinfo
from engine.outbound.masking import mask_secrets
from engine.outbound.retry_after import retry_after

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.cluster.kubeconfig import ApiServerAccess
    from engine.model.calls import Call, Kind, Object

log = structlog.get_logger()
PAGE = 500
ITEMS = 20_000
"""Objects of a list; Kubernetes is tested with up to 3,000 pods in a namespace."""
QPS = 100.0
"""Calls a second at most, unless told otherwise; client-go's own default is 5, controllers take 20 to 100."""
OVERLOADED = (429, 503)
LABELS_FOR = 10.0
"""Seconds; every step asks for the labels of its target's namespace and node, which hardly ever change."""
TURNS = 8.0
"""Seconds that an attempt may wait for its turns beside its own time; less than a lease lasts beyond that."""
ALONE = 30.0
"""Seconds for a call that belongs to no attempt."""
MANY = 10_000
"""Namespaces and nodes that are remembered."""
_METHODS = {"create": "POST", "apply": "PATCH", "patch": "PATCH", "delete": "DELETE"}
_TYPES = {"apply": "application/apply-patch+yaml", "patch": "application/merge-patch+json"}


@dataclass(frozen=True, slots=True)
class ApiServerState:
    """What all calls to one API server share: whether it answers, how fast it may be asked, what is known.

    labels_for: seconds for which a Namespace or Node that was read, or a Node that was not there, is taken to
    be so still. Pods never are.
    """

    breaker: CircuitBreaker
    rate_limiter: RateLimiter
    labels_for: float = 0.0
    known: dict[tuple[str, str], tuple[float, Object | None]] = field(default_factory=dict)


def connect(
    kubeconfig: str | None, context: str | None, qps: float = QPS, at_once: int = 1
) -> KubernetesCluster:
    """The cluster of a kubeconfig's context, or with neither the one that this pod runs in.

    qps: calls a second at most. at_once: connections that are kept. Raises ConnectionSettingsError.
    """

    def read() -> ApiServerAccess:
        access = read_access(kubeconfig, context)
        access.settings.connection_pool_maxsize = (
            at_once  # one more is closed again, at a TLS handshake each
        )
        return access

    credentials = Credentials(read)
    if not credentials.current().settings.verify_ssl:
        import urllib3  # noqa: PLC0415 - loaded with the client

        log.warning("the certificate of the API server is not verified (insecure-skip-tls-verify)")
        urllib3.disable_warnings(
            urllib3.exceptions.InsecureRequestWarning
        )  # one at each connection
    load = ApiServerState(CircuitBreaker(time.monotonic), RateLimiter(qps), LABELS_FOR)
    return KubernetesCluster(ApiServer(credentials), load)


class KubernetesCluster:
    """Reads and writes through the API server; every call within the time that ``within`` set."""

    def __init__(
        self,
        server: ApiServer,
        load: ApiServerState,
        *,
        dry_run: bool = False,
        deadline: float | None = None,
    ) -> None:
        self._server = server
        self._load = load
        self._dry_run = dry_run
        self._deadline = deadline
        self._turns = TURNS

    @property
    def host(self) -> str:
        """The API server's URL, without a password."""
        return mask_userinfo(self._server.host)

    @property
    def breaker(self) -> CircuitBreaker:
        """Whether the server answers."""
        return self._load.breaker

    def available_slots(self, under_way: int) -> int | None:
        """How many attempts may begin beside those under way, None for any number.

        While the server is silent the breaker says so; else no more than find a turn at the pace set, since
        each would wait for the others' at every call until its time is over.
        """
        beside = max(0, self._load.rate_limiter.max_concurrent - under_way)
        probes = self._load.breaker.acquire_slots() if beside else 0
        return beside if probes is None else probes

    def with_timeout(self, seconds: float) -> KubernetesCluster:
        """The same cluster, whose calls must all be over in so many seconds."""
        return KubernetesCluster(
            self._server, self._load, dry_run=self._dry_run, deadline=time.monotonic() + seconds
        )

    def with_dry_run(self) -> KubernetesCluster:
        """The same cluster, asked with ``dryRun=All``: RBAC, admission and quota answer, nothing changes."""
        return KubernetesCluster(self._server, self._load, dry_run=True, deadline=self._deadline)

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None where there is none."""
        if kind not in (NAMESPACE, NODE) or not self._load.labels_for:
            return self._get(kind, name, namespace)
        known, now = self._load.known, time.monotonic()
        until, found = known.get((kind.resource, name), (0.0, None))
        if now < until:
            return found
        found = self._get(kind, name, namespace)
        if (
            found is not None or kind == NODE
        ):  # Falco's hostname is its pod's name unless told: no Node
            if len(known) >= MANY:
                known.clear()
            known[kind.resource, name] = (now + self._load.labels_for, found)
        return found

    def _get(self, kind: Kind, name: str, namespace: str | None) -> Object | None:
        status, headers, answer = self._request(
            "GET", _path(kind.api_version, kind.resource, namespace, name)
        )
        if status == 404 and _names_object(answer):  # noqa: PLR2004 - HTTP
            return None
        self._raise("get", kind.resource, f"{kind.resource}/{name}", status, answer, headers)
        return answer

    def list(
        self, kind: Kind, namespace: str | None = None, *, node: str | None = None
    ) -> list[Object]:
        """The objects, page by page. Raises PermanentError for more than ITEMS objects."""
        items: list[Object] = []
        query: list[tuple[str, str]] = [("limit", str(PAGE))]
        if node is not None:
            query.append(("fieldSelector", f"spec.nodeName={node}"))
        token = ""
        while True:
            more = [("continue", token)] if token else []
            path = _path(kind.api_version, kind.resource, namespace, None)
            status, headers, answer = self._request("GET", path, [*query, *more])
            self._raise("list", kind.resource, kind.resource, status, answer, headers)
            items += answer.get("items") or []
            if len(items) > ITEMS:
                raise PermanentError(f"{kind.resource}: the list has more than {ITEMS:,} objects")
            token = (answer.get("metadata") or {}).get("continue") or ""
            if not token:
                return items

    def send(self, call: Call) -> Object:
        """Send one write."""
        resource, _, subresource = call.resource.partition("/")
        name = None if call.verb == "create" and not subresource else call.name
        path = _path(call.api_version, resource, call.namespace, name, subresource)
        query, body = [], call.body
        if call.verb != "delete":
            query.append(("fieldManager", FIELD_MANAGER))
        if self._dry_run and call.verb == "delete":
            # the API server does not look at the query of a DELETE that brings its options in the body
            body = {**body, "dryRun": ["All"]}
        elif self._dry_run:
            query.append(("dryRun", "All"))
        if call.verb == "apply":
            query.append(("force", "false"))
        content = _TYPES.get(call.verb, "application/json")
        status, headers, answer = self._request(_METHODS[call.verb], path, query, body, content)
        self._judge(call, status, answer, headers)
        return answer

    def _judge(self, call: Call, status: int, answer: Object, headers: Any) -> None:
        """Raise what an answer to a write means."""
        about = f"{call.resource}/{call.name}"
        if status == 404:  # noqa: PLR2004 - HTTP
            raise GoneError(f"{about} is gone")
        if status == 409:  # noqa: PLR2004 - HTTP
            if call.verb == "create":
                raise AlreadyExistsError(f"{about} exists already")
            if _causes(answer, "reason", "FieldManagerConflict"):
                raise PermanentError(f"{about}: {_message(answer)}")
            if call.verb == "delete" or "eviction" in call.resource or _carries_uid(call):
                raise GoneError(f"{about} is another one by now")
            raise TemporaryError(f"{about} changed meanwhile", answered=True)
        if status == 422 and call.verb == "patch" and _causes(answer, "field", "metadata.uid"):  # noqa: PLR2004 - HTTP
            raise GoneError(f"{about} is another one by now")
        self._raise(call.verb, call.resource, about, status, answer, headers)

    def _raise(
        self, verb: str, resource: str, about: str, status: int, answer: Object, headers: Any = None
    ) -> None:
        """Raise what an answer other than success means, whatever was asked."""
        if status < 300:  # noqa: PLR2004 - HTTP
            return
        said = f"{about}: {status} {_message(answer)}"
        if status == 403 and self._load.breaker.recently_unavailable:  # noqa: PLR2004 - HTTP
            raise TemporaryError(f"{said} (it was away a moment ago)", after=retry_after(headers))
        if status == 403:  # noqa: PLR2004 - HTTP
            raise PermanentError(f"{said} (missing right: {_right(verb)} on {resource})")
        if status in OVERLOADED:
            budget = _causes(answer, "reason", "DisruptionBudget")
            if not budget:
                self._load.breaker.record_failure(said)
                self._load.rate_limiter.halve()
            raise TemporaryError(said, after=retry_after(headers), answered=budget)
        if status >= 500 or status in (401, 409):  # noqa: PLR2004 - HTTP
            raise TemporaryError(said, after=retry_after(headers), answered=True)
        raise PermanentError(said)

    def _turn(self) -> float:
        """Wait for a turn; the seconds that are left for the call. Raises TemporaryError.

        What the wait takes is not the attempt's time, so that a short timeout comes to its end at a low rate.
        """
        left = ALONE if self._deadline is None else self._deadline - time.monotonic()
        if left <= 0:
            raise TemporaryError("the attempt ran out of time", answered=False)
        beside = 0.0 if self._deadline is None else self._turns
        waited = self._load.rate_limiter.wait(left + beside)
        if waited is None:
            rate = f"{self._load.rate_limiter.rate:.0f} calls a second (--kube-qps)"
            raise TemporaryError(f"too much to do for {rate}", answered=False)
        if self._deadline is None:
            return left
        self._turns = max(0.0, beside - waited)
        self._deadline += beside - self._turns
        return self._deadline - time.monotonic()

    def _request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
        content: str | None = None,
    ) -> tuple[int, Any, Object]:
        """Status, headers and JSON of the answer. Raises TemporaryError where there is none.

        What a server that refuses says again of our credentials is masked: its sentence is kept and shown.
        """
        left = self._turn()
        sent = (msgspec.json.encode(body), content) if content else None
        try:
            status, headers, data, shown = self._server.request(method, path, query, sent, left)
        except NoResponseError as error:
            self._load.breaker.record_failure(str(error))
            raise TemporaryError(f"API server: {error}") from None
        except ResponseTooLongError as error:
            self._load.breaker.record_response()
            raise PermanentError(f"API server: {method} {path}: {error}") from None
        if status not in OVERLOADED:
            self._load.breaker.record_response()
            self._load.rate_limiter.recover()
        try:
            answer = msgspec.json.decode(data) if data else {}
        except (msgspec.DecodeError, RecursionError):
            answer = {"message": mask_secrets(data.decode("utf-8", "replace"), shown)[:200]}
        if status >= 300:  # noqa: PLR2004 - HTTP
            answer = mask_secrets(answer, shown)
        return status, headers, answer if isinstance(answer, dict) else {}


def _path(
    api_version: str, resource: str, namespace: str | None, name: str | None, sub: str = ""
) -> str:
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{within}/{resource}" + (f"/{name}" if name else "") + (f"/{sub}" if sub else "")


def _names_object(answer: Object) -> bool:
    """Whether a 404 is about the object; one about the whole resource has no name in its details."""
    return bool((answer.get("details") or {}).get("name"))


def _causes(answer: Object, key: str, value: str) -> bool:
    causes = (answer.get("details") or {}).get("causes") or []
    return any(cause.get(key) == value for cause in causes)


def _message(answer: Object) -> str:
    return str(answer.get("message") or "no reason given")[:500]


def _right(verb: str) -> str:
    return {"apply": "patch and create"}.get(verb, verb)


def _carries_uid(call: Call) -> bool:
    """Whether it is an apply bound to a uid; on a patch the server says 422 of another uid."""
    return call.verb == "apply" and "uid" in (call.body.get("metadata") or {})
