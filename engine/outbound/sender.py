"""Sending one request to a server outside the cluster, directly or through a proxy.

Redirects are not followed. A proxy resolves the host name itself, so with a proxy only the host name is
checked, not its addresses. Import this module late: it loads the HTTP libraries.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import urllib3

from engine.outbound.connections import (
    CONNECT_TIMEOUT,
    BodyLimit,
    allow_any_address,
    use_bounded_connections,
)
from engine.outbound.host_limits import MAX_CONCURRENT
from engine.outbound.proxy import proxy_credentials, proxy_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.outbound.destination import Destination

logging.getLogger("urllib3").setLevel(
    logging.WARNING
)  # at DEBUG it logs paths, which can be secret
MAX_BODY = 64 << 10
"""Bytes of a response body that are read; the rest is discarded."""
_METHODS_WITH_BODY = ("POST", "PUT", "PATCH")


@dataclass(frozen=True, slots=True)
class Response:
    """A response. body: at most ``MAX_BODY`` bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def truncated(self) -> bool:
        """Whether the body may have been longer."""
        return len(self.body) >= MAX_BODY


class Sender:
    """Sends requests. Thread-safe.

    check_address: called with the address and port of each direct connection; raises to prevent it. use_proxy:
    whether the proxies of the environment apply.
    """

    def __init__(
        self,
        check_address: Callable[[str, int], None] = allow_any_address,
        *,
        use_proxy: bool = True,
    ) -> None:
        self._use_proxy = use_proxy
        self._limit = BodyLimit(MAX_BODY, truncate=True)
        self._direct = use_bounded_connections(
            urllib3.PoolManager(maxsize=MAX_CONCURRENT), self._limit, check_address
        )
        self._proxied: dict[str, urllib3.ProxyManager] = {}
        self._lock = threading.Lock()

    def send(
        self,
        destination: Destination,
        method: str,
        headers: Mapping[str, str],
        body: bytes | None,
        seconds: float,
    ) -> Response:
        """Send one request and read its response.

        seconds: for the whole exchange. Raises urllib3's HTTPError, OSError, ValueError, and the errors of
        ``check_address``.
        """
        if body is None and method in _METHODS_WITH_BODY:
            body = b""  # servers expect Content-Length: 0
        agent = {} if "user-agent" in map(str.lower, headers) else {"User-Agent": "tiercel"}
        response = self._pools(destination).urlopen(
            method, destination.url, headers={**agent, **headers}, body=body, retries=False, redirect=False,
            timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT, seconds), total=seconds),
        )  # fmt: skip
        return Response(response.status, response.headers, response.data or b"")

    def _pools(self, destination: Destination) -> urllib3.PoolManager:
        proxy = proxy_for(destination) if self._use_proxy else None
        if proxy is None:
            return self._direct
        with self._lock:
            if proxy not in self._proxied:
                login = proxy_credentials(proxy)
                headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
                pools = urllib3.ProxyManager(proxy, maxsize=MAX_CONCURRENT, proxy_headers=headers)
                self._proxied[proxy] = use_bounded_connections(pools, self._limit)  # type: ignore[assignment]  # the same object
            return self._proxied[proxy]
