"""Access to a port without credentials: only for programs on the same machine.

The peer address alone is not sufficient. A browser on the machine sends requests for web pages of other
origins, and an attacker's DNS name can resolve to loopback. A service mesh delivers requests of other
machines from 127.0.0.6.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from engine.server.messages import json_reply

if TYPE_CHECKING:
    from engine.server.messages import Reply, Request

_LOOPBACK_PEERS = frozenset(("127.0.0.1", "::1", "::ffff:127.0.0.1"))
"""Peer addresses of local programs, in the format of getpeername(2). The last one is IPv4-mapped."""
_LOOPBACK_HOST = re.compile(rb"(?:(localhost)\.?|([0-9.]+)|\[([0-9a-f:.]+)\])(?::[0-9]*)?")
"""Hosts that can be loopback, in lower case: uri-host [":" port] (RFC 9110, section 7.2)."""


class LoopbackOnly:
    """Gives access to programs on the same machine. hint: how other clients get access."""

    def __init__(self, hint: str) -> None:
        self._hint = hint

    def reject(self, request: Request) -> Reply | None:
        """Return 403 with the reason, or None for a program on the same machine."""
        reason = _reason(request)
        return json_reply(403, {"error": reason, "hint": self._hint}) if reason else None


def _reason(request: Request) -> str | None:
    if not request.client or request.client[0] not in _LOOPBACK_PEERS:
        return "this port has no credentials and answers only 127.0.0.1 and ::1"
    for name in request.headers:
        if name == b"origin" or name.startswith(b"sec-fetch-"):
            return f"requests for web pages are refused (header {name.decode('latin-1')[:40]})"
    if not _is_loopback(request.headers.get(b"host", b"").lower()):
        return "the Host of the request is not localhost, 127.0.0.1 or [::1]"
    return None


def _is_loopback(host: bytes) -> bool:
    """Return whether a host, with or without port, is ``localhost`` or a loopback address."""
    match = _LOOPBACK_HOST.fullmatch(host)
    if not match:
        return False
    if match[1]:
        return True
    try:
        address = ipaddress.ip_address((match[2] or match[3]).decode())
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
