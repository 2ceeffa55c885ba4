"""The thread that answers: listeners in one event loop, until a signal."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.server.listener import Listener

log = structlog.get_logger()
ANSWERS = 5.0
"""Seconds that requests under way have at the end; each is answered in milliseconds."""
_ENDS = (signal.SIGTERM, signal.SIGINT)


def run(listeners: Sequence[Listener], ready: Callable[[], None]) -> None:
    """Answer until SIGTERM or SIGINT; a second one ends the process at once, also once this has returned.

    ready: called once signals are heeded and connections taken.
    """
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_run(listeners, ready))
    for number in _ENDS:  # the loop's own handlers stay, and tell a loop that is closed
        signal.signal(number, lambda number, _frame: os._exit(128 + number))


async def _run(listeners: Sequence[Listener], ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_tell)
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()
        log.info("stopping", signal=signal.Signals(number).name)

    for number in _ENDS:
        loop.add_signal_handler(number, stop, number)
    for listener in listeners:
        await listener.start()
    ready()
    await stopping.wait()
    await asyncio.gather(*(listener.stop(ANSWERS) for listener in listeners))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - only the engine needs it

    return uvloop.new_event_loop()


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What went wrong in the loop and belongs to no request.

    A connection that breaks off, or is no TLS, is its sender's business: anybody could fill the log so.
    """
    del loop
    error = context.get("exception")
    if not isinstance(error, OSError):  # ssl.SSLError is one, too
        log.error("loop", what=context.get("message"), error=repr(error))
