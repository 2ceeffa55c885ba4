"""Sockets and authentication of the two ports, according to the settings."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.cluster.access_reviews import AccessReviews
from engine.cluster.client import KubernetesCluster, connect
from engine.cluster.kubeconfig import ConnectionSettingsError
from engine.model.errors import SettingsError, TemporaryError, file_error
from engine.server.kubernetes_operators import THREADS, KubernetesOperators
from engine.server.loopback_access import LoopbackOnly
from engine.server.operator_auth import (
    LoopbackAuthenticator,
    OperatorsFile,
    TokenAuthenticator,
)
from engine.server.sender_auth import ClientCertificates, SecretCheck
from engine.server.tls import Certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.runtime.settings import Address, Settings
    from engine.server.operator_auth import Authenticator
    from engine.server.sender_auth import SenderCheck

_BACKLOG = 2048
REVIEW_QPS = 20.0
"""Reviews of tokens and rights a second. People do not need more, and wrong tokens must not get more."""


@dataclass(frozen=True, slots=True)
class Access:
    """The TLS certificates and the authentication of both ports. operators: the operators file, if any."""

    certificates: Certificates | None
    sender_checks: tuple[SenderCheck, ...]
    authenticator: Authenticator
    operators: OperatorsFile | None = None


def load_access(settings: Settings) -> Access:
    """Read the certificates and the credentials. Raises SettingsError."""
    certificates = load_certificates(settings)
    checks, operators = sender_checks(settings, certificates), operators_file(settings)
    return Access(certificates, checks, authenticator(settings, operators), operators)


def sender_checks(settings: Settings, certificates: Certificates | None) -> tuple[SenderCheck, ...]:
    """Return the checks of a request to the event port, empty if every sender has access.

    Raises SettingsError if the port is reachable from other machines and has no credentials.
    """
    checks: list[SenderCheck] = []
    if certificates and settings.client_ca:
        checks.append(ClientCertificates(certificates))
    if settings.token_file or settings.path_secret_file:
        try:
            checks.append(SecretCheck(settings.token_file, settings.path_secret_file))
        except (OSError, ValueError) as error:
            raise SettingsError(f"--token-file, --path-secret-file: {file_error(error)}") from None
    if checks or settings.insecure_no_auth:
        return tuple(checks)
    if not settings.listen.loopback:
        raise SettingsError(
            f"--listen {settings.listen} is open to other machines and asks for no credentials: "
            "give --token-file FILE, --path-secret-file FILE or --client-ca FILE, or --insecure-no-auth "
            "where a mesh guards it"
        )
    return (LoopbackOnly("give senders tokens: --token-file; --insecure-no-auth lets everyone in"),)


def load_certificates(settings: Settings) -> Certificates | None:
    """Return the certificates of the event port, None without TLS. Raises SettingsError."""
    cert, key, authority = settings.tls_cert, settings.tls_key, settings.client_ca
    if cert is None or key is None:
        if cert or key or authority:
            raise SettingsError("TLS needs both --tls-cert FILE and --tls-key FILE")
        return None
    try:
        return Certificates(cert, key, authority)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--tls-cert, --tls-key, --client-ca: {file_error(error)}") from None


def operators_file(settings: Settings) -> OperatorsFile | None:
    """Return the operators file, or None without one. Raises SettingsError."""
    if settings.operators_file is None:
        return None
    try:
        return OperatorsFile(settings.operators_file)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--operators-file: {file_error(error)}") from None


def authenticator(settings: Settings, operators: OperatorsFile | None) -> Authenticator:
    """Return the authenticator of the admin port. Raises SettingsError."""
    if settings.kubernetes_operators:
        if not settings.has_cluster:
            raise SettingsError(
                "--kubernetes-operators needs an API server: give --kubeconfig FILE, or run in a pod"
            )
        reviews = AccessReviews(_reviewing_cluster(settings), settings.kubernetes_audience)
        return KubernetesOperators(reviews, operators, settings.own.user)
    if settings.kubernetes_audience:
        raise SettingsError("--kubernetes-audience is only for --kubernetes-operators")
    return TokenAuthenticator(operators) if operators else LoopbackAuthenticator()


def _reviewing_cluster(settings: Settings) -> Callable[[], KubernetesCluster]:
    """Return a function that connects at its first call. Connecting again after an error is allowed."""

    @functools.cache
    def cluster() -> KubernetesCluster:
        try:
            return connect(settings.kubeconfig, settings.context, REVIEW_QPS, THREADS)
        except ConnectionSettingsError as error:
            raise TemporaryError(str(error)) from None

    return cluster


@contextlib.contextmanager
def listen(address: Address) -> Iterator[socket.socket]:
    """Open a listening socket. Port 0 selects a free port. Raises SettingsError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (address.host, address.port), family=family, backlog=_BACKLOG, reuse_port=False
        )
    except OSError as error:
        # a name that cannot be resolved has a number that os.strerror does not know
        code = error.errno or 0
        reason = os.strerror(code) if code > 0 else error.strerror
        raise SettingsError(
            f"cannot listen on {address}: {reason}; choose another --listen or --admin-listen HOST:PORT"
        ) from None
    with listener:
        yield listener


def url(listener: socket.socket, *, tls: bool = False) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"
