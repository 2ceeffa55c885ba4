"""Who may look at the engine and who may put a hand on it: the operators' file.

A line an operator: ``NAME ROLE SHA256``, the last the hex digest of his token; ``#`` begins a comment.
``printf %s "$TOKEN" | sha256sum`` makes it. Senders' tokens are in another file and open nothing here.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import structlog

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger()
Role = Literal["view", "operate"]
ROLES = ("view", "operate")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who may look (``view``), or act as well (``operate``)."""

    name: str
    role: Role


LOCAL = Operator("local", "operate")
"""Whoever is on this machine, where no operators' file is given."""


class Operators:
    """The operators of a file; read again when it changes. Raises OSError, ValueError at the start."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp: tuple[int, int] | None = None
        self._known: dict[bytes, Operator] = {}
        self._read()

    def who(self, header: bytes, client: Any) -> Operator | None:
        """Whose token an Authorization header has; compared in constant time."""
        del client
        try:
            self._read()
        except (OSError, ValueError) as error:  # the operators known so far stay
            log.warning("operators file", error=str(error))
        scheme, _, token = header.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        given = hashlib.sha256(token.strip()).digest()
        found = None
        for digest, operator in self._known.items():
            if hmac.compare_digest(given, digest):
                found = operator
        return found

    def _read(self) -> None:
        stat = self._file.stat()
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp != self._stamp:
            known = _operators(self._file.read_text(encoding="utf-8"), self._file)
            self._stamp, self._known = stamp, known


class OnThisMachine:
    """Without a file: callers from this machine are operators, others nobody."""

    def who(self, header: bytes, client: Any) -> Operator | None:
        """Who calls."""
        del header
        try:
            local = client is not None and ipaddress.ip_address(client[0]).is_loopback
        except ValueError:
            local = False
        return LOCAL if local else None


def _operators(text: str, file: Path) -> dict[bytes, Operator]:
    known = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3 or words[1] not in ROLES or not _DIGEST.fullmatch(words[2].lower()):  # noqa: PLR2004 - NAME ROLE SHA256
            raise ValueError(f"{file}:{number}: a line is NAME view|operate SHA256-OF-TOKEN")
        known[bytes.fromhex(words[2])] = Operator(words[0], cast("Role", words[1]))
    if not known:
        raise ValueError(f"{file} has no operator")
    return known
