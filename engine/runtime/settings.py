"""The settings of ``tiercel serve``, from flags and ``TIERCEL_…`` variables."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from engine.model.errors import RefusedError, SettingsError
from engine.model.own_identity import OwnIdentity
from engine.outbound.destination import canonical_host, parse_url

if TYPE_CHECKING:
    from pathlib import Path

    from engine.artifacts.url import ArtifactUrl
    from engine.intake.redaction import Redaction


SLACK_API = "https://slack.com/api/"
POSTGRESQL = ("postgresql://", "postgres://")
"""The URL schemes of a journal in PostgreSQL."""
REDIS = "redis[s]://[user:password@]host[:port][/db][?key=NAME]"
NATS = "nats://[user:password@]host[:port] (or tls://…)"
_SCHEMES = {REDIS: ("redis", "rediss"), NATS: ("nats", "tls")}
_PATHS = {REDIS: re.compile(r"/?[0-9]*"), NATS: re.compile(r"/?")}


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a listener."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether the address is reachable only from this machine."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a DNS name can be any address
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of ``tiercel serve``. grace, retention: seconds. The help of the flags describes the rest.

    journal_url: of a PostgreSQL database; then ``journal`` is not used. spool: only with it. replica: a name for
    this engine.
    """

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
    artifact_stores: tuple[ArtifactUrl, ...]
    grace: float
    retention: float
    record: Path | None
    nats: str | None
    redis: str | None
    follow: Path | None
    redaction: Redaction
    own: OwnIdentity = field(default_factory=OwnIdentity)
    journal_url: str | None = None
    journal_password_file: Path | None = None
    spool: Path | None = None
    replica: str = field(default_factory=lambda: f"{socket.gethostname()}-{secrets.token_hex(2)}")
    kubernetes_operators: bool = False
    kubernetes_audience: str | None = None
    slack_app_token_file: Path | None = None
    slack_api: str = SLACK_API

    @property
    def has_cluster(self) -> bool:
        """Whether a cluster is given, or the engine runs in one."""
        return bool(self.kubeconfig or self.context or "KUBERNETES_SERVICE_HOST" in os.environ)


def host_list(text: str | None) -> frozenset[str] | None:
    """Return the hosts of a comma-separated list in canonical form, None if there is no list.

    Raises SettingsError for an entry that is not a host, host:port or *.suffix.
    """
    if text is None:
        return None
    return frozenset(_parse_host(host.strip()) for host in text.split(",") if host.strip())


def _parse_host(entry: str) -> str:
    """Return an entry of a host list in the form that ``check_host`` compares. Raises SettingsError."""
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
    """Parse ``HOST:PORT`` or ``[IPv6]:PORT``. Raises SettingsError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or not host:  # noqa: PLR2004 - TCP
        raise SettingsError(f"`{text}` is not HOST:PORT (example: 127.0.0.1:8080)")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def slack_api(text: str) -> str:
    """Check the URL of Slack's Web API. Return it with a slash at the end. Raises SettingsError.

    Without TLS it must be on this machine, because it gets tokens.
    """
    try:
        found = parse_url(text)
    except RefusedError as error:
        raise SettingsError(f"--slack-api: {error}, like {SLACK_API}") from None
    if found.scheme != "https" and not Address(found.host, found.port).loopback:
        raise SettingsError(f"--slack-api begins with https://, like {SLACK_API}")
    return found.url.removesuffix("/") + "/"


def server(flag: str, text: str | None, form: str) -> str | None:
    """Check the URL of a server. form: REDIS or NATS. Return the URL, None if there is none.

    Raises SettingsError. The message does not contain the URL, because the invalid part can be the password,
    with a ``#`` or ``/`` that is not escaped as ``%23`` or ``%2F``.
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
            f"{flag} is not {form}; in a password %23 is #, %2F is /, %3F is ?, %40 is @"
        )
    return text
