"""The admin port: probes for everyone, everything else for operators according to their role."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec
import structlog

from engine.model.errors import JournalError
from engine.server.admin_api import command_of
from engine.server.messages import Reply, json_reply
from engine.server.operator_auth import READ
from engine.server.operator_commands import OperatorCommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.server.admin_api import AdminApi
    from engine.server.messages import Request
    from engine.server.operator_auth import Authenticator

log = structlog.get_logger()
_MAX_BODY = 4096
"""Largest size of a body in bytes. A body has a name and a reason."""
_MAX_PARAMETERS = 20
"""Largest number of query parameters."""
_PROBES = ("/livez", "/readyz")
_JSON = b"application/json"


class AdminPort:
    """Serves operators, and the probes of the kubelet.

    ended_thread: returns the name of a thread that has ended but should run, else None. The kubelet then
    restarts the engine.
    """

    max_body = _MAX_BODY

    def __init__(
        self,
        api: AdminApi,
        authenticator: Authenticator,
        ended_thread: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._api, self._authenticator, self._ended_thread = api, authenticator, ended_thread
        self._requests: set[asyncio.Task[None]] = set()
        self._readiness: asyncio.Task[Reply] | None = None

    def is_urgent(self, request: Request) -> bool:
        """Return True for probes: a kubelet without an answer restarts the engine."""
        return request.path in _PROBES

    def reject(self, request: Request) -> Reply | None:
        """Return the reply to a request without access, before its body is read. Probes need no access."""
        return None if self.is_urgent(request) else self._authenticator.reject(request)

    def count_rejected(self, status: int) -> None:
        """Do nothing; rejected requests of this port are not counted."""

    def answer(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """Answer in a thread, because most answers read the journal."""
        task = asyncio.create_task(self._run(request, reply))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _run(self, request: Request, reply: Callable[[Reply], None]) -> None:
        try:
            answer = await self._answer(request)
        except JournalError as error:
            answer = json_reply(503, {"error": str(error)})
        except OperatorCommandError as error:
            hint = {"hint": error.hint} if error.hint else {}
            answer = json_reply(error.status, {"error": str(error), **hint})
        except Exception:  # a bug in one request must not end the port
            log.exception("request_failed")
            answer = json_reply(500, {"error": "internal error"})
        reply(answer)

    async def _answer(self, request: Request) -> Reply:
        path, method, headers = request.path, request.method, request.headers
        if path in _PROBES:
            is_read = method in (b"GET", b"HEAD")
            return await self._probe(path) if is_read else _not_allowed(b"GET, HEAD")
        verb = command_of(path) if method == b"POST" else READ
        operator = await self._authenticator.authorize(request, verb)
        if isinstance(operator, Reply):
            return operator
        if method in (b"GET", b"HEAD"):
            return await asyncio.to_thread(self._api.get, path, _parse_query(request.query))
        if method != b"POST":
            return _not_allowed(b"GET, HEAD, POST")
        # a form of a web page always sends another content type
        if not headers.get(b"content-type", _JSON).lower().startswith(_JSON):
            what = "send JSON, as `Content-Type: application/json`"
            return json_reply(415, {"error": what})
        content = _parse_body(request.body)
        if content is None:
            hint = "send an object, or no body"
            return json_reply(400, {"error": "the body is not a JSON object", "hint": hint})
        return await asyncio.to_thread(self._api.post, path, content, operator)

    async def _probe(self, path: str) -> Reply:
        if path == "/livez":
            thread = self._ended_thread()
            if thread:
                return json_reply(503, {"error": f"{thread} has ended"})
            return json_reply(200, {"status": "ok"})
        # concurrent probes share one check, which writes to the journal if the last write failed
        if self._readiness is None or self._readiness.done():
            self._readiness = asyncio.create_task(asyncio.to_thread(self._api.readiness))
        return await self._readiness


def _not_allowed(allowed: bytes) -> Reply:
    what = f"the method is not allowed here; use {allowed.decode()}"
    return json_reply(405, {"error": what}, (b"allow", allowed))


def _parse_query(text: str) -> dict[str, str]:
    """Return the query parameters.

    Raises OperatorCommandError (400) if one is given twice, or if there are more than 20.
    """
    try:
        parameters = parse_qs(text, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        what = f"a query has at most {_MAX_PARAMETERS} parameters"
        raise OperatorCommandError(what, 400, "remove some") from None
    for name, values in parameters.items():
        if len(values) > 1:
            raise OperatorCommandError(
                f"`{name[:40]}` is given more than once", 400, "give it once"
            )
    return {name: value for name, (value,) in parameters.items()}


def _parse_body(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a body, None if it is not one. An empty body is ``{}``."""
    try:
        value = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
