"""Access to the event port: a token in a header, a secret in the path, or a client certificate.

Falcosidekick's webhook can send any header. Falco's own http_output and Falcosidekick's Talon output can
send none, but both take an address with ``user:password@`` in it, or with any path.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Protocol

from engine.server.credentials_file import SHORTEST, CredentialsFile
from engine.server.messages import json_reply

if TYPE_CHECKING:
    from pathlib import Path

    from engine.server.messages import Reply, Request
    from engine.server.tls import Certificates

_AS_IT_IS = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:@-]+")
"""Characters that stand for themselves in a segment of a path: RFC 3986, section 3.3."""


class Access(Protocol):
    """Decides by the head of a request whether its sender has access."""

    def reject(self, request: Request) -> Reply | None:
        """The reply to a request without access; None to go on. Must not block."""
        ...


class Credentials:
    """Gives access to senders of a token or path secret in one of the files, as they are now.

    tokens: bearer tokens, one per line; also accepted as the password of Basic. path_secrets: secrets, one
    per line; one of them is the last segment of the path. Raises OSError or ValueError; see CredentialsFile.
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
        """401 without a valid token or path secret."""
        last = request.path.rstrip("/").rpartition("/")[2].encode("utf-8", "surrogateescape")
        token = _token(request.headers.get(b"authorization", b""))
        shown = [
            _among(known.now(), secret)
            for known, secret in ((self._tokens, token), (self._paths, last))
            if known
        ]
        return None if any(shown) else _unauthorized("no valid token", self._hint)


class ClientCertificates:
    """Refuses all requests while the authority of --client-ca is missing, empty or not yet in use."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    def reject(self, request: Request) -> Reply | None:
        """401 while no client certificate can be trusted; the handshake verifies the rest."""
        del request
        if self._certificates.trusted():
            return None
        return _unauthorized("no client certificate is trusted", "see --client-ca")


def _unauthorized(error: str, hint: str) -> Reply:
    return json_reply(401, {"error": error, "hint": hint}, (b"www-authenticate", b"Bearer"))


def _among(known: tuple[bytes, ...], secret: bytes) -> bool:
    """Whether the secret is a known one; compares all digests in constant time."""
    given = hashlib.sha256(secret).digest()
    return any([hmac.compare_digest(given, one) for one in known])  # noqa: C419 - a list: no early end


def _token(authorization: bytes) -> bytes:
    """The token of a header; empty if it has none."""
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
    if len(line) < SHORTEST:
        raise ValueError(
            f"a token must have at least {SHORTEST} characters; `openssl rand -hex 32` makes one"
        )
    return hashlib.sha256(line).digest()


def _path_digest(line: bytes) -> bytes:
    if len(line) < SHORTEST or not _AS_IT_IS.fullmatch(line):
        raise ValueError(
            f"a path secret must have at least {SHORTEST} characters that need no escape in a path; "
            "`openssl rand -hex 32` makes one"
        )
    return hashlib.sha256(line).digest()
