"""The output of a command or the log of a container, as actions read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.model.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

STATUS = 3
"""The channel with the Status of the command, which has its exit code and is the last message."""
MAX_REASON = 300


class StreamError(OSError):
    """A stream broke off, or has the wrong form. The message says why."""


class LogRequest(msgspec.Struct, frozen=True):
    """The part of a container's log to read.

    query: parameters of ``pods/log``, such as ``tailLines``. seconds: end the output without an error after this
    time.
    """

    namespace: str
    pod: str
    container: str
    query: Mapping[str, str] = {}
    seconds: float | None = None


class Output:
    """The bytes of a log or of a command, in the order of their arrival. Iterate over it once, and close it.

    exit_code: of the command, set at the end of the iteration; None for a log. Iterating raises TemporaryError
    or PermanentError if the stream breaks off or the command could not be started.
    """

    def __init__(
        self,
        pieces: Iterable[tuple[int, bytes]] = (),
        close: Callable[[], None] = lambda: None,
        *,
        exit_code: int | None = None,
    ) -> None:
        self._pieces = pieces
        self.close = close
        self.exit_code = exit_code

    def __iter__(self) -> Iterator[bytes]:
        try:
            for channel, data in self._pieces:
                if channel == STATUS:
                    self.exit_code = _exit_code(data)
                else:
                    yield data
        finally:
            self.close()


def _exit_code(data: bytes) -> int:
    """Return the exit code in a Status. Raises PermanentError if the command was not started."""
    try:
        status: Any = msgspec.json.decode(data)
        if status["status"] == "Success":
            return 0
        causes = (status.get("details") or {}).get("causes") or []
        for cause in causes:
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
        reason = str(status.get("message") or "no reason given")[:MAX_REASON]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        reason = "the status of the command is not valid"
    raise PermanentError(f"the command was not run: {reason}")
