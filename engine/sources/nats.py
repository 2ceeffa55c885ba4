"""A durable consumer of a NATS JetStream that captures what Falcosidekick publishes on ``falco.>``.

A message is acknowledged once its event is on our disk; one that is not comes again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from engine.sources.base import SourceError, Taker

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
_WAITS = 1.0
"""Seconds for which messages are waited upon, so that stopping is noticed."""
_TIMEOUT = 10.0
_CONNECT = 3
"""Seconds until a server must have taken us in; the client's own rounds of trying again take two minutes."""
_LOOKS = 0.1
"""Seconds between two looks whether to stop, while it connects."""
_EMPTY = 5
"""Fetches in a row that bring nothing before we ask whether our consumer is still there: they would not say."""
_ACK_WAIT = 60.0
"""Seconds after which a message that was not acknowledged comes again."""


class JetStream:
    """Works a stream off. url: ``nats://[user:password@]host[:port]``, or with a token in place of both."""

    kind = "nats"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        # the client would send the escapes as they are
        user, password = (part and unquote(part) for part in (parts.username, parts.password))
        self._login: dict[str, Any] = {"user": user, "password": password}
        if password is None:
            self._login = {"token": user}
        self.target = f"{parts.hostname}:{parts.port or 4222} {SUBJECT}"

    def work(self, taker: Taker) -> None:
        """See Fetching.work."""
        import nats.errors  # noqa: PLC0415 - only where it is asked for
        import nats.js.errors  # noqa: PLC0415 - the same

        try:
            asyncio.run(self._work(taker))
        except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
            said = str(error).removeprefix("nats: ")[:200]
            raise SourceError(f"{self.target}: {said or type(error).__name__}") from None

    async def _work(self, taker: Taker) -> None:
        from nats.aio.client import Client  # noqa: PLC0415 - only where it is asked for

        client = Client()
        try:
            subscription = await _unless(taker.stopping, self._connect(client))
            if subscription is None:
                return
            taker.connected()
            empty = 0
            while not taker.stopping.is_set():
                try:
                    messages = await subscription.fetch(BATCH, timeout=_WAITS)
                except TimeoutError:
                    if client.is_closed:
                        raise SourceError(f"{self.target}: the connection is lost") from None
                    empty += 1
                    if empty % _EMPTY == 0:
                        await self._find(subscription)
                    continue
                empty = 0
                await self._take(messages, taker)
        finally:
            await client.close()

    async def _find(self, subscription: Any) -> None:
        """See that our consumer is there. Raises SourceError, so that what is missing is made anew."""
        from nats.js.errors import NotFoundError  # noqa: PLC0415 - only where it is asked for

        try:
            await subscription.consumer_info()
        except NotFoundError as error:
            raise SourceError(f"{self.target}: {error.description}: it is gone") from None

    async def _connect(self, client: Client) -> Any:
        """The subscription. Raises SourceError, and what the client does."""
        connecting = True

        async def tell(error: Exception) -> None:
            """Errors are raised where they matter; while it connects the client would go on by itself."""
            if connecting:
                raise error

        try:
            async with asyncio.timeout(_CONNECT):
                await client.connect(
                    self._url,
                    allow_reconnect=False,
                    connect_timeout=_CONNECT,
                    error_cb=tell,
                    **self._login,
                )
        except TimeoutError:
            raise SourceError(f"{self.target}: no connection within {_CONNECT} s") from None
        connecting = False
        return await self._subscribe(client.jetstream(timeout=_TIMEOUT))

    async def _subscribe(self, stream: Any) -> Any:
        """The durable consumer, of the stream that has the subjects; one is made where there is none."""
        from nats.js import api  # noqa: PLC0415 - only where it is asked for
        from nats.js.errors import NotFoundError  # noqa: PLC0415 - the same

        try:
            name = await stream.find_stream_name_by_subject(SUBJECT)
        except NotFoundError:
            name = STREAM
            await stream.add_stream(name=name, subjects=[SUBJECT], storage=api.StorageType.FILE)
        settings = api.ConsumerConfig(ack_wait=_ACK_WAIT, max_ack_pending=10 * BATCH)
        return await stream.pull_subscribe(SUBJECT, DURABLE, stream=name, config=settings)

    async def _take(self, messages: list[Msg], taker: Taker) -> None:
        """Have messages written, and only then acknowledge them."""
        try:
            await asyncio.to_thread(taker.take, *(message.data for message in messages))
        except SourceError:
            for message in messages:  # so that they come again at once, and not after the wait
                await message.nak()
            raise
        for message in messages:
            await message.ack()


async def _unless(stopping: threading.Event, doing: Coroutine[Any, Any, Any]) -> Any:
    """What it gives; None where we are to stop before that."""
    task = asyncio.ensure_future(doing)
    while not task.done() and not stopping.is_set():
        await asyncio.wait({task}, timeout=_LOOKS)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait({task})
    return None
