"""Requests to servers outside the cluster: http.request and notifications send through this module.

A request goes to its destination directly, or through the proxy of the environment. A proxy resolves the name
itself, so that then only the host is checked, not its addresses. Redirects are not followed. Imported late, with
the libraries it is for.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import urllib3

from engine.outbound.deadlines import CONNECT, any_address
from engine.outbound.fast_http import Bounds, with_fast_connections
from engine.outbound.proxy import credentials_of, proxy_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.outbound.destination import Destination

KEPT = 64 << 10
"""Bytes that are read of the body of an answer; a longer one is cut there."""
_WITH_BODY = ("POST", "PUT", "PATCH")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came. body: at most KEPT bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def cut(self) -> bool:
        """Whether the body may have been longer."""
        return len(self.body) >= KEPT


class Sender:
    """Sends requests; thread-safe. check_address: raises if no direct request may go to an address and port."""

    def __init__(self, check_address: Callable[[str, int], None] = any_address) -> None:
        self._bounds = Bounds(KEPT, cut=True)
        self._direct = with_fast_connections(urllib3.PoolManager(), self._bounds, check_address)
        self._proxied: dict[str, urllib3.ProxyManager] = {}
        self._lock = threading.Lock()

    def send(
        self,
        destination: Destination,
        method: str,
        headers: Mapping[str, str],
        body: bytes | None,
        seconds: float,
    ) -> Reply:
        """Send one request.

        seconds: for all of it. Raises urllib3's HTTPError, OSError, ValueError, and what the check raises.
        """
        if body is None and method in _WITH_BODY:
            body = b""  # servers expect Content-Length: 0
        agent = {} if "user-agent" in map(str.lower, headers) else {"User-Agent": "tiercel"}
        response = self._pools(destination).urlopen(
            method, destination.url, headers={**agent, **headers}, body=body, retries=False, redirect=False,
            timeout=urllib3.Timeout(connect=min(CONNECT, seconds), total=seconds),
        )  # fmt: skip
        return Reply(response.status, response.headers, response.data or b"")

    def _pools(self, destination: Destination) -> urllib3.PoolManager:
        proxy = proxy_for(destination)
        if proxy is None:
            return self._direct
        with self._lock:
            if proxy not in self._proxied:
                login = credentials_of(proxy)
                headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
                pools = urllib3.ProxyManager(proxy, proxy_headers=headers)
                self._proxied[proxy] = with_fast_connections(pools, self._bounds)  # type: ignore[assignment]  # the same object
            return self._proxied[proxy]
