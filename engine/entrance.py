"""Who is let in and where, as the settings say: sockets, tokens, certificates, operators."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from engine.settings import SettingsError
from engine.sources.credentials import Credentials
from engine.sources.operators import OnThisMachine, Operators
from engine.sources.tls import Certificates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.settings import Address, Settings
    from engine.sources.admin import Door

_BACKLOG = 2048


def credentials(settings: Settings) -> Credentials | None:
    """What senders show. Raises SettingsError where others could reach the port without any."""
    if settings.token_file or settings.path_secret_file:
        try:
            return Credentials(settings.token_file, settings.path_secret_file)
        except (OSError, ValueError) as error:
            raise SettingsError(f"--token-file, --path-secret-file: {error}") from None
    asked = settings.client_ca or settings.insecure_no_auth
    if not settings.listen.loopback and not asked:
        raise SettingsError(
            f"--listen {settings.listen} is open to others and nobody would be asked for a token: "
            "give --token-file FILE, --path-secret-file FILE or --client-ca FILE, or --insecure-no-auth "
            "where a mesh guards it"
        )
    return None


def certificates(settings: Settings) -> Certificates | None:
    """The event port's; None without TLS. Raises SettingsError."""
    cert, key, authority = settings.tls_cert, settings.tls_key, settings.client_ca
    if cert is None or key is None:
        if cert or key or authority:
            raise SettingsError("TLS wants --tls-cert FILE and --tls-key FILE, both")
        return None
    try:
        return Certificates(cert, key, authority)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--tls-cert, --tls-key, --client-ca: {error}") from None


def operators(settings: Settings) -> Door:
    """Who may use the admin port. Raises SettingsError."""
    if settings.operators_file is None:
        return OnThisMachine()
    try:
        return Operators(settings.operators_file)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--operators-file: {error}") from None


@contextlib.contextmanager
def listening(address: Address) -> Iterator[socket.socket]:
    """A listening socket; port 0 takes a free one. Raises SettingsError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (address.host, address.port), family=family, backlog=_BACKLOG, reuse_port=False
        )
    except OSError as error:
        raise SettingsError(f"cannot listen on {address}: {error.strerror}") from None
    with listener:
        yield listener


def url(listener: socket.socket, *, tls: bool = False) -> str:
    """Where a socket listens."""
    host, port = listener.getsockname()[:2]
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"
