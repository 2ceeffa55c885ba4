"""Artifacts in S3, Google Cloud Storage and Azure, through obstore.

obstore reads credentials and endpoints from the variables of each cloud (``AWS_…``, ``GOOGLE_…``, ``AZURE_…``)
and from the identity of the pod. Import this module late: obstore takes 30 ms.
"""

from __future__ import annotations

import itertools
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from engine.model.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from engine.artifacts.url import ArtifactUrl

PART = 8 << 20
"""Bytes of a part of an upload. S3 allows 10,000 parts and at least 5 MiB each."""
CONCURRENT_PARTS = 2
"""Parts of one upload at a time. The memory of an upload is about three parts."""
_CONNECT = timedelta(seconds=5)
_RETRIES = 2
_PERMANENT = (
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
    exceptions.InvalidPathError,
    exceptions.NotSupportedError,
    exceptions.UnknownConfigurationKeyError,
    FileNotFoundError,  # the bucket does not exist
)
_STORES: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
_ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
"""The variables that allow an endpoint without TLS. obstore ignores them if options of the client are given."""


def write_object(
    url: ArtifactUrl,
    chunks: Iterable[bytes],
    *,
    reserve: Callable[[], None] | None,
    media_type: str,
    seconds: float,
) -> None:
    """Upload an object. It appears when all bytes are stored. If not all can be, its parts are removed.

    seconds: for one request with its retries. Raises PermanentError, TemporaryError, the errors of the iterable.
    """
    source = _Source(chunks)
    bucket = f"{url.scheme}://{url.bucket}"
    try:
        store = _STORES[url.scheme](
            url.bucket,
            client_options={
                "timeout": timedelta(seconds=seconds),
                "connect_timeout": _CONNECT,
                "allow_http": os.environ.get(_ALLOW_HTTP[url.scheme]) == "true",
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=seconds)},
        )
        if reserve:
            _require_new(store, url)
            reserve()
        _put(store, url.key, source, media_type)
    except (exceptions.BaseError, OSError, ValueError) as error:
        if error is source.error:
            raise
        kind = PermanentError if isinstance(error, _PERMANENT) else None
        what = f"{bucket}: {_first_line(error)}"
        raise kind(what) if kind else TemporaryError(what, answered=True) from None


def _put(store: Any, key: str, source: _Source, media_type: str) -> None:
    """Upload in one request if the object has one part, otherwise in parts."""
    first, rest = bytearray(), iter(source)
    for chunk in rest:
        first += chunk
        if len(first) >= PART:
            break
    options: dict[str, Any] = {"attributes": {"Content-Type": media_type}}
    if len(first) < PART:
        obstore.put(store, key, bytes(first), use_multipart=False, **options)
        return
    parts = itertools.chain([bytes(first)], rest)
    del first
    obstore.put(store, key, parts, chunk_size=PART, max_concurrency=CONCURRENT_PARTS, **options)


def _require_new(store: Any, url: ArtifactUrl) -> None:
    """Raise PermanentError if the object exists. An account that may not read objects cannot check this."""
    try:
        obstore.head(store, url.key)
    except (FileNotFoundError, exceptions.PermissionDeniedError):
        return
    raise PermanentError(f"the artifact {url} exists (put %run.id into its name)")


def _first_line(error: Exception) -> str:
    """Return the first line of an error. The rest is a dump of the library's structures."""
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__


class _Source:
    """Iterates over chunks and keeps the error that ends them, to tell it from an error of the store."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except BaseException as error:  # kept and raised again
            self.error = error
            raise
