"""Decodes bodies with ``Content-Encoding: gzip``, which log collectors send."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from engine.server.messages import json_reply

if TYPE_CHECKING:
    from engine.server.messages import Reply, Request

MAX_MEMBERS = 100
"""Largest number of gzip members in a body. Each costs some microseconds, and an empty one has only 20 bytes."""
_CHUNK = 4_096
_GZIP = 16 + zlib.MAX_WBITS
"""Window bits with which zlib reads the header and checksum of gzip."""


class EncodingError(ValueError):
    """A body cannot be decoded. status: of the HTTP reply. decoded: bytes that were decoded before the error."""

    def __init__(self, status: int, what: str, hint: str, decoded: int = 0) -> None:
        super().__init__(what)
        self.status, self.hint, self.decoded = status, hint, decoded


def reject(request: Request) -> Reply | None:
    """Return 415 for a content coding other than gzip (RFC 9110, sections 8.4.1 and 15.5.16), else None."""
    if _codings(request) in ([], ["gzip"]):
        return None
    content = {"error": "this Content-Encoding is not supported", "hint": "send gzip, or none"}
    return json_reply(415, content, (b"accept-encoding", b"gzip"))


def decode(request: Request, max_bytes: int) -> bytes:
    """Return the decoded body. max_bytes: its largest size.

    Raises EncodingError with status 400 or 413. No more than ``max_bytes + 1`` bytes are ever decoded.
    """
    return _gunzip(request.body, max_bytes) if _codings(request) else request.body


def _codings(request: Request) -> list[str]:
    """Return the content codings without ``identity``."""
    header = request.headers.get(b"content-encoding")
    if header is None:
        return []
    codings = [coding.strip().lower() for coding in header.decode("latin-1").split(",")]
    return ["gzip" if one == "x-gzip" else one for one in codings if one not in ("", "identity")]


def _gunzip(packed: bytes, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    remaining, at = max_bytes, 0
    for _ in range(MAX_MEMBERS):
        member = zlib.decompressobj(_GZIP)
        while not member.eof:
            chunk = packed[at : at + _CHUNK]
            decoded = max_bytes - remaining
            if not chunk:
                raise EncodingError(400, "the gzip body is cut off", "send it whole", decoded)
            at += len(chunk)
            try:
                # one byte more than allowed, so that a larger body is detected and not decoded further
                parts.append(member.decompress(chunk, remaining + 1))
            except zlib.error:
                hint = "send it whole and as gzip"
                raise EncodingError(400, "the body is not valid gzip", hint, decoded) from None
            remaining -= len(parts[-1])
            if remaining < 0:
                what = f"a body has at most {max_bytes >> 20} MiB unpacked"
                raise EncodingError(413, what, "send fewer events at once", max_bytes)
        at -= len(member.unused_data)
        if not packed[at : at + 1].strip(b"\0"):  # the end, or padding as in tar archives
            return b"".join(parts)
    what = f"the body has more than {MAX_MEMBERS} gzip members"
    raise EncodingError(400, what, "send one", max_bytes - remaining)
