"""Authentication on the event port: by a token in a header, a secret in the path, or a client certificate.

Falcosidekick's webhook can send any header. Falco's own http_output and Falcosidekick's Talon output cannot
send headers, but both accept an address with ``user:password@`` in it, or with any path.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Protocol

from engine.server.credentials_file import MIN_LENGTH, CredentialsFile
from engine.server.messages import unauthorized

if TYPE_CHECKING:
    from pathlib import Path

    from engine.server.messages import Reply, Request
    from engine.server.tls import Certificates

_UNESCAPED = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:@-]+")
"""Characters that need no escape in a segment of a path (RFC 3986, section 3.3)."""


class SenderCheck(Protocol):
    """Decides by the head of a request whether its sender has access."""

    def reject(self, request: Request) -> Reply | None:
        """Return the reply to a request without access, else None. Must not block."""
        ...


class SecretCheck:
    """Gives access to senders with a token or path secret from the current files.

    tokens: file of bearer tokens, one per line; a token is also accepted as the password of Basic.
    path_secrets: file of secrets, one per line; the last segment of the path must be one of them.
    Raises OSError or ValueError; see CredentialsFile.
    """

    def __init__(self, tokens: Path | None, path_secrets: Path | None = None) -> None:
        self._tokens = tokens and CredentialsFile("tokens", tokens, _token_digest)
        self._paths = path_secrets and CredentialsFile("path secrets", path_secrets, _path_digest)
        ways = []
        if tokens:
            ways.append("send one of the tokens of --token-file as `Authorization: Bearer …`")
        if path_secrets:
            ways.append("post to a path that ends in a secret of --path-secret-file")
        self._hint = ", or ".join(ways)

    def reject(self, request: Request) -> Reply | None:
        """Return 401 without a valid token or path secret, else None."""
        segment = request.path.rstrip("/").rpartition("/")[2].encode("utf-8", "surrogateescape")
        token = _token(request.headers.get(b"authorization", b""))
        # both are compared, so that the time does not show which one is used
        valid = [
            _is_known(file.current(), secret)
            for file, secret in ((self._tokens, token), (self._paths, segment))
            if file
        ]
        return None if any(valid) else unauthorized("no valid token", self._hint)


class ClientCertificates:
    """Rejects all requests while the authority of --client-ca is missing, empty or not yet in use."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    def reject(self, request: Request) -> Reply | None:
        """Return 401 while no client certificate can be trusted. The TLS handshake checks the rest."""
        del request
        if self._certificates.authority_in_use():
            return None
        return unauthorized("no client certificate is trusted", "see --client-ca")


def _is_known(digests: tuple[bytes, ...], secret: bytes) -> bool:
    """Return whether the digest of the secret is among the digests, in constant time."""
    digest = hashlib.sha256(secret).digest()
    return any([hmac.compare_digest(digest, one) for one in digests])  # noqa: C419 - no early end


def _token(authorization: bytes) -> bytes:
    """Return the token of an Authorization header, empty if it has none."""
    scheme, _, rest = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() != b"basic":
        return b""
    try:
        pair = base64.b64decode(rest.strip(), validate=True)
    except binascii.Error:
        return b""
    return pair.partition(b":")[2]


def _token_digest(line: bytes) -> bytes:
    if len(line) < MIN_LENGTH:
        raise ValueError(
            f"a token must have at least {MIN_LENGTH} characters; `openssl rand -hex 32` makes one"
        )
    return hashlib.sha256(line).digest()


def _path_digest(line: bytes) -> bytes:
    if len(line) < MIN_LENGTH or not _UNESCAPED.fullmatch(line):
        raise ValueError(
            f"a path secret must have at least {MIN_LENGTH} characters that need no escape in a path; "
            "`openssl rand -hex 32` makes one"
        )
    return hashlib.sha256(line).digest()
