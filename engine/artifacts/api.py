"""The interface through which actions store bytes: ``ArtifactStore``, and a recorder of uploads.

Every upload passes an ``ArtifactRecorder``. ``LiveArtifactStore`` (in ``live_store``) stores the bytes.
Previews only record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from engine.artifacts.url import check_store, parse_artifact_url
from engine.model.calls import OutboundRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from engine.artifacts.url import ArtifactUrl

MAX_ARTIFACT = 1 << 30
"""Bytes of an artifact. Longer output is cut."""


class Artifact(msgspec.Struct, frozen=True):
    """A stored artifact. size: bytes. sha256: hex digest. cut: whether there were more bytes."""

    url: str
    size: int
    sha256: str
    cut: bool = False

    def json(self) -> dict[str, Any]:
        """Return the artifact as a part of a step's answer."""
        return {"url": self.url, "size": self.size, "sha256": self.sha256, "cut": self.cut}


class ArtifactStore(Protocol):
    """Stores artifacts."""

    def write(
        self,
        url: ArtifactUrl,
        chunks: Iterable[bytes],
        *,
        reserve: Callable[[], None] | None,
        media_type: str,
    ) -> Artifact:
        """Store the bytes of an iterable at a URL, as they arrive.

        The artifact appears under its name only when all bytes are stored. If the iterable raises, nothing
        appears and the error is raised again.

        reserve: called before the first byte is stored, if the name is free. If the name is taken,
        PermanentError is raised. None: replace the artifact that has the name.
        Raises RefusedError if ``--artifact-stores`` does not contain the URL, TemporaryError, PermanentError.
        """
        ...


class ArtifactRecorder:
    """Records each upload as a PUT, then forwards it if there is a store to forward to.

    requests: the list in which the requests of the attempt are recorded.
    stores: the stores of ``--artifact-stores``; None allows every store.
    allow: called before each upload that is forwarded; raises TemporaryError to prevent it.
    """

    def __init__(
        self,
        requests: list[OutboundRequest] | None = None,
        forward: ArtifactStore | None = None,
        stores: Collection[ArtifactUrl] | None = None,
        allow: Callable[[], None] = lambda: None,
    ) -> None:
        self._requests = [] if requests is None else requests
        self._forward, self._allow = forward, allow
        self._stores = stores

    def check(self, url: str) -> None:
        """Raise RefusedError if no artifact can be stored at the URL. Call it before the bytes are made."""
        check_store(parse_artifact_url(url), self._stores)

    def plan(self, url: str) -> None:
        """In a preview, record an upload that a later attempt would make."""
        if self._forward is None:
            self.write(url, (), reserve=None, media_type="")

    def write(
        self,
        url: str,
        chunks: Iterable[bytes],
        *,
        reserve: Callable[[], None] | None,
        media_type: str,
    ) -> Artifact | None:
        """Record an upload and forward it; see ``ArtifactStore.write``. In a preview, return None."""
        parsed = parse_artifact_url(url)
        check_store(parsed, self._stores)
        if self._forward is not None:
            self._allow()
        self._requests.append(OutboundRequest("PUT", str(parsed)))
        if self._forward is None:
            return None
        return self._forward.write(parsed, chunks, reserve=reserve, media_type=media_type)
