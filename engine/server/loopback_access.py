"""Which requests a port without credentials answers: those of programs on the same machine.

The address alone does not tell. A browser on the machine sends requests for web pages of other origins, and
a DNS name of an attacker can lead to loopback. A service mesh delivers requests of other machines from
127.0.0.6.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from engine.server.messages import json_reply

if TYPE_CHECKING:
    from engine.server.messages import Reply, Request

_CALLERS = frozenset(("127.0.0.1", "::1", "::ffff:127.0.0.1"))
"""Peer addresses of programs on this machine, as getpeername(2) gives them; the last is IPv4-mapped."""
_AUTHORITY = re.compile(rb"(?:(localhost)\.?|([0-9.]+)|\[([0-9a-f:.]+)\])(?::[0-9]*)?")
"""The forms of a host that can be loopback, in lower case: uri-host [":" port], RFC 9110 section 7.2."""


class LocalPrograms:
    """Refuses requests that do not come from a program on the same machine. hint: how to get access."""

    def __init__(self, hint: str) -> None:
        self._hint = hint

    def reject(self, request: Request) -> Reply | None:
        """403 with the reason; None for a program on the same machine."""
        reason = _reason(request)
        return json_reply(403, {"error": reason, "hint": self._hint}) if reason else None


def _reason(request: Request) -> str | None:
    if not request.client or request.client[0] not in _CALLERS:
        return "this port has no credentials and answers only 127.0.0.1 and ::1"
    for name in request.headers:
        if name == b"origin" or name.startswith(b"sec-fetch-"):
            return f"requests for web pages are refused (header {name.decode('latin-1')[:40]})"
    if not _is_loopback(request.headers.get(b"host", b"").lower()):
        return "the Host of the request is not localhost, 127.0.0.1 or [::1]"
    return None


def _is_loopback(authority: bytes) -> bool:
    """Whether a host (with or without port) is ``localhost`` or the text of a loopback address."""
    found = _AUTHORITY.fullmatch(authority)
    if not found:
        return False
    if found[1]:
        return True
    try:
        address = ipaddress.ip_address((found[2] or found[3]).decode())
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
