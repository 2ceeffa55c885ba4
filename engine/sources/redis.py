"""A Redis list that Falcosidekick pushes to, worked off through a processing list of ours.

LMOVE takes an event over in one step, so that it is in one of the two lists until it is on our disk; what
a dead engine left in the processing list is taken first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from engine.sources.base import SourceError, Taker

if TYPE_CHECKING:
    import redis

KEY = "falco"
"""Falcosidekick's default (``redis.key``)."""
BATCH = 100
"""Messages that are taken together; what they come to shares one fsync or two."""
_BLOCKS = 1
"""Seconds for which an empty list is waited upon, so that stopping is noticed."""
_TIMEOUT = 10.0


class RedisList:
    """Works a list off. url: ``redis[s]://[user:password@]host[:port][/db][?key=NAME]``."""

    kind = "redis"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._key = parse_qs(parts.query).get("key", [KEY])[-1]
        self._own = f"{self._key}:tiercel"
        self._url = parts._replace(query="").geturl()
        self.target = f"{parts.hostname}:{parts.port or 6379}{parts.path}?key={self._key}"

    def work(self, taker: Taker) -> None:
        """See Fetching.work."""
        import redis  # noqa: PLC0415 - only where it is asked for

        client: Any = redis.Redis.from_url(
            self._url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT
        )
        try:
            with client:
                self._work(client, taker)
        except redis.RedisError as error:
            raise SourceError(f"{self.target}: {_said(error)}") from None

    def _work(self, client: redis.Redis, taker: Taker) -> None:
        taken: Any = client.lrange(self._own, 0, -1)  # what an engine before us had not finished
        taker.connected()
        self._take(client, list(taken), taker)
        while not taker.stopping.is_set():
            first: Any = client.blmove(self._key, self._own, _BLOCKS, "LEFT", "RIGHT")
            if first is None:
                continue
            batch = [first]
            while len(batch) < BATCH:
                more: Any = client.lmove(self._key, self._own, "LEFT", "RIGHT")
                if more is None:
                    break
                batch.append(more)
            self._take(client, batch, taker)

    def _take(self, client: redis.Redis, batch: list[bytes], taker: Taker) -> None:
        """Have a batch written, and only then take it off the processing list, which is in its order."""
        for first in range(0, len(batch), BATCH):
            some = batch[first : first + BATCH]
            taker.take(*some)
            client.ltrim(self._own, len(some), -1)


def _said(error: Exception) -> str:
    """The error's sentence, without the URL, which has a password."""
    return f"{type(error).__name__}: {str(error).partition(' connecting to ')[0][:200]}"
