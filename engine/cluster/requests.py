"""The requests to one API server: rate, deadline, circuit breaker, and the errors for its responses.

The retries of the official client are off. The client would retry on its own and sleep for a Retry-After in a
worker's thread; waiting is the task of the journal.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.cluster.impersonation import missing_right
from engine.cluster.transport import ApiServer, NoResponseError, ResponseTooLongError
from engine.model.errors import MissingRightError, PermanentError, TemporaryError
from engine.outbound.masking import mask_secrets
from engine.outbound.retry_after import retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.cluster.circuit_breaker import CircuitBreaker
    from engine.cluster.rate_limiter import RateLimiter
    from engine.cluster.transport import OpenStream
    from engine.model.calls import Object

OVERLOADED = (429, 503)
MAX_RATE_WAIT = 8.0
"""Seconds that an attempt may wait for the rate limiter in addition to its timeout.

A lease lasts longer than the timeout and this time together.
"""
DEFAULT_TIMEOUT = 30.0
"""Seconds for a call that does not belong to an attempt."""


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
    cache: dict[CacheKey, Cached] = field(default_factory=dict)
    users: set[str | None] = field(default_factory=lambda: {None})


CacheKey = tuple[str | None, str, str]


class Cached(NamedTuple):
    """An object in the cache. until: end of its validity on the monotonic clock."""

    until: float
    object: Object | None


class Reply(NamedTuple):
    """A response of the API server. size: bytes of its body."""

    status: int
    headers: Mapping[str, str]
    body: Object
    size: int


class ApiRequests:
    """Sends requests to the API server.

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
        self._check: Callable[[], None] = lambda: None

    def _request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
        content_type: str | None = None,
    ) -> Reply:
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
        answer = parse_json(data, credentials)
        if status >= 300:  # noqa: PLR2004 - HTTP
            answer = mask_secrets(answer, credentials)
        return Reply(status, headers, answer if isinstance(answer, dict) else {}, len(data))

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
        self._check()
        if self._deadline is None:
            return left
        self._rate_wait = max(0.0, extra - waited)
        self._deadline += extra - self._rate_wait
        return self._deadline - time.monotonic()

    def _raise_for_status(self, verb: str, resource: str, about: str, reply: Reply) -> None:
        """Raise the error for a status that means the same for every request."""
        status = reply.status
        if status < 300:  # noqa: PLR2004 - HTTP
            return
        message = f"{about}: {status} {message_of(reply.body)}"
        after = retry_after(reply.headers)
        if status == 403 and self._state.breaker.recently_unavailable:  # noqa: PLR2004 - HTTP
            raise TemporaryError(f"{message} (the server was recently unavailable)", after=after)
        if status == 403:  # noqa: PLR2004 - HTTP
            missing = missing_right(_rbac_verbs(verb), resource, self._user, reply.body)
            raise MissingRightError(f"{message} ({missing})")
        if status in OVERLOADED:
            # an eviction that a PodDisruptionBudget does not allow is also a 429
            has_budget = has_cause(reply.body, "reason", "DisruptionBudget")
            if not has_budget:
                self._state.breaker.record_failure(message)
                self._state.rate_limiter.halve()
            raise TemporaryError(message, after=after, answered=has_budget)
        if status >= 500 or status in (401, 409):  # noqa: PLR2004 - HTTP
            raise TemporaryError(message, after=after, answered=True)
        raise PermanentError(message)


def parse_json(data: bytes, credentials: Sequence[str]) -> Any:
    """Return the JSON of a body. Text becomes the message of a Status."""
    try:
        return msgspec.json.decode(data) if data else {}
    except (msgspec.DecodeError, RecursionError):
        text = data.decode("utf-8", "replace")
        return {"message": mask_secrets(text, credentials)[:200]}


def path_of(
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


def is_about_object(body: Object) -> bool:
    """Return whether a 404 is about an object. The details have no name if the resource does not exist."""
    return bool((body.get("details") or {}).get("name"))


def has_cause(body: Object, key: str, value: str) -> bool:
    """Return whether one of the causes in a Status has this value."""
    causes = (body.get("details") or {}).get("causes") or []
    return any(cause.get(key) == value for cause in causes)


def message_of(body: Object) -> str:
    """Return the message of a Status, up to 500 characters."""
    return str(body.get("message") or "no reason given")[:500]


def _rbac_verbs(verb: str) -> str:
    """Return the RBAC verbs that a verb of a Call needs."""
    return {"apply": "patch and create", "exec": "create and get"}.get(verb, verb)
