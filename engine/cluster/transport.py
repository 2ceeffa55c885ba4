"""Requests to the API server, on the connections and under the credentials of the official client.

Its own request path builds and takes apart what we do not need: 0.54 ms of the interpreter a GET, where its
connections alone take 0.33 (``benchmarks/act.py`` has what that comes to).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from engine.cluster.kubeconfig import ConnectionSettingsError
from engine.outbound.masking import mask_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.cluster.kubeconfig import ApiServerAccess, Credentials

LONGEST = 32 << 20
"""Bytes of an answer; a page of 500 pods of 30 KiB each has half of it."""


class NoResponseError(Exception):
    """The server gave no answer; the sentence says why."""


class ResponseTooLongError(Exception):
    """The server gave an answer that is longer than its bound; the sentence says the bound."""


class Response(NamedTuple):
    """What it answered. data: as it came; shown: the credentials that it was shown, which it may say again."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    shown: Sequence[str] = ()


class ApiServer:
    """One API server, asked under the credentials of the moment."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._access: ApiServerAccess | None = None
        self._use(credentials.current())

    def _use(self, access: ApiServerAccess) -> None:
        """Take over an access. Connections are made anew if the certificate of the client has changed."""
        from kubernetes.client import ApiClient  # noqa: PLC0415 - 250 ms that check and plan don't need

        from engine.outbound.connections import (  # noqa: PLC0415 - only a live cluster needs it
            BodyLimit,
            use_bounded_connections,
        )

        new, old = access.settings, self._access
        auth = {"authorization": access.authorization} if access.authorization else {}
        client = ApiClient(new)
        self._headers = {**client.default_headers, "Accept": "application/json", **auth}
        if old is None or access.shown[1:] != old.shown[1:]:
            pools = use_bounded_connections(client.rest_client.pool_manager, BodyLimit(LONGEST))
            self._open = _opener(pools, str(new.host))
            self._host = str(new.host)
        self._access = access

    @property
    def host(self) -> str:
        """Its URL."""
        return self._host

    def request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        sent: tuple[bytes, str] | None,
        seconds: float,
    ) -> Response:
        """What it answers. After a 401 the credentials are renewed, and if they have changed it is asked again.

        sent: a body, and its content type. seconds: at most, for all of it. Raises SilentError, also if the
        credentials are refused and cannot be renewed, and AnswerTooLongError.
        """
        until = time.monotonic() + seconds
        url = f"{path}?{urlencode(query)}" if query else path
        access = self._credentials.current()
        if access is not self._access:
            self._use(access)
        answer = self._send(method, url, sent, self._headers, until - time.monotonic())
        if answer.status != 401:  # noqa: PLR2004 - HTTP
            return answer
        try:
            self._credentials.renew(access, "refused")
        except ConnectionSettingsError as error:
            raise NoResponseError(f"401, and no credentials: {error}"[:300]) from None
        fresh = self._credentials.current()
        self._use(fresh)
        if fresh.shown == access.shown:
            return answer
        return self._send(method, url, sent, self._headers, until - time.monotonic())

    def _send(
        self,
        method: str,
        url: str,
        sent: tuple[bytes, str] | None,
        headers: dict[str, str],
        seconds: float,
    ) -> Response:
        import urllib3  # noqa: PLC0415 - loaded with the client

        from engine.outbound.connections import (  # noqa: PLC0415 - the same
            CONNECT_TIMEOUT,
            OversizedResponseError,
        )

        body, content = sent or (None, None)
        if content:
            headers = {**headers, "Content-Type": content}
        shown = _shown(headers.get("authorization", ""))
        seconds = max(0.001, seconds)
        timeout = urllib3.Timeout(connect=min(CONNECT_TIMEOUT, seconds), total=seconds)
        try:
            response = self._open(
                method, url, body=body, headers=headers, timeout=timeout, retries=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(_inner(error), OversizedResponseError):
                raise ResponseTooLongError(str(_inner(error))) from None
            raise NoResponseError(mask_secrets(_reason(error), shown)[:200]) from None
        return Response(response.status, response.headers, response.data or b"", shown)


def _opener(pools: Any, host: str) -> Callable[..., Any]:
    """What opens a path of the host. Its connections are looked up once: each time is a tenth of a call."""
    pool, base = pools.connection_from_url(host), urlsplit(host).path
    if pools.proxy is not None:  # which wants whole URLs of some hosts
        return lambda method, path, **given: pools.urlopen(method, f"{host}{path}", **given)
    return lambda method, path, **given: pool.urlopen(method, f"{base}{path}", **given)


def _shown(authorization: str) -> list[str]:
    """What a request shows of our credentials: a token, or a password as Basic and as it is."""
    if not authorization:
        return []
    scheme, _, secret = authorization.partition(" ")
    told = [authorization]
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            told.append(base64.b64decode(secret).decode().partition(":")[2])
    return told


def _inner(error: Exception) -> Exception:
    """The innermost cause of an error of urllib3's."""
    inner = getattr(error, "reason", None) or error
    return next((one for one in inner.args if isinstance(one, Exception)), inner)


def _reason(error: Exception) -> str:
    """The innermost cause as text; urllib3's own text holds the whole URL."""
    inner = _inner(error)
    return f"{type(inner).__name__}: {str(inner).rpartition(': ')[2]}"
