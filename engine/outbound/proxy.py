"""The choice of a proxy from HTTP_PROXY, HTTPS_PROXY and NO_PROXY, in upper or lower case.

The rules are those of ``urllib.request``, which curl and Slack's SDK share. In addition NO_PROXY may contain
networks (10.0.0.0/8), as Kubernetes users write them.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import (  # type: ignore[attr-defined]  # typeshed has only the first
    getproxies_environment,
    proxy_bypass_environment,
)

if TYPE_CHECKING:
    from engine.outbound.destination import Destination


def proxy_for(destination: Destination) -> str | None:
    """Return the URL of the proxy for a destination, or None for a direct connection."""
    proxies = getproxies_environment()
    proxy = proxies.get(destination.scheme)
    if not proxy:
        return None
    if proxy_bypass_environment(destination.authority, proxies):
        return None
    if _in_networks(destination.host, proxies.get("no", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def proxy_credentials(proxy: str) -> str | None:
    """Return the decoded ``user:password`` of a proxy URL, or None if it has no user."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return None
    return f"{unquote(parts.username)}:{unquote(parts.password or '')}"


def _in_networks(host: str, no_proxy: str) -> bool:
    """Return whether a host is an IP address within one of the networks of NO_PROXY."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    for entry in no_proxy.split(","):
        try:
            if address in ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False
