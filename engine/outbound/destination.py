"""URLs: parse them, and check their hosts and addresses against ``--http-hosts``.

A URL is parsed once. The same parsed host is checked and connected to, so that two parsers cannot disagree
about it.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

import msgspec

from engine.model.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_USERINFO = re.compile(r"(?<=//)[^/?#]*@")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_REFUSED_NETWORKS = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host, RFC 1122
        "169.254.0.0/16",  # link-local, RFC 3927; the metadata servers of AWS, Azure, Google and others
        "100.100.100.200/32",  # the metadata server of Alibaba Cloud
        "192.0.0.192/32",  # the metadata server of Oracle Cloud
        "168.63.129.16/32",  # the host agent of Azure
        "::/128",  # this host
        "fe80::/10",  # link-local, RFC 4291
        "fd00:ec2::254/128",  # the metadata server of AWS
        "fd20:ce::254/128",  # the metadata server of Google Cloud
    )
)
_IPV4_EMBEDDING = (IPv6Network("::/96"), IPv6Network("64:ff9b::/96"))
"""IPv6 networks whose last 32 bits are an IPv4 address: IPv4-compatible (RFC 4291) and NAT64 (RFC 6052)."""


def mask_userinfo(url: str) -> str:
    """Return a URL with ``***`` in place of user and password, for messages."""
    return _USERINFO.sub("***@", url)


class Destination(msgspec.Struct, frozen=True):
    """A parsed http(s) URL.

    host: a name of ``[a-z0-9.-]``, or an IP address in canonical form without brackets.
    target: path and query as they are sent; begins with ``/``.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """``host:port``, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def host_header(self) -> str:
        """The value of the Host header: without the port if it is the default of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL, rebuilt from its parts."""
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_url(url: str) -> Destination:
    """Parse a URL. Raises RefusedError; its message does not contain the URL."""
    found = _URL.fullmatch(url)
    if not found:
        raise RefusedError("the URL must begin with http:// or https:// and contain a host")
    scheme, authority, target = found[1].lower(), found[2], found[3]
    if "@" in authority:
        raise RefusedError("the URL must not contain a user or a password")
    parts = _AUTHORITY.fullmatch(authority)
    host = canonical_host(parts[1]) if parts else None
    if not parts or host is None:
        raise RefusedError(
            "the URL does not contain a valid host (letters, digits, - and ., or an IP address)"
        )
    port = int(parts[2]) if parts[2] else _DEFAULT_PORTS[scheme]
    if not 0 < port < 65536:  # noqa: PLR2004 - TCP
        raise RefusedError("the URL does not have a valid port")
    if not all("!" <= letter <= "~" for letter in target):
        raise RefusedError("the URL has characters that must be percent-encoded")
    return Destination(scheme, host, port, target if target.startswith("/") else f"/{target}")


def canonical_host(text: str) -> str | None:
    """Return the canonical form of a host, or None if the text is not a host.

    Names are converted with IDNA to lower case without a final dot. An IPv6 address may have brackets; an
    IPv4-mapped address becomes the IPv4 address. Decimal, octal, hexadecimal and short forms of IPv4 addresses
    are not hosts.
    """
    try:
        if text.startswith("[") or ":" in text:
            address = IPv6Address(text.removeprefix("[").removesuffix("]"))
            return None if address.scope_id else str(address.ipv4_mapped or address)
        name = text.encode("idna").decode("ascii").lower().removesuffix(".")
        if _NUMBER.fullmatch(name.rpartition(".")[2]):
            return str(IPv4Address(name))
    except ValueError:
        return None
    return name if _NAME.fullmatch(name) else None


def check_host(destination: Destination, hosts: frozenset[str] | None) -> None:
    """Raise RefusedError if ``--http-hosts`` does not list the host.

    hosts: names or addresses, each with or without ``:port``, or ``*.suffix`` for exactly one more label. None
    allows every host.
    """
    if hosts is None or hosts & {destination.host, destination.authority}:
        return
    if _address(destination.host) is None and f"*.{destination.host.partition('.')[2]}" in hosts:
        return
    raise RefusedError(f"{destination.host} is not in --http-hosts")


def address_check(hosts: frozenset[str]) -> Callable[[str, int], None]:
    """Return a check for ``dial`` that raises RefusedError for a forbidden address.

    Forbidden are the unspecified address, link-local addresses and the addresses of metadata servers, also
    inside an IPv6 address, unless ``hosts`` contains the address itself.
    """

    def check(address: str, port: int) -> None:
        parsed = ip_address(address.partition("%")[0])
        for one in _with_embedded(parsed):
            shown = f"[{one}]:{port}" if one.version == 6 else f"{one}:{port}"  # noqa: PLR2004 - IP
            if any(one in network for network in _REFUSED_NETWORKS) and not hosts & {
                str(one),
                shown,
            }:
                raise RefusedError(
                    f"the host resolves to {one}, a link-local address or a metadata server; "
                    "to allow it, add the address to --http-hosts"
                )

    return check


def _with_embedded(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    """Yield an address and the IPv4 addresses that are embedded in it."""
    yield address
    if isinstance(address, IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if any(address in network for network in _IPV4_EMBEDDING) and int(address) > 1:
            inner.append(IPv4Address(int(address) & 0xFFFF_FFFF))
        yield from (one for one in inner if one is not None)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """Return a host as an IP address, or None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None
