"""Operators with the token of their own Kubernetes account.

The API server says whose token it is (TokenReview) and what the user may do with ``runs.tiercel.dev``
(SubjectAccessReview). Without its answer, nothing is allowed.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

from engine.model.errors import PermanentError, TemporaryError
from engine.model.operator_identity import KUBERNETES
from engine.server.credentials_file import MIN_LENGTH
from engine.server.messages import Reply, json_reply, unauthorized
from engine.server.operator_auth import bearer_token, check_role

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.cluster.access_reviews import AccessReviews, KubernetesUser
    from engine.server.messages import Request
    from engine.server.operator_auth import OperatorsFile

T = TypeVar("T")
log = structlog.get_logger()
CACHE_SECONDS = 10.0
"""Seconds for which an answer of the API server holds. A revoked right is in force after this time."""
MAX_CACHED = 1_000
"""Answers in the cache, each of tokens and of rights."""
MAX_TOKEN = 16 << 10
"""Characters of a token. A token of a ServiceAccount has about 1,000."""
MAX_PENDING = 32
"""Requests that wait for a review. More are refused, so that wrong tokens cannot occupy the engine."""
THREADS = 4
"""Reviews at a time."""


class KubernetesOperators:
    """Authenticates operators by the operators file, then by the API server.

    operators: the file, or None. A line with ``kubernetes:USER`` gives a Kubernetes user the name of an
    operator, and its role is an upper limit. own_user: the user name of the engine, which is never an operator.
    """

    def __init__(
        self,
        reviews: AccessReviews,
        operators: OperatorsFile | None = None,
        own_user: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reviews, self._operators, self._own_user = reviews, operators, own_user
        self._users: _Cache[KubernetesUser | None] = _Cache(clock)
        self._rights: _Cache[bool] = _Cache(clock)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tiercel-access-review")
        self._pending = 0

    def reject(self, request: Request) -> Reply | None:
        """Refuse a request whose header cannot be a token. Does not ask the API server."""
        token = bearer_token(request)
        if isinstance(token, Reply):
            return token
        in_file = self._operators and self._operators.by_token(token)
        return None if in_file else _check_shape(token)

    async def authorize(self, request: Request, verb: str) -> str | Reply:
        """See Authenticator.authorize. 503 if the API server does not answer."""
        token = bearer_token(request)
        if isinstance(token, Reply):
            return token
        operator = self._operators.by_token(token) if self._operators else None
        if operator is not None:
            return check_role(operator, verb)
        refused = _check_shape(token)
        if refused:
            return refused
        if self._pending >= MAX_PENDING:
            what = "too many requests wait for the API server to check their tokens"
            return json_reply(503, {"error": what, "hint": "try again"})
        self._pending += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._review, token.decode(), verb)
        finally:
            self._pending -= 1

    def close(self) -> None:
        """End the threads. A review in progress ends by its timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _review(self, token: str, verb: str) -> str | Reply:
        try:
            return self._authorize(token, verb)
        except (TemporaryError, PermanentError) as error:
            log.warning("access_review_failed", error=str(error))
            what = f"nothing is allowed without the API server's answer: {error}"
            hint = "use a token of the operators file, or see docs/approvals.md"
            return json_reply(503, {"error": what, "hint": hint})

    def _authorize(self, token: str, verb: str) -> str | Reply:
        """Return the name of the operator, or the refusal. Raises TemporaryError, PermanentError."""
        # the cache must not keep tokens
        key = hashlib.sha256(token.encode()).hexdigest()
        user = self._users.get(key, lambda: self._reviews.authenticate(token))
        if user is None or user.name == self._own_user:
            what = "neither an operator nor a Kubernetes user has this token"
            return unauthorized(what, "`kubectl create token` makes one")
        linked = self._operators.by_kubernetes(user.name) if self._operators else None
        name = linked.name if linked else f"{KUBERNETES}{user.name}"
        if not self._rights.get(f"{key} {verb}", lambda: self._reviews.may(user, verb)):
            hint = f"it needs the verb {verb} on runs.tiercel.dev: a ClusterRole and its binding"
            return json_reply(403, {"error": f"{user.name} must not {verb} runs", "hint": hint})
        return check_role(linked, verb) if linked else name


class _Cache(Generic[T]):
    """Values for CACHE_SECONDS each, at most MAX_CACHED. Thread-safe: a race computes a value twice."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[str, tuple[float, Any]] = {}

    def get(self, key: str, compute: Callable[[], T]) -> T:
        """Return the value of a key, computed if it is not in the cache. Errors are not cached."""
        found = self._values.get(key)
        if found is not None and self._clock() < found[0]:
            value: T = found[1]
            return value
        value = compute()
        if len(self._values) >= MAX_CACHED:
            self._values.clear()
        self._values[key] = (self._clock() + CACHE_SECONDS, value)
        return value


def _check_shape(token: bytes) -> Reply | None:
    """Return the refusal of a header that cannot contain a token, or None."""
    is_token = MIN_LENGTH <= len(token) <= MAX_TOKEN and token.isascii()
    if is_token and token.decode().isprintable() and b" " not in token:
        return None
    what = f"a token has {MIN_LENGTH} to {MAX_TOKEN:,} visible ASCII characters"
    return unauthorized(what, "`kubectl create token` makes one")
