"""Calls whose answer is a stream: commands in containers, and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.cluster.api import LOG, POD
from engine.cluster.execution import LogRequest, Output
from engine.cluster.requests import (
    ApiRequests,
    Reply,
    is_about_object,
    message_of,
    parse_json,
    path_of,
)
from engine.model.errors import GoneError, PermanentError, TemporaryError
from engine.outbound.masking import mask_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.cluster.transport import OpenStream
    from engine.model.calls import Call

_MAX_ERROR = 64 << 10
"""Bytes that are read of the error response to a stream."""


class StreamCalls(ApiRequests):
    """Runs commands and reads logs through the API server."""

    def execute(self, call: Call) -> Output:
        """Run a command in a container; see ``Cluster.execute``."""
        if self._dry_run:  # the API server ignores dryRun of exec
            return Output(exit_code=0)
        about = f"{call.resource}/{call.name}"
        path = path_of(call.api_version, call.resource, call.namespace, call.name)
        query = [("command", word) for word in call.body["command"]]
        query += [("container", call.body["container"]), ("stdout", "true"), ("stderr", "true")]
        opened = self._open(path, query, websocket=True)
        self._raise_for_stream("exec", call.resource, about, opened)
        return Output(self._pieces(opened, "the command", may_have_run=True), opened.close)

    def read_log(self, log: LogRequest) -> Output:
        """Read the log of a container; see ``Cluster.read_log``."""
        if self._dry_run:
            return Output()
        path = path_of(POD.api_version, LOG, log.namespace, log.pod)
        given = [("container", log.container), *log.query.items()]
        opened = self._open(path, given, websocket=False, seconds=log.seconds)
        self._raise_for_stream("get", LOG, f"{LOG}/{log.pod}", opened)
        is_limited = log.seconds is not None
        return Output(self._pieces(opened, "the log", ends=is_limited), opened.close)

    def _raise_for_stream(self, verb: str, resource: str, about: str, opened: OpenStream) -> None:
        """Close the connection and raise the error for the response."""
        status, headers, pieces = opened.stream
        if status < 300:  # noqa: PLR2004 - HTTP
            return
        body = bytearray()
        try:
            for _, piece in pieces:
                body += piece
                if len(body) > _MAX_ERROR:
                    break
        except OSError:
            pass  # the status is enough
        finally:
            opened.close()
        answer = parse_json(bytes(body), opened.credentials)
        reply = Reply(status, headers, mask_secrets(answer, opened.credentials), len(body))
        if status == 404 and is_about_object(reply.body):  # noqa: PLR2004 - HTTP
            raise GoneError(f"{about} is gone")
        if status == 500 and verb == "exec":  # noqa: PLR2004 - HTTP
            raise TemporaryError(f"{about}: {status} {message_of(reply.body)}", answered=True)
        self._raise_for_status(verb, resource, about, reply)

    @staticmethod
    def _pieces(
        opened: OpenStream, what: str, *, may_have_run: bool = False, ends: bool = False
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the pieces of a stream. Raises TemporaryError if it breaks off; PermanentError of a command.

        ends: whether the deadline is the end of the stream.
        """
        try:
            yield from opened.stream.pieces
        except TimeoutError:
            if ends:
                return
            message = f"{what} did not end within the timeout of the step"
        except OSError as error:
            message = f"{what} broke off: {mask_secrets(str(error), opened.credentials)[:200]}"
        else:
            return
        if may_have_run:
            raise PermanentError(f"{message}; it may still run")
        raise TemporaryError(message, answered=True)
