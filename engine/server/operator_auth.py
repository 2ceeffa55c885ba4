"""Authentication on the admin port: by the tokens of the operators file, or for programs on this machine.

The file has one operator per line: ``NAME ROLE SHA256``. The last word is the hex digest of the operator's
token: ``printf %s "$TOKEN" | sha256sum``. The tokens of event senders are in another file and give no access
here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

from engine.server.credentials_file import MIN_LENGTH, CredentialsFile
from engine.server.loopback_access import LoopbackOnly
from engine.server.messages import json_reply

if TYPE_CHECKING:
    from pathlib import Path

    from engine.server.messages import Reply, Request

Role = Literal["view", "operate"]
ROLES = ("view", "operate")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Operator:
    """A person or program that may read (role ``view``), or also act (role ``operate``)."""

    name: str
    role: Role


LOCAL_OPERATOR = Operator("local", "operate")
"""Each program on this machine, if there is no operators file."""


class Authenticator(Protocol):
    """Finds the operator who sent a request."""

    def authenticate(self, request: Request) -> Operator | Reply:
        """Return the operator, or the reply to a request without access."""
        ...


class TokenAuthenticator:
    """Authenticates the operators of a file. Raises OSError or ValueError; see CredentialsFile."""

    def __init__(self, file: Path) -> None:
        self._operators = CredentialsFile("operators", file, _parse_operator)

    def authenticate(self, request: Request) -> Operator | Reply:
        """Return the operator with the token of the request, else 401, or 403 without any credentials."""
        header = request.headers.get(b"authorization")
        if header is None:
            what = "without a token this port answers only the probes"
            return json_reply(
                403, {"error": what, "hint": "send an operator's token: --token-file"}
            )
        scheme, _, token = header.partition(b" ")
        token = token.strip()
        if scheme.lower() == b"bearer" and len(token) < MIN_LENGTH:
            what = f"a token must have at least {MIN_LENGTH} characters"
            return json_reply(401, {"error": what, "hint": "`openssl rand -hex 32` makes one"})
        token_digest = hashlib.sha256(token).digest()
        found = None
        for digest, operator in self._operators.current():
            if hmac.compare_digest(token_digest, digest):
                found = operator
        if found is None or scheme.lower() != b"bearer":
            return json_reply(
                401, {"error": "no operator has this token", "hint": "see --operators-file"}
            )
        return found


class LoopbackAuthenticator:
    """Authenticates all programs on this machine as one operator, if there is no operators file."""

    def __init__(self) -> None:
        self._access = LoopbackOnly("give operators tokens: --operators-file")

    def authenticate(self, request: Request) -> Operator | Reply:
        """Return LOCAL_OPERATOR for a program on this machine, else 403."""
        return self._access.reject(request) or LOCAL_OPERATOR


def _parse_operator(line: bytes) -> tuple[bytes, Operator]:
    """Return the digest of the token, and the operator. Raises ValueError."""
    words = line.decode("utf-8", "replace").split()
    if len(words) != 3 or words[1] not in ROLES or not _DIGEST.fullmatch(words[2].lower()):  # noqa: PLR2004 - NAME ROLE SHA256
        raise ValueError("a line is NAME view|operate SHA256-OF-TOKEN")
    return bytes.fromhex(words[2]), Operator(words[0], cast("Role", words[1]))
