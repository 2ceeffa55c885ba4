"""Authentication on the admin port: by the tokens of the operators file, or for programs on this machine.

The file has one line for each credential of an operator: ``NAME ROLE CREDENTIAL``. The credential is one of:

- the hex digest of a token: ``printf %s "$TOKEN" | sha256sum``
- ``slack:TEAM/USER``: a member of a Slack workspace, by ids, who may press buttons
- ``kubernetes:USER``: a user of the API server, who is this operator

The tokens of event senders are in another file and give no access here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

from engine.model.operator_identity import KUBERNETES
from engine.server.credentials_file import MIN_LENGTH, CredentialsFile
from engine.server.loopback_access import LoopbackOnly
from engine.server.messages import Reply, json_reply, unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.server.messages import Request

READ = "get"
"""The verb of a request that only reads. The other verbs are the names of the commands."""
Role = Literal["view", "operate"]
ROLES = ("view", "operate")
_SLACK = "slack:"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SLACK_USER = re.compile(r"slack:[A-Z0-9]{2,32}/[A-Z0-9]{2,32}")
_KUBERNETES_USER = re.compile(rf"{KUBERNETES}[!-~]{{1,253}}")
_CREDENTIALS = (_DIGEST, _SLACK_USER, _KUBERNETES_USER)


@dataclass(frozen=True, slots=True)
class Operator:
    """A person or program that may read (role ``view``), or also act (role ``operate``)."""

    name: str
    role: Role


LOCAL_OPERATOR = Operator("local", "operate")
"""Each program on this machine, if there is no operators file."""


class Authenticator(Protocol):
    """Finds the operator who sent a request."""

    def reject(self, request: Request) -> Reply | None:
        """Return the reply to a request without access, before its body is read. Returns at once."""
        ...

    async def authorize(self, request: Request, verb: str) -> str | Reply:
        """Return the name of the operator who may do this, or the reply to a request without access.

        verb: READ, or the name of the command.
        """
        ...

    def close(self) -> None:
        """End the threads, if there are any."""
        ...


class OperatorsFile:
    """The operators of a file. It is read again when it changes. Raises OSError or ValueError at the start."""

    def __init__(self, file: Path) -> None:
        self._lines = CredentialsFile("operators", file, _parse_operator)

    def by_token(self, token: bytes) -> Operator | None:
        """Return the operator with this token, or None."""
        digest, found = hashlib.sha256(token).hexdigest(), None
        for credential, operator in self._lines.current():
            if hmac.compare_digest(digest, credential):
                found = operator
        return found

    def by_slack(self, team: str, user: str) -> Operator | None:
        """Return the operator who is this member of a Slack workspace, or None."""
        return next(self._with(f"{_SLACK}{team}/{user}"), None)

    def by_kubernetes(self, user: str) -> Operator | None:
        """Return the operator who is this Kubernetes user, or None."""
        return next(self._with(f"{KUBERNETES}{user}"), None)

    def _with(self, credential: str) -> Iterator[Operator]:
        return (operator for one, operator in self._lines.current() if one == credential)


class TokenAuthenticator:
    """Authenticates the operators of a file by their tokens."""

    def __init__(self, operators: OperatorsFile) -> None:
        self._operators = operators

    def reject(self, request: Request) -> Reply | None:
        """Return 401 without a valid token, or 403 without any credentials."""
        found = self._find(request)
        return found if isinstance(found, Reply) else None

    async def authorize(self, request: Request, verb: str) -> str | Reply:
        """See Authenticator.authorize."""
        found = self._find(request)
        return found if isinstance(found, Reply) else check_role(found, verb)

    def close(self) -> None:
        """Do nothing; there are no threads."""

    def _find(self, request: Request) -> Operator | Reply:
        token = bearer_token(request)
        if isinstance(token, Reply):
            return token
        if len(token) < MIN_LENGTH:
            what = f"a token must have at least {MIN_LENGTH} characters"
            return unauthorized(what, "`openssl rand -hex 32` makes one")
        return self._operators.by_token(token) or _unknown_token()


class LoopbackAuthenticator:
    """Authenticates all programs on this machine as one operator, if there is no operators file."""

    def __init__(self) -> None:
        self._access = LoopbackOnly("give operators tokens: --operators-file")

    def reject(self, request: Request) -> Reply | None:
        """Return 403 for a program on another machine."""
        return self._access.reject(request)

    async def authorize(self, request: Request, verb: str) -> str | Reply:
        """Return the name of LOCAL_OPERATOR for a program on this machine, else 403."""
        return self._access.reject(request) or check_role(LOCAL_OPERATOR, verb)

    def close(self) -> None:
        """Do nothing; there are no threads."""


def bearer_token(request: Request) -> bytes | Reply:
    """Return the token of a request, else 401, or 403 without any credentials."""
    header = request.headers.get(b"authorization")
    if header is None:
        what = "without a token this port answers only the probes"
        return json_reply(403, {"error": what, "hint": "send an operator's token: --token-file"})
    scheme, _, token = header.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else _unknown_token()


def check_role(operator: Operator, verb: str) -> str | Reply:
    """Return the name of the operator if the role allows the verb, else 403."""
    if verb == READ or operator.role == "operate":
        return operator.name
    return json_reply(
        403, {"error": f"{operator.name} has the role view, which does not allow commands"}
    )


def _unknown_token() -> Reply:
    return unauthorized("no operator has this token", "see --operators-file")


def _parse_operator(line: bytes) -> tuple[str, Operator]:
    """Return the credential, and the operator. Raises ValueError."""
    words = line.decode("utf-8", "replace").split()
    if len(words) != 3 or words[1] not in ROLES:  # noqa: PLR2004 - NAME ROLE CREDENTIAL
        raise ValueError(_LINE)
    name, role, credential = words
    credential = credential.lower() if len(credential) == 64 else credential  # noqa: PLR2004 - hex digits of SHA-256
    if not any(form.fullmatch(credential) for form in _CREDENTIALS):
        raise ValueError(_LINE)
    if name.startswith(KUBERNETES):
        raise ValueError(f"the name of an operator does not begin with {KUBERNETES}")
    return credential, Operator(name, cast("Role", role))


_LINE = "a line is NAME view|operate SHA256-OF-TOKEN (or slack:TEAM/USER, or kubernetes:USER)"
