"""Bodies with ``Content-Encoding: gzip``, as log collectors send them."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from engine.server.messages import json_reply

if TYPE_CHECKING:
    from engine.server.messages import Reply, Request

MAX_MEMBERS = 100
"""gzip members of a body; each costs some microseconds, and an empty one has only 20 bytes."""
_CHUNK = 4_096
_GZIP = 16 + zlib.MAX_WBITS
"""The window bits by which zlib reads gzip's header and checksum."""


class EncodingError(ValueError):
    """A body that cannot be unpacked. status: HTTP's."""

    def __init__(self, status: int, what: str, hint: str) -> None:
        super().__init__(what)
        self.status, self.hint = status, hint


def reject(request: Request) -> Reply | None:
    """415 for any content coding other than gzip; RFC 9110, sections 8.4.1 and 15.5.16."""
    if _codings(request) in ([], ["gzip"]):
        return None
    what = {"error": "this Content-Encoding is not supported", "hint": "send gzip, or none"}
    return json_reply(415, what, (b"accept-encoding", b"gzip"))


def unpacked(request: Request, most: int) -> bytes:
    """The body without its coding. most: bytes it may have. Raises EncodingError with 400 or 413."""
    if not _codings(request):
        return request.body
    try:
        return _gunzip(request.body, most)
    except zlib.error:
        raise EncodingError(
            400, "the body is not valid gzip", "send it whole and as gzip"
        ) from None


def _codings(request: Request) -> list[str]:
    given = request.headers.get(b"content-encoding")
    if given is None:
        return []
    codings = [coding.strip().lower() for coding in given.decode("latin-1").split(",")]
    return ["gzip" if one == "x-gzip" else one for one in codings if one not in ("", "identity")]


def _gunzip(packed: bytes, most: int) -> bytes:
    parts: list[bytes] = []
    room, at = most, 0
    for _ in range(MAX_MEMBERS):
        member = zlib.decompressobj(_GZIP)
        while not member.eof:
            chunk = packed[at : at + _CHUNK]
            if not chunk:
                raise EncodingError(400, "the gzip body is cut off", "send it whole")
            at += len(chunk)
            # one byte more than fits, so that no more than that is ever unpacked
            parts.append(member.decompress(chunk, room + 1))
            room -= len(parts[-1])
            if room < 0:
                what = f"a body has at most {most >> 20} MiB unpacked"
                raise EncodingError(413, what, "send fewer events at once")
        at -= len(member.unused_data)
        if not packed[at : at + 1].strip(b"\0"):  # the end, or padding: RFC 1952 has none, tar has
            return b"".join(parts)
    raise EncodingError(400, f"the body has more than {MAX_MEMBERS} gzip members", "send one")
