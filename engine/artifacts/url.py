"""URLs of artifacts: parse them, and check them against ``--artifact-stores``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from engine.model.errors import RefusedError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection

FORM = "file:///FOLDER, s3://BUCKET/KEY, gs://BUCKET/KEY or az://CONTAINER/KEY"
BUCKET = r"[a-z0-9](?:[a-z0-9._-]{1,220}[a-z0-9])"
"""The name of a bucket: S3 and Azure allow 63 characters, Google 222 if the name has dots."""
_URL = re.compile(rf"(file):///(.*)|(s3|gs|az)://({BUCKET})(?:/(.*))?", re.DOTALL)
_MAX_SEGMENT = 255
"""Bytes of a segment: the longest name of a file on Linux."""
_MAX_PATH = 1024
"""Bytes of the path: the longest key of S3, Google Cloud Storage and Azure."""
_SEGMENT = re.compile(r"[^\x00-\x1f\x7f/\\]+")


class ArtifactUrl(msgspec.Struct, frozen=True):
    """A parsed URL. bucket: "" for a file. segments: of the path, without ``.``, ``..`` and empty segments."""

    scheme: str
    bucket: str
    segments: tuple[str, ...]

    @property
    def key(self) -> str:
        """The path without its first slash."""
        return "/".join(self.segments)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def is_below(self, other: ArtifactUrl) -> bool:
        """Whether the URL names something in the folder, the bucket or the prefix ``other``."""
        same = (self.scheme, self.bucket) == (other.scheme, other.bucket)
        depth = len(other.segments)
        return same and len(self.segments) > depth and self.segments[:depth] == other.segments


def parse_artifact_url(text: str) -> ArtifactUrl:
    """Parse the URL of an artifact. Raises RefusedError; its message does not contain the URL."""
    url = _parse(text)
    if not url.segments:
        raise RefusedError("the URL of an artifact must name a file or a key")
    return url


def _parse(text: str) -> ArtifactUrl:
    found = _URL.fullmatch(text)
    if not found:
        raise RefusedError(f"the URL of an artifact must be {FORM}")
    path = found[2] if found[1] else found[5] or ""
    segments = tuple(path.split("/")) if path else ()
    if len(path.encode("utf-8", "replace")) > _MAX_PATH:
        raise RefusedError(f"the path of an artifact has more than {_MAX_PATH} bytes")
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or set(segment) == {"."}:
            raise RefusedError(
                "the path of an artifact has a segment that is empty, `.` or `..`, "
                "or that contains a backslash or a control character"
            )
        if len(segment.encode("utf-8", "replace")) > _MAX_SEGMENT:
            raise RefusedError(f"a segment of the path has more than {_MAX_SEGMENT} bytes")
    return ArtifactUrl(found[1] or found[3], found[4] or "", segments)


def store_list(text: str | None) -> tuple[ArtifactUrl, ...] | None:
    """Parse a comma-separated list of stores. Return None if no list is given.

    Raises SettingsError for an entry that is not the URL of a folder, a bucket or a prefix.
    """
    if text is None:
        return None
    return tuple(_parse_store(entry.strip()) for entry in text.split(",") if entry.strip())


def _parse_store(entry: str) -> ArtifactUrl:
    try:
        url = _parse(entry.removesuffix("/") if entry.count("/") > 3 else entry)  # noqa: PLR2004 - file:///
    except RefusedError as error:
        raise SettingsError(f"--artifact-stores: `{entry[:200]}`: {error}") from None
    if url.scheme == "file" and not url.segments:
        raise SettingsError("--artifact-stores: file:/// would allow every file; name a folder")
    return url


def check_store(url: ArtifactUrl, stores: Collection[ArtifactUrl] | None) -> ArtifactUrl | None:
    """Return the store of ``--artifact-stores`` that contains the artifact.

    None if no list is given, which allows every store. Raises RefusedError if no store contains it.
    """
    if stores is None:
        return None
    for store in stores:
        if url.is_below(store):
            return store
    where = f"{url.scheme}://{url.bucket}"
    raise RefusedError(
        f"no store of --artifact-stores contains {where}{'' if url.bucket else '/…'}"
    )
