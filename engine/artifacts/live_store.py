"""The store of the engine: measures, cuts and stores the bytes of steps."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from engine.artifacts.api import MAX_ARTIFACT, Artifact
from engine.artifacts.local_store import write_file
from engine.artifacts.url import check_store
from engine.model.errors import TemporaryError
from engine.outbound.host_limits import HostLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from engine.artifacts.url import ArtifactUrl

_MIN_SECONDS = 1.0
"""Seconds of the shortest request to a store."""


class LiveArtifactStore:
    """Stores artifacts in files and object stores.

    stores: the stores of ``--artifact-stores``; None allows every store. timeout: seconds for each upload.
    limit: bytes of an artifact; more are cut. hosts: limits the uploads to one bucket at a time.
    """

    def __init__(
        self,
        stores: Collection[ArtifactUrl] | None,
        *,
        timeout: float = 30.0,
        limit: int = MAX_ARTIFACT,
        hosts: HostLimits | None = None,
    ) -> None:
        self._stores = stores
        self._timeout = timeout
        self._limit = limit
        self._hosts = hosts or HostLimits()

    def with_timeout(self, seconds: float) -> LiveArtifactStore:
        """Return the same store with another timeout."""
        return LiveArtifactStore(
            self._stores, timeout=seconds, limit=self._limit, hosts=self._hosts
        )

    def write(
        self,
        url: ArtifactUrl,
        chunks: Iterable[bytes],
        *,
        reserve: Callable[[], None] | None,
        media_type: str,
    ) -> Artifact:
        """Store the bytes of an iterable; see ``ArtifactStore.write``."""
        store = check_store(url, self._stores)
        measured = _Measured(chunks, self._limit, time.monotonic() + self._timeout)
        if url.scheme == "file":
            write_file(url, store, measured, reserve)
        else:
            from engine.artifacts.object_store import write_object  # noqa: PLC0415 - 30 ms

            with self._hosts.slot(f"{url.scheme}://{url.bucket}"):
                write_object(
                    url, measured, reserve=reserve, media_type=media_type,
                    seconds=max(_MIN_SECONDS, self._timeout),
                )  # fmt: skip
        return Artifact(str(url), measured.size, measured.digest.hexdigest(), measured.cut)


class _Measured:
    """Iterates over chunks up to a limit, and measures them.

    deadline: time of the monotonic clock after which TemporaryError is raised.
    """

    def __init__(self, chunks: Iterable[bytes], limit: int, deadline: float) -> None:
        self._chunks, self._limit, self._deadline = chunks, limit, deadline
        self.size, self.cut, self.digest = 0, False, hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if time.monotonic() > self._deadline:
                raise TemporaryError("the upload of the artifact timed out", answered=True)
            part = chunk[: self._limit - self.size]
            self.cut = len(part) < len(chunk)
            self.size += len(part)
            self.digest.update(part)
            if part:
                yield part
            if self.cut:
                return
