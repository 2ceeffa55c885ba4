"""The destination of a connection: the remote address that an event names, or the one that a step gives."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from engine.language.operators import OperandError, address_of, network_of
from engine.model.errors import SkippedError

if TYPE_CHECKING:
    from engine.cluster.pods import Pod
    from engine.model.event import Event

_Address = IPv4Address | IPv6Address
_MAX_CONNECTION = 200
"""Characters of ``fd.name`` that are read. Two IPv6 addresses with ports have at most 104."""
_ARROW = "->"


def check_destination(text: str) -> str | None:
    """Return what is wrong with a destination as an author gives it, or None."""
    try:
        network = network_of(text)
    except OperandError as error:
        return f"is not an address or a network ({error.hint})"
    if network.prefixlen == 0:
        return "contains every address; use pod.isolate to cut off a pod"
    return None


def remote_network(event: Event, pod: Pod) -> str:
    """Return the remote address of the event's connection, as a network of one.

    The address is ``fd.rip`` or ``fd.sip`` if it is remote. Otherwise it is the side of ``fd.name`` that does
    not belong to the pod. Raises SkippedError if there is none.
    """
    own = _own_addresses(event, pod)
    for field in ("fd.rip", "fd.sip"):
        address = address_of(event.fields.get(field))
        if address is not None and _is_remote(address, own):
            return str(network_of(str(address)))
    sides = _sides(event.fields.get("fd.name"))
    remote = [one for one in sides if _is_remote(one, own)]
    if len(remote) == len(sides) and not own:
        remote = remote[-1:]  # the pod's own address is not known: the client is on the left
    if len(remote) != 1:
        raise SkippedError("the event does not name a remote address")
    return str(network_of(str(remote[0])))


def _own_addresses(event: Event, pod: Pod) -> set[_Address]:
    """Return the addresses of the pod: those of its status, and the local side of the connection."""
    status = pod.object.get("status") or {}
    listed = [one.get("ip") for one in status.get("podIPs") or [] if isinstance(one, dict)]
    known = map(address_of, [status.get("podIP"), *listed, event.fields.get("fd.lip")])
    return {address for address in known if address is not None}


def _is_remote(address: _Address, own: set[_Address]) -> bool:
    return not (address in own or address.is_loopback or address.is_unspecified)


def _sides(name: object) -> list[_Address]:
    """Return the two addresses of ``fd.name``: ``10.1.0.5:40000->192.0.2.7:443``, also with IPv6."""
    if not isinstance(name, str) or len(name) > _MAX_CONNECTION or name.count(_ARROW) != 1:
        return []
    sides = (address_of(_host(side)) for side in name.split(_ARROW))
    return [address for address in sides if address is not None]


def _host(side: str) -> str:
    """Return the address of ``192.0.2.7:443``, ``2001:db8::1:443`` or ``[2001:db8::1]:443``."""
    host, colon, port = side.strip().rpartition(":")
    is_port = bool(colon) and port.isascii() and port.isdigit()
    return (host if is_port else side).removeprefix("[").removesuffix("]")
