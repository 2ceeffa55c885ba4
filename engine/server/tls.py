"""TLS on the event port: its certificate, and whose certificates senders must show.

cert-manager renews certificates and the kubelet swaps them under us. A new pair makes a whole new context:
``load_cert_chain`` on the one in use would leave it broken where the key does not fit, and could not take
an authority away. Connections that are open keep the context that they began with.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from engine.server.reloading_file import ReloadingFile

if TYPE_CHECKING:
    from pathlib import Path


class Certificates:
    """The certificate of the port and the authority of the senders' certificates, where they must show one.

    Raises OSError, and ValueError if a file has no PEM or the key does not fit. Later the last valid pair
    stays, but ``trusted`` tells that the authority has changed.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        files = (cert, key, client_ca) if client_ca else (cert, key)
        self._authority = client_ca and ReloadingFile(
            "client authority", (client_ca,), lambda: _authorities(client_ca), closed=""
        )
        self._loaded = ReloadingFile("certificates", files, lambda: self._load(cert, key))

    def context(self) -> ssl.SSLContext:
        """For the next handshake; another one once the files have changed."""
        return self._loaded.now()[0]

    def trusted(self) -> bool:
        """Whether the authority of new handshakes is the one that the file contains now."""
        if not self._authority:
            return True
        authorities = self._authority.now()
        return authorities != "" and self._loaded.now()[1] == authorities

    def _load(self, cert: Path, key: Path) -> tuple[ssl.SSLContext, str | None]:
        """The context, and the authorities that it trusts."""
        context = _context(cert, key)
        if not self._authority:
            return context, None
        authorities = self._authority.now()
        if not authorities:
            raise ValueError("no client authority")
        context.load_verify_locations(cadata=authorities)
        context.verify_mode = ssl.CERT_REQUIRED
        return context, authorities


def _context(cert: Path, key: Path) -> ssl.SSLContext:
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
    return context


def _authorities(client_ca: Path) -> str:
    """The PEM of the authorities. Raises OSError, ValueError."""
    authorities = client_ca.read_bytes()
    try:
        text = authorities.decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{client_ca} is not a PEM of certificates") from None
    return text
