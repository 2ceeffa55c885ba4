"""Take events from a NATS JetStream stream, to which Falcosidekick publishes on ``falco.>``.

A durable consumer reads the stream. A message is acknowledged when its event is on the engine's disk;
otherwise the server delivers it again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from engine.sources.base import EventSink, SourceError

if TYPE_CHECKING:
    import threading
    from collections.abc import Coroutine

    from nats.aio.client import Client
    from nats.aio.msg import Msg

SUBJECT = "falco.>"
"""Falcosidekick's subjects are ``falco.<priority>.<rule>`` (``nats.subjecttemplate``)."""
STREAM = "falco"
DURABLE = "tiercel"
BATCH = 100
"""Messages that are fetched and delivered together."""
_FETCH_TIMEOUT = 1.0
"""Seconds to wait for messages, so that the source notices a stop."""
_TIMEOUT = 10.0
_CONNECT_TIMEOUT = 3
"""Seconds to connect. The client's own retries take two minutes."""
_STOP_POLL = 0.1
"""Seconds between two checks for a stop while it connects."""
_EMPTY_FETCHES = 5
"""Empty fetches in a row before the source checks that its consumer exists. A fetch does not report that."""
_ACK_WAIT = 60.0
"""Seconds after which the server delivers a message again that was not acknowledged."""


class JetStream:
    """A JetStream consumer. url: ``nats://[user:password@]host[:port]``, or ``nats://token@host[:port]``."""

    kind = "nats"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        # The client would send percent escapes as they are.
        user, password = (part and unquote(part) for part in (parts.username, parts.password))
        self._login: dict[str, Any] = {"user": user, "password": password}
        if password is None:
            self._login = {"token": user}
        self.target = f"{parts.hostname}:{parts.port or 4222} {SUBJECT}"

    def run(self, sink: EventSink) -> None:
        """See Source.run."""
        import nats.errors  # noqa: PLC0415 - imported only if the source is used
        import nats.js.errors  # noqa: PLC0415 - the same

        try:
            asyncio.run(self._run(sink))
        except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
            message = str(error).removeprefix("nats: ")[:200]
            raise SourceError(f"{self.target}: {message or type(error).__name__}") from None

    async def _run(self, sink: EventSink) -> None:
        from nats.aio.client import Client  # noqa: PLC0415 - imported only if the source is used

        client = Client()
        try:
            subscription = await _unless_stopped(sink.stopping, self._connect(client))
            if subscription is None:
                return
            sink.connected()
            empty = 0
            while not sink.stopping.is_set():
                try:
                    messages = await subscription.fetch(BATCH, timeout=_FETCH_TIMEOUT)
                except TimeoutError:
                    if client.is_closed:
                        raise SourceError(f"{self.target}: the connection is lost") from None
                    empty += 1
                    if empty % _EMPTY_FETCHES == 0:
                        await self._check_consumer(subscription)
                    continue
                empty = 0
                await self._deliver(messages, sink)
        finally:
            await client.close()

    async def _check_consumer(self, subscription: Any) -> None:
        """Raise SourceError if the consumer does not exist, so that the next start creates it."""
        from nats.js.errors import NotFoundError  # noqa: PLC0415 - imported only if the source is used

        try:
            await subscription.consumer_info()
        except NotFoundError as error:
            raise SourceError(f"{self.target}: {error.description}: it is gone") from None

    async def _connect(self, client: Client) -> Any:
        """Connect, and return the subscription. Raises SourceError, and the client's errors."""
        connecting = True

        async def on_error(error: Exception) -> None:
            """Raise errors while the client connects; otherwise it would retry. Later calls raise their own."""
            if connecting:
                raise error

        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                await client.connect(
                    self._url,
                    allow_reconnect=False,
                    connect_timeout=_CONNECT_TIMEOUT,
                    error_cb=on_error,
                    **self._login,
                )
        except TimeoutError:
            raise SourceError(f"{self.target}: no connection within {_CONNECT_TIMEOUT} s") from None
        connecting = False
        return await self._subscribe(client.jetstream(timeout=_TIMEOUT))

    async def _subscribe(self, stream: Any) -> Any:
        """Return the durable consumer of the stream that has the subjects. Creates both if needed."""
        from nats.js import api  # noqa: PLC0415 - imported only if the source is used
        from nats.js.errors import NotFoundError  # noqa: PLC0415 - the same

        try:
            name = await stream.find_stream_name_by_subject(SUBJECT)
        except NotFoundError:
            name = STREAM
            await stream.add_stream(name=name, subjects=[SUBJECT], storage=api.StorageType.FILE)
        config = api.ConsumerConfig(ack_wait=_ACK_WAIT, max_ack_pending=10 * BATCH)
        return await stream.pull_subscribe(SUBJECT, DURABLE, stream=name, config=config)

    async def _deliver(self, messages: list[Msg], sink: EventSink) -> None:
        """Deliver messages, then acknowledge them."""
        try:
            await asyncio.to_thread(sink.deliver, *(message.data for message in messages))
        except SourceError:
            for (
                message
            ) in messages:  # so that the server delivers them at once, not after _ACK_WAIT
                await message.nak()
            raise
        for message in messages:
            await message.ack()


async def _unless_stopped(stopping: threading.Event, work: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of the work, or None if the engine stops first."""
    task = asyncio.ensure_future(work)
    while not task.done() and not stopping.is_set():
        await asyncio.wait({task}, timeout=_STOP_POLL)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait({task})
    return None
