"""TLS on the event port: its certificate, and the authority of client certificates.

cert-manager renews certificates, and the kubelet replaces their files while the engine runs. A new pair gets
a new context: ``load_cert_chain`` on the context in use would break it if the key does not match, and could
not remove an authority. Open connections keep their context.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from engine.server.reloading_file import ReloadingFile

if TYPE_CHECKING:
    from pathlib import Path


class Certificates:
    """The certificate of the port, and the authority of client certificates if they are required.

    The constructor raises OSError, and ValueError if a file is not PEM or the key does not match. After a
    later error the last valid pair stays in use.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        files = (cert, key, client_ca) if client_ca else (cert, key)
        self._authority = client_ca and ReloadingFile(
            "client authority", (client_ca,), lambda: _read_authority(client_ca), fallback=""
        )
        self._loaded = ReloadingFile("certificates", files, lambda: self._load(cert, key))

    def context(self) -> ssl.SSLContext:
        """Return the context for the next handshake. It is a new one after the files have changed."""
        return self._loaded.current()[0]

    def authority_in_use(self) -> bool:
        """Return whether new handshakes use the authority that is in the file now."""
        if not self._authority:
            return True
        authority = self._authority.current()
        return authority != "" and self._loaded.current()[1] == authority

    def _load(self, cert: Path, key: Path) -> tuple[ssl.SSLContext, str | None]:
        """Return a context, and the PEM of the authority that it trusts."""
        context = _context(cert, key)
        if not self._authority:
            return context, None
        authority = self._authority.current()
        if not authority:
            raise ValueError("no client authority")
        context.load_verify_locations(cadata=authority)
        context.verify_mode = ssl.CERT_REQUIRED
        return context, authority


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    for file in (cert, key):
        file.open(
            "rb"
        ).close()  # raises an OSError with the name of the file; load_cert_chain does not
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could use it to keep the engine busy
    context.set_alpn_protocols(["http/1.1"])
    try:
        # without a password OpenSSL asks for one on the terminal
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"the key {key} does not match the certificate {cert}") from None
        raise ValueError(
            f"{cert} and {key} are not a PEM certificate and its key without a password "
            f"({error.reason or 'unreadable'})"
        ) from None
    return context


def _read_authority(client_ca: Path) -> str:
    """Return the PEM of the authority. Raises OSError, ValueError."""
    content = client_ca.read_bytes()
    try:
        text = content.decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{client_ca} is not a PEM file of certificates") from None
    return text
