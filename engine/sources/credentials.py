"""What a sender shows to be let in: a token in a header, or a secret in the path.

Falcosidekick's webhook can send any header. Falco's own http_output and Falcosidekick's Talon output can
send none, but both take an address with ``user:password@`` in it, or with any path.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from engine.sources.reread import Reread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Digests = list[bytes]
SHORTEST = 16
"""Characters of a path's secret: `events` or `falco` would be none, and paths are guessed in masses."""
_AS_IT_IS = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:@-]+")
"""What stands for itself in a segment of a path: RFC 3986, section 3.3."""


class Credentials:
    """Lets in whom one of the files knows, which are read again when they change.

    tokens: bearer tokens, one a line; also good as the password of Basic. path_secrets: secrets, one a line,
    of which one is the last segment of the path. Raises OSError, and ValueError where a file has none.
    """

    def __init__(self, tokens: Path | None, path_secrets: Path | None = None) -> None:
        self._tokens = _reread("tokens", tokens, _digests)
        self._paths = _reread("path secrets", path_secrets, _path_digests)

    @property
    def hint(self) -> str:
        """How to be let in."""
        ways = []
        if self._tokens:
            ways.append("send one of the tokens of --token-file as `Authorization: Bearer …`")
        if self._paths:
            ways.append("post to a path that ends in a secret of --path-secret-file")
        return ", or ".join(ways)

    def allow(self, authorization: bytes, path: str) -> bool:
        """Whether a request with this Authorization header and path is let in."""
        last = path.rstrip("/").rpartition("/")[2].encode("utf-8", "surrogateescape")
        shown = [
            _among(known.now(), secret)
            for known, secret in ((self._tokens, _token(authorization)), (self._paths, last))
            if known
        ]
        return any(shown)


def _reread(
    name: str, file: Path | None, read: Callable[[Path], Digests]
) -> Reread[Digests] | None:
    return None if file is None else Reread(name, (file,), lambda: read(file))


def _among(known: Digests, secret: bytes) -> bool:
    """Whether the secret is one of those known; digests in constant time, and all of them, always."""
    given = hashlib.sha256(secret).digest()
    return any([hmac.compare_digest(given, one) for one in known])  # noqa: C419 - a list: no early end


def _token(authorization: bytes) -> bytes:
    """The token of a header; empty, which none is, where there is none."""
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


def _digests(file: Path) -> Digests:
    found = [hashlib.sha256(line).digest() for line in _lines(file)]
    if not found:
        raise ValueError(f"{file} has no token")
    return found


def _path_digests(file: Path) -> Digests:
    found = []
    for number, line in enumerate(_lines(file), 1):
        if len(line) < SHORTEST or not _AS_IT_IS.fullmatch(line):
            raise ValueError(
                f"{file}: secret {number} must have at least {SHORTEST} letters, digits and such as a "
                "path holds as they are; `openssl rand -hex 32` makes one"
            )
        found.append(hashlib.sha256(line).digest())
    if not found:
        raise ValueError(f"{file} has no secret")
    return found


def _lines(file: Path) -> list[bytes]:
    return [line.strip() for line in file.read_bytes().splitlines() if line.strip()]
