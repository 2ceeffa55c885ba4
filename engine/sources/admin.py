"""The admin port: probes for all, the rest for operators by their role."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs

import msgspec
import structlog

from engine.journal.journal import JournalError
from engine.operate import OperateError
from engine.sources.http import reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.sources.http import Receive, Send
    from engine.sources.operators import Operator
    from engine.sources.pages import Pages

Answer = tuple[int, Any]
log = structlog.get_logger()
_LONGEST = 4096
"""Bytes of a body; what is asked for here is a name or two."""


class Door(Protocol):
    """Tells who calls."""

    def who(self, header: bytes, client: Any) -> Operator | None:
        """Whose the Authorization header is, or the caller's address."""
        ...


class AdminPort:
    """The ASGI application of the admin port.

    ended: the name of a thread that should run and does not, so that the kubelet starts the engine anew.
    """

    def __init__(
        self, pages: Pages, door: Door, ended: Callable[[], str | None] = lambda: None
    ) -> None:
        self._pages, self._door, self._ended = pages, door, ended

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            status, body = await self._answer(scope, receive)
        except JournalError as error:
            status, body = 503, {"error": str(error)}
        except OperateError as error:
            status, body = error.status, {"error": str(error)}
        except Exception:
            log.exception("request")
            status, body = 500, {"error": "internal error"}
        kind = b"application/json"
        if isinstance(body, bytes):
            kind = b"text/plain; version=0.0.4; charset=utf-8"
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        await reply(send, status, content, [(b"content-type", kind)])

    async def _answer(self, scope: dict[str, Any], receive: Receive) -> Answer:
        path, method = scope["path"], scope["method"]
        if path in ("/livez", "/readyz"):
            return self._probe(path) if method in ("GET", "HEAD") else _not_allowed()
        headers = dict(scope["headers"])
        operator = self._door.who(headers.get(b"authorization", b""), scope.get("client"))
        if operator is None:
            return _nobody(headers)
        if method in ("GET", "HEAD"):
            query = _query(scope.get("query_string", b""))
            return await asyncio.to_thread(self._pages.read, path, query)
        if method != "POST":
            return _not_allowed()
        if operator.role != "operate":
            return 403, {"error": f"{operator.name} may look, and not act: the role is view"}
        # a web page that an operator looks at could post a form here, but not this type
        if not headers.get(b"content-type", b"").startswith(b"application/json"):
            return 415, {"error": "send JSON, as `Content-Type: application/json`"}
        given = await _given(receive)
        if given is None:
            return 400, {"error": "the body is a JSON object", "hint": "{} where nothing is to say"}
        return await asyncio.to_thread(self._pages.act, path, given, operator.name)

    def _probe(self, path: str) -> Answer:
        thread = self._ended() if path == "/livez" else None
        if thread:
            return 503, {"error": f"{thread} has ended"}
        return (200, {"status": "ok"}) if path == "/livez" else self._pages.ready()


def _nobody(headers: Mapping[bytes, bytes]) -> Answer:
    if b"authorization" in headers:
        return 401, {"error": "no operator has this token", "hint": "see --operators-file"}
    hint = "send an operator's token: --token-file"
    return 403, {"error": "callers without a token see no more than the probes", "hint": hint}


def _not_allowed() -> Answer:
    return 405, {"error": "GET looks, POST acts"}


def _query(raw: bytes) -> dict[str, str]:
    """The query's parameters; of one given twice the last counts."""
    given = parse_qs(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=20)
    return {key: values[-1] for key, values in given.items()}


async def _given(receive: Receive) -> dict[str, Any] | None:
    """The body's object; None where it is none."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > _LONGEST:
            return None
        if not message.get("more_body"):
            break
    try:
        value = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
