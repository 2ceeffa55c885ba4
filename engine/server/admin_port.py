"""The admin port: probes for all, the rest for operators by their role."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs

import msgspec
import structlog

from engine.model.errors import JournalError
from engine.model.safe_text import encode_printable
from engine.server.messages import JSON, Reply
from engine.server.operator_commands import OperatorCommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.server.admin_api import AdminApi
    from engine.server.messages import Request
    from engine.server.operator_auth import Operator

Answer = tuple[int, Any]
log = structlog.get_logger()
_MAX_BODY = 4096
"""Bytes of a body; what is asked for here is a name or two."""
_PARAMETERS = 20
"""Parameters of a query."""
_PROBES = ("/livez", "/readyz")
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"


class Authenticator(Protocol):
    """Decides who sends a request."""

    def who(self, request: Request) -> Operator | Reply:
        """The operator, or the reply to a request without access."""
        ...


class AdminPort:
    """Answers operators, and the kubelet's probes.

    ended: the name of a thread that should run and does not, so that the kubelet starts the engine anew.
    """

    max_body = _MAX_BODY

    def __init__(
        self, pages: AdminApi, door: Authenticator, ended: Callable[[], str | None] = lambda: None
    ) -> None:
        self._pages, self._door, self._ended = pages, door, ended
        self._asked: set[asyncio.Task[None]] = set()

    def is_urgent(self, request: Request) -> bool:
        """Probes are: a kubelet that gets no answer restarts the engine."""
        return request.path in _PROBES

    def reject(self, request: Request) -> Reply | None:
        """Anything but a probe without a valid identity, before its body is read."""
        operator = None if self.is_urgent(request) else self._door.who(request)
        return operator if isinstance(operator, Reply) else None

    def count_rejected(self, status: int) -> None:
        """Nobody counts these."""

    def answer(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """Answer in a thread, for what is asked for is read from the journal."""
        task = asyncio.create_task(self._replied(request, reply))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _replied(self, request: Request, reply: Callable[[Reply], None]) -> None:
        try:
            answer = await self._answer(request)
        except JournalError as error:
            answer = 503, {"error": str(error)}
        except OperatorCommandError as error:
            hint = {"hint": error.hint} if error.hint else {}
            answer = error.status, {"error": str(error), **hint}
        except Exception:
            log.exception("request")
            answer = 500, {"error": "internal error"}
        reply(answer if isinstance(answer, Reply) else _encoded(*answer))

    async def _answer(self, request: Request) -> Answer | Reply:
        path, method, headers = request.path, request.method, request.headers
        if path in _PROBES:
            return await self._probe(path) if method in (b"GET", b"HEAD") else _not_allowed()
        operator = self._door.who(request)
        if isinstance(operator, Reply):
            return operator
        if method in (b"GET", b"HEAD"):
            return await asyncio.to_thread(self._pages.read, path, _query(request.query))
        if method != b"POST":
            return _not_allowed()
        if operator.role != "operate":
            return 403, {"error": f"{operator.name} may look, and not act: the role is view"}
        # a form of a web page cannot have this type
        if not headers.get(b"content-type", b"").startswith(b"application/json"):
            return 415, {"error": "send JSON, as `Content-Type: application/json`"}
        given = _given(request.body)
        if given is None:
            return 400, {"error": "the body is a JSON object", "hint": "{} where nothing is to say"}
        return await asyncio.to_thread(self._pages.act, path, given, operator.name)

    async def _probe(self, path: str) -> Answer:
        if path == "/readyz":  # which writes, where that failed before
            return await asyncio.to_thread(self._pages.ready)
        thread = self._ended()
        return (503, {"error": f"{thread} has ended"}) if thread else (200, {"status": "ok"})


def _not_allowed() -> Answer:
    return 405, {"error": "GET looks, POST acts"}


def _encoded(status: int, body: Any) -> Reply:
    """The reply of an answer: bytes are text, all else becomes JSON."""
    if isinstance(body, bytes):
        return Reply(status, body, _TEXT)
    return Reply(status, encode_printable(body), JSON)


def _query(text: str) -> dict[str, str]:
    """The query's parameters. Raises OperateError (400) where one is given twice, or more than 20."""
    try:
        given = parse_qs(text, keep_blank_values=True, max_num_fields=_PARAMETERS)
    except ValueError:
        what = f"a query has at most {_PARAMETERS} parameters"
        raise OperatorCommandError(what, 400, "remove some") from None
    for name, values in given.items():
        if len(values) > 1:
            raise OperatorCommandError(
                f"`{name[:40]}` is given more than once", 400, "give it once"
            )
    return {name: value for name, (value,) in given.items()}


def _given(body: bytes) -> dict[str, Any] | None:
    """The body's object; None where it is none."""
    try:
        value = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
