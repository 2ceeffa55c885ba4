"""Take events from a Redis list that Falcosidekick pushes to.

LMOVE moves each event atomically to a processing list of the engine. The event stays there until it is on the
engine's disk. At the start, the source first takes what an earlier engine left in the processing list.

With replicas, each replica has its own processing list. What a dead replica left in its list goes back to the
list from which all replicas take.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from engine.model.errors import JournalError
from engine.sources.base import EventSink, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import redis

KEY = "falco"
"""Falcosidekick's default list (``redis.key``)."""
BATCH = 100
"""Events that are delivered together, and share one or two fsyncs."""
_BLOCK = 1
"""Seconds to wait for an event, so that the source notices a stop."""
_TIMEOUT = 10.0
_TAKE_OVER_INTERVAL = 5.0
"""Seconds between two searches for the lists of dead replicas."""


class RedisList:
    """A Redis list. url: ``redis[s]://[user:password@]host[:port][/db][?key=NAME]``.

    replica: the name of this replica and a function that returns the names of all live ones; None for a single
    engine.
    """

    kind = "redis"

    def __init__(
        self, url: str, replica: tuple[str, Callable[[], Collection[str]]] | None = None
    ) -> None:
        parts = urlsplit(url)
        self._key = parse_qs(parts.query).get("key", [KEY])[-1]
        self._processing = f"{self._key}:tiercel"
        self._lists, self._live = f"{self._processing}:", None
        if replica:
            self._processing, self._live = self._lists + replica[0], replica[1]
        self._taken_over_at = float("-inf")
        self._url = parts._replace(query="").geturl()
        self.target = f"{parts.hostname}:{parts.port or 6379}{parts.path}?key={self._key}"

    def run(self, sink: EventSink) -> None:
        """See Source.run."""
        import redis  # noqa: PLC0415 - imported only if the source is used

        client: Any = redis.Redis.from_url(
            self._url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT
        )
        try:
            with client:
                self._run(client, sink)
        except redis.RedisError as error:
            raise SourceError(f"{self.target}: {_without_url(error)}") from None

    def _run(self, client: redis.Redis, sink: EventSink) -> None:
        left: Any = client.lrange(self._processing, 0, -1)
        sink.connected()
        self._deliver(client, list(left), sink)
        while not sink.stopping.is_set():
            self._take_over(client)
            first: Any = client.blmove(self._key, self._processing, _BLOCK, "LEFT", "RIGHT")
            if first is None:
                continue
            batch = [first]
            while len(batch) < BATCH:
                more: Any = client.lmove(self._key, self._processing, "LEFT", "RIGHT")
                if more is None:
                    break
                batch.append(more)
            self._deliver(client, batch, sink)

    def _take_over(self, client: redis.Redis) -> None:
        """Put the events of dead replicas back into the list. One that is delivered twice runs once."""
        if self._live is None or time.monotonic() - self._taken_over_at < _TAKE_OVER_INTERVAL:
            return
        self._taken_over_at = time.monotonic()
        try:
            live = {self._lists + name for name in self._live()} | {self._processing}
        except JournalError as error:
            raise SourceError(f"cannot read the replicas: {error}") from None
        pattern = re.sub(r"([][*?\\])", r"\\\1", self._lists) + "*"
        for found in client.scan_iter(match=pattern, _type="list"):
            name = found.decode("utf-8", "replace")
            while name not in live and client.lmove(name, self._key, "RIGHT", "LEFT") is not None:
                pass

    def _deliver(self, client: redis.Redis, batch: list[bytes], sink: EventSink) -> None:
        """Deliver events, then remove them from the start of the processing list."""
        for first in range(0, len(batch), BATCH):
            some = batch[first : first + BATCH]
            sink.deliver(*some)
            client.ltrim(self._processing, len(some), -1)


def _without_url(error: Exception) -> str:
    """The error's message without the URL, which contains the password."""
    return f"{type(error).__name__}: {str(error).partition(' connecting to ')[0][:200]}"
