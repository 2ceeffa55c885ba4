"""The event loop of the engine process: runs the listeners until a signal."""

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
GRACE = 5.0
"""Seconds to wait for due replies at the end. Each takes milliseconds."""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(listeners: Sequence[Listener], on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. A second signal ends the process at once, also after this returns.

    on_ready: called when signals are handled and connections are accepted.
    """
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_run(listeners, on_ready))
    for number in _STOP_SIGNALS:  # the handlers of the closed loop would stay
        signal.signal(number, lambda number, _frame: os._exit(128 + number))


async def _run(listeners: Sequence[Listener], on_ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_exception)
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()
        log.info("stopping", signal=signal.Signals(number).name)

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    for listener in listeners:
        await listener.start()
    on_ready()
    await stopping.wait()
    await asyncio.gather(*(listener.stop(GRACE) for listener in listeners))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - only the engine needs it

    return uvloop.new_event_loop()


def _log_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception in the loop that does not belong to a request.

    Connection and TLS errors are not logged, because any client could fill the log with them.
    """
    del loop
    error = context.get("exception")
    if not isinstance(error, OSError):  # includes ssl.SSLError
        log.error("event_loop_error", message=context.get("message"), error=repr(error))
