"""Who may read from the admin port and who may act: the operators file, or programs on this machine.

One operator per line: ``NAME ROLE SHA256``. The last word is the hex digest of the operator's token:
``printf %s "$TOKEN" | sha256sum``. The tokens of senders are in another file and give no access here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from engine.server.credentials_file import SHORTEST, CredentialsFile
from engine.server.loopback_access import LocalPrograms
from engine.server.messages import json_reply

if TYPE_CHECKING:
    from pathlib import Path

    from engine.server.messages import Reply, Request

Role = Literal["view", "operate"]
ROLES = ("view", "operate")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Operator:
    """A person or program that may read (``view``), or also act (``operate``)."""

    name: str
    role: Role


LOCAL = Operator("local", "operate")
"""Every program on this machine, if there is no operators file."""


class Operators:
    """The operators of a file, as it is now. Raises OSError or ValueError; see CredentialsFile."""

    def __init__(self, file: Path) -> None:
        self._known = CredentialsFile("operators", file, _entry)

    def who(self, request: Request) -> Operator | Reply:
        """The operator whose token the request has; else 401, or 403 without any credentials."""
        header = request.headers.get(b"authorization")
        if header is None:
            what = "without a token this port answers only the probes"
            return json_reply(
                403, {"error": what, "hint": "send an operator's token: --token-file"}
            )
        scheme, _, token = header.partition(b" ")
        token = token.strip()
        if scheme.lower() == b"bearer" and len(token) < SHORTEST:
            what = f"a token must have at least {SHORTEST} characters"
            return json_reply(401, {"error": what, "hint": "`openssl rand -hex 32` makes one"})
        given = hashlib.sha256(token).digest()
        found = None
        for digest, operator in self._known.now():
            if hmac.compare_digest(given, digest):
                found = operator
        if found is None or scheme.lower() != b"bearer":
            return json_reply(
                401, {"error": "no operator has this token", "hint": "see --operators-file"}
            )
        return found


class OnThisMachine:
    """Without a file: programs on this machine are operators, all other callers have no access."""

    def __init__(self) -> None:
        self._local = LocalPrograms("give operators tokens: --operators-file")

    def who(self, request: Request) -> Operator | Reply:
        """``local`` for a program on this machine; else 403."""
        return self._local.reject(request) or LOCAL


def _entry(line: bytes) -> tuple[bytes, Operator]:
    """The digest of the token, and the operator."""
    words = line.decode("utf-8", "replace").split()
    if len(words) != 3 or words[1] not in ROLES or not _DIGEST.fullmatch(words[2].lower()):  # noqa: PLR2004 - NAME ROLE SHA256
        raise ValueError("a line is NAME view|operate SHA256-OF-TOKEN")
    return bytes.fromhex(words[2]), Operator(words[0], cast("Role", words[1]))
