"""TLS on the event port: its certificate, and whose certificates senders must show.

cert-manager renews certificates and the kubelet swaps them under us. A new pair makes a whole new context:
``load_cert_chain`` on the one in use would leave it broken where the key does not fit, and could not take
an authority away. Connections that are open keep the context that they began with.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from engine.sources.reread import Reread

if TYPE_CHECKING:
    from pathlib import Path


class Certificates:
    """The pair of the port, and the authority of senders' certificates, where they must show one.

    Raises OSError, and ValueError where a file holds no such thing or the key does not fit.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        files = (cert, key, client_ca) if client_ca else (cert, key)
        self._loaded = Reread("certificates", files, lambda: _load(cert, key, client_ca))

    def context(self) -> ssl.SSLContext:
        """For the next handshake; another one once the files have changed."""
        return self._loaded.now()


def _load(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    for file in (cert, key):
        file.open("rb").close()  # says which file it is, which load_cert_chain does not
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could keep us busy with it
    context.set_alpn_protocols(["http/1.1"])
    try:
        # a password of our own, for OpenSSL asks the terminal for one else
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"the key {key} does not fit the certificate {cert}") from None
        raise ValueError(
            f"{cert} and {key} are no PEM of a certificate and its key without a password "
            f"({error.reason or 'unreadable'})"
        ) from None
    if client_ca:
        _require(context, client_ca)
    return context


def _require(context: ssl.SSLContext, client_ca: Path) -> None:
    """Let in only whose certificate the authority has signed."""
    authorities = client_ca.read_bytes()
    try:
        context.load_verify_locations(cadata=authorities.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{client_ca} is no PEM of certificates") from None
    context.verify_mode = ssl.CERT_REQUIRED
