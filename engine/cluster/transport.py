"""Requests to the API server, with the connection settings and credentials of the official client.

The client's own request path takes 0.54 ms of CPU time for a GET; its connections alone take 0.33 ms (see
``benchmarks/act.py``). Therefore only its connection pools are used.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import copy
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from engine.cluster.kubeconfig import ConnectionSettingsError
from engine.outbound.masking import mask_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.cluster.kubeconfig import ApiServerAccess, Credentials
    from engine.cluster.streams import Stream

MAX_RESPONSE = 32 << 20
"""Bytes of a response; a page of 500 pods of 30 KiB each takes half of them."""


class NoResponseError(Exception):
    """The server gave no response. The message says why."""


class ResponseTooLongError(Exception):
    """The response exceeds a limit. The message says which one."""


class Response(NamedTuple):
    """A response. credentials: the secrets in the request, which the server may repeat in ``data``."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    credentials: Sequence[str] = ()


class OpenStream(NamedTuple):
    """A stream, and how its connection is closed. credentials: the secrets in the request."""

    stream: Stream
    close: Callable[[], None]
    credentials: Sequence[str] = ()


class ApiServer:
    """Sends requests to one API server with its current credentials.

    A request can impersonate another user. See ``impersonate``.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._access: ApiServerAccess | None = None
        self._impersonation: dict[str, str] = {}
        self._impersonating: dict[str, ApiServer] = {}
        self._use(credentials.current())

    def impersonate(self, user: str) -> ApiServer:
        """Return the same server, with every request impersonating a user.

        It shares the connections. Without ``Impersonate-Group``, the API server gives a ServiceAccount its
        groups (apiserver/pkg/endpoints/filters/impersonation.go), so that no right on groups is necessary.
        """
        if user not in self._impersonating:
            self._impersonating[user] = copy.copy(self)._as_user(user)  # noqa: SLF001 - a copy of itself
        return self._impersonating[user]

    def _as_user(self, user: str) -> ApiServer:
        self._impersonation, self._impersonating = {"Impersonate-User": user}, {}
        self._use(self._credentials.current())
        return self

    def _use(self, access: ApiServerAccess) -> None:
        """Use new settings and credentials; open new connections if the client certificate has changed."""
        from kubernetes.client import ApiClient  # noqa: PLC0415 - 250 ms that check and plan don't need

        from engine.outbound.connections import (  # noqa: PLC0415 - only a live cluster needs it
            BodyLimit,
            use_bounded_connections,
        )

        settings, old = access.settings, self._access
        auth = {"authorization": access.authorization} if access.authorization else {}
        client = ApiClient(settings)
        self._headers = {**client.default_headers, "Accept": "application/json", **auth}
        self._headers |= self._impersonation
        if old is None or access.identity[1:] != old.identity[1:]:
            pools = use_bounded_connections(
                client.rest_client.pool_manager, BodyLimit(MAX_RESPONSE)
            )
            self._open = _opener(pools, str(settings.host))
            self._pools, self._host = pools, str(settings.host)
        self._access = access

    @property
    def host(self) -> str:
        """The URL of the server."""
        return self._host

    def request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        content: tuple[bytes, str] | None,
        seconds: float,
    ) -> Response:
        """Send one request. After a 401, renew the credentials; if they changed, send the request again.

        content: the body and its content type. seconds: for the whole exchange. Raises NoResponseError (also if
        the credentials are refused and cannot be renewed), ResponseTooLongError.
        """
        deadline = time.monotonic() + seconds
        url = f"{path}?{urlencode(query)}" if query else path
        access = self._credentials.current()
        if access is not self._access:
            self._use(access)
        response = self._send(method, url, content, self._headers, deadline - time.monotonic())
        if response.status != 401:  # noqa: PLR2004 - HTTP
            return response
        try:
            self._credentials.renew(access, "refused")
        except ConnectionSettingsError as error:
            raise NoResponseError(f"401, and no credentials: {error}"[:300]) from None
        renewed = self._credentials.current()
        self._use(renewed)
        if renewed.identity == access.identity:
            return response
        return self._send(method, url, content, self._headers, deadline - time.monotonic())

    def open_stream(
        self, path: str, query: Sequence[tuple[str, str]], seconds: float, *, websocket: bool
    ) -> OpenStream:
        """Open the log of a container, or with ``websocket`` a command, on a connection of its own.

        seconds: for the whole stream. After a 401 as in ``request``. Raises NoResponseError.
        """
        deadline = time.monotonic() + seconds
        url = f"{path}?{urlencode(query)}" if query else path
        access = self._credentials.current()
        if access is not self._access:
            self._use(access)
        opened = self._open_stream(url, deadline, websocket=websocket)
        if opened.stream.status != 401:  # noqa: PLR2004 - HTTP
            return opened
        opened.close()
        try:
            self._credentials.renew(access, "refused")
        except ConnectionSettingsError as error:
            raise NoResponseError(f"401, and no credentials: {error}"[:300]) from None
        self._use(self._credentials.current())
        return self._open_stream(url, deadline, websocket=websocket)

    def _open_stream(self, url: str, deadline: float, *, websocket: bool) -> OpenStream:
        import urllib3  # noqa: PLC0415 - loaded with the client

        from engine.cluster import streams  # noqa: PLC0415 - few steps use it

        credentials = _secrets_in(self._headers.get("authorization", ""))
        connection = None
        try:
            connection = self._connect(deadline - time.monotonic())
            streams.keep_alive(connection.sock)
            if websocket:
                address = "ws" + self._host.removeprefix("http") + url
                stream = streams.open_websocket(connection.sock, address, self._headers, deadline)
            else:
                connection.request("GET", urlsplit(self._host).path + url, headers=self._headers)
                stream = streams.read_response(connection.sock, deadline)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if connection is not None:
                connection.close()
            raise NoResponseError(
                mask_secrets(_reason(_root_cause(error)), credentials)[:200]
            ) from None
        return OpenStream(stream, connection.close, credentials)

    def _connect(self, seconds: float) -> Any:
        """Return a new connection to the server, through its proxy if it has one, that no pool reuses."""
        from engine.outbound.connections import CONNECT_TIMEOUT  # noqa: PLC0415 - loaded with the client

        pool = self._pools.connection_from_url(self._host)
        connection = pool._new_conn()  # noqa: SLF001 - only a pool knows the settings of TLS and of the proxy
        connection.timeout = max(0.001, min(CONNECT_TIMEOUT, seconds))
        if pool.proxy is not None and pool.scheme == "https":
            pool._prepare_proxy(connection)  # noqa: SLF001 - the tunnel through the proxy
        else:
            connection.connect()
        return connection

    def _send(
        self,
        method: str,
        url: str,
        content: tuple[bytes, str] | None,
        headers: dict[str, str],
        seconds: float,
    ) -> Response:
        import urllib3  # noqa: PLC0415 - loaded with the client

        from engine.outbound.connections import (  # noqa: PLC0415 - the same
            CONNECT_TIMEOUT,
            OversizedResponseError,
        )

        body, content_type = content or (None, None)
        if content_type:
            headers = {**headers, "Content-Type": content_type}
        credentials = _secrets_in(headers.get("authorization", ""))
        seconds = max(0.001, seconds)
        timeout = urllib3.Timeout(connect=min(CONNECT_TIMEOUT, seconds), total=seconds)
        try:
            response = self._open(
                method, url, body=body, headers=headers, timeout=timeout, retries=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            cause = _root_cause(error)
            if isinstance(cause, OversizedResponseError):
                raise ResponseTooLongError(str(cause)) from None
            raise NoResponseError(mask_secrets(_reason(cause), credentials)[:200]) from None
        return Response(response.status, response.headers, response.data or b"", credentials)


def _opener(pools: Any, host: str) -> Callable[..., Any]:
    """Return a function that opens a path of the host.

    The connection pool is looked up once, because a lookup takes a tenth of the time of a call.
    """
    pool, base = pools.connection_from_url(host), urlsplit(host).path
    if pools.proxy is not None:  # some hosts need the whole URL in the request line
        return lambda method, path, **options: pools.urlopen(method, f"{host}{path}", **options)
    return lambda method, path, **options: pool.urlopen(method, f"{base}{path}", **options)


def _secrets_in(authorization: str) -> list[str]:
    """Return the secrets in an Authorization header: the header itself, and the decoded password of Basic."""
    if not authorization:
        return []
    scheme, _, credential = authorization.partition(" ")
    secrets = [authorization]
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            secrets.append(base64.b64decode(credential).decode().partition(":")[2])
    return secrets


def _root_cause(error: Exception) -> Exception:
    """Return the error that an error of urllib3 wraps."""
    inner = getattr(error, "reason", None) or error
    return next((one for one in inner.args if isinstance(one, Exception)), inner)


def _reason(cause: Exception) -> str:
    """Return the type and the last part of the text of an error; the text of urllib3 contains the URL."""
    return f"{type(cause).__name__}: {str(cause).rpartition(': ')[2]}"
