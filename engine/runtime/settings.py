"""Every knob once: from flags and ``TIERCEL_…`` into one frozen Settings."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from engine.model.errors import RefusedError, SettingsError
from engine.model.own_identity import OwnIdentity
from engine.outbound.destination import canonical_host, parse_url

if TYPE_CHECKING:
    from pathlib import Path

    from engine.intake.redaction import Redaction


REDIS = "redis[s]://[user:password@]host[:port][/db][?key=NAME]"
NATS = "nats://[user:password@]host[:port] (or tls://…)"
_SCHEMES = {REDIS: ("redis", "rediss"), NATS: ("nats", "tls")}
_PATHS = {REDIS: re.compile(r"/?[0-9]*"), NATS: re.compile(r"/?")}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener stands."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name, which may be anyone's
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``tiercel serve`` was told. grace, retention: seconds; the rest as the flags' help says."""

    playbooks: Path
    values: Path | None
    listen: Address
    admin_listen: Address
    journal: Path
    kubeconfig: str | None
    context: str | None
    secrets_dir: Path | None
    token_file: Path | None
    path_secret_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    client_ca: Path | None
    operators_file: Path | None
    insecure_no_auth: bool
    workers: int
    slow_workers: int
    kube_qps: float
    dry_run: bool
    http_hosts: frozenset[str]
    grace: float
    retention: float
    record: Path | None
    nats: str | None
    redis: str | None
    follow: Path | None
    redaction: Redaction
    own: OwnIdentity = field(default_factory=OwnIdentity)


def host_list(text: str | None) -> frozenset[str] | None:
    """The hosts of a list with commas, each in its canonical form; None if there is no list.

    Raises SettingsError for an entry that is not a host, host:port or *.suffix.
    """
    if text is None:
        return None
    return frozenset(_listed(host.strip()) for host in text.split(",") if host.strip())


def _listed(entry: str) -> str:
    """An entry of a list of hosts in the form to which ``check_host`` compares."""
    wild = "*." if entry.startswith("*.") else ""
    name = entry.removeprefix(wild)
    if canonical_host(name):
        return f"{wild}{canonical_host(name)}"
    try:
        if not wild and "/" not in entry:
            return parse_url(f"http://{entry}").authority
    except RefusedError:
        pass
    raise SettingsError(f"--http-hosts: `{entry}` is not HOST, HOST:PORT or *.SUFFIX")


def address(text: str) -> Address:
    """The address of ``HOST:PORT`` or ``[IPv6]:PORT``. Raises SettingsError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or not host:  # noqa: PLR2004 - TCP
        raise SettingsError(f"`{text}` is no HOST:PORT, like 127.0.0.1:8080")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def server(flag: str, text: str | None, form: str) -> str | None:
    """The URL of a server, of the form REDIS or NATS; None where there is none.

    Raises SettingsError, which says nothing of the text: what is wrong may be its password, with a ``#`` or
    ``/`` in it that nobody wrote as ``%23`` or ``%2F``.
    """
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        fits = parts.hostname and parts.port != 0 and parts.scheme in _SCHEMES[form]
    except ValueError:
        fits = False
    if not fits or not _PATHS[form].fullmatch(parts.path) or "@" in parts.query or "#" in text:
        raise SettingsError(
            f"{flag} is no {form}; in a password %23 is #, %2F is /, %3F is ?, %40 is @"
        )
    return text
