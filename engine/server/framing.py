"""Splits the input of one connection into requests (RFC 9112). Knows neither timeouts nor replies.

httptools checks the syntax of a head. This module decides where a body ends, because httptools skips the body
of a request that offers an upgrade, delivers trailers as headers, and cannot stop after one request.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import httptools

from engine.server.messages import Request

MAX_CHUNKS = 20_000
"""Largest number of chunks in a body: 20 for each of 1,000 events. Decoding this many takes about 50 ms."""
_MAX_CHUNK_LINE = 1_024
"""Largest size in bytes of a line with a chunk size and its extensions."""
_CACHED_HEADS, _MAX_CACHED_HEAD = 1_024, 1_024
"""Number of parsed heads in the cache, and their largest size in bytes: at most about 5 MiB together.

The heads of a sender differ only in Content-Length, so most of them repeat. A parse costs as much as
everything else that the connection does for a request.
"""
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_METHOD_START = re.compile(_TOKEN)
_REQUEST_LINE = re.compile(rb"(%b) ([!-~]+) HTTP/(1\.[01])" % _TOKEN)
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_URL = re.compile(rb"(?i:https?)://([^/?]+)((?:[/?].*)?)")
_EXTENSION = (
    rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*"
    rb"(?:%b|\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\"))?" % (_TOKEN, _TOKEN)
)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:%b)*)\r\n" % _EXTENSION)
_TRAILER = re.compile(_TOKEN + rb":[\t -~\x80-\xff]*\r\n")


class BadRequest(Exception):  # noqa: N818 - the name of status 400
    """The input is not a valid request. status: 400, 405, 413, 414 or 431."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestReader:
    """Splits input into requests and their bodies.

    max_head: largest size in bytes of a head, and of the trailers and chunk extensions of a body.
    max_headers: largest number of headers, and of trailers.
    """

    __slots__ = ("_at", "_chunks", "_data", "_max_head", "_max_headers", "_missing", "_searched")

    def __init__(self, max_head: int, max_headers: int) -> None:
        self._max_head, self._max_headers = max_head, max_headers
        self._data, self._at = b"", 0
        self._searched = 0
        self._missing = 0
        self._chunks: _ChunkDecoder | None = None

    def unread(self) -> int:
        """Return the number of input bytes that are not read yet."""
        return len(self._data) - self._at

    def body_complete(self) -> bool:
        """Return whether the body of the last request is read completely."""
        return self._missing == 0 if self._chunks is None else self._chunks.complete

    def add(self, data: bytes) -> None:
        """Append input."""
        if self._at < len(self._data):
            self._searched = max(0, self._searched - self._at)
            data = self._data[self._at :] + data
        else:
            self._searched = 0
        self._data, self._at = data, 0

    def clear(self) -> None:
        """Discard the unread input."""
        self._data, self._at, self._searched = b"", 0, 0

    def head(self) -> Request | None:
        """Return the next request without its body, None if its head is incomplete. Raises BadRequest."""
        data, start = self._data, self._at
        while data.startswith(b"\r\n", start):  # RFC 9112, section 2.2: ignored before a request
            start += 2
        self._at = start
        searched = self._searched - 3
        end = data.find(b"\r\n\r\n", max(searched, start)) + 4
        if end < 4:  # noqa: PLR2004 - not found
            self._check_incomplete(data, start)
            self._searched = len(data)
            return None
        if end - start > self._max_head:
            raise self._too_large(data, start)
        parse = _parse_head if end - start > _MAX_CACHED_HEAD else _cached_parse_head
        method, target, headers, version, keep_alive, length = parse(
            data[start:end], self._max_headers
        )
        self._at = end
        if length is None:
            self._missing, self._chunks = 0, _ChunkDecoder(self._max_head, self._max_headers)
        else:
            self._missing, self._chunks = length, None
        return Request(method, target, headers, None, 0.0, b"", version, keep_alive, length)

    def body(self) -> bytes:
        """Return the next part of the body, empty if none is available. Raises BadRequest."""
        if self._chunks is not None:
            part, self._at = self._chunks.read(self._data, self._at)
            return part
        start = self._at
        part = self._data[start : start + self._missing]
        self._at = start + len(part)
        self._missing -= len(part)
        return part

    def _check_incomplete(self, data: bytes, start: int) -> None:
        """Reject an incomplete head that cannot become a valid one. Raises BadRequest."""
        if len(data) - start > self._max_head:
            raise self._too_large(data, start)
        first = data[start : start + 1]
        if first not in (b"", b"\r") and not _METHOD_START.match(first):
            raise BadRequest(400, "the first byte is not that of an HTTP method")
        if _BARE_LF.search(data, max(start, self._searched - 1)):
            raise BadRequest(400, "a line ends with LF without CR")
        if data.count(b"\n", start) - 1 > self._max_headers:
            raise _too_many_headers(self._max_headers)

    def _too_large(self, data: bytes, start: int) -> BadRequest:
        if data.find(b"\r\n", start, start + self._max_head) < 0:
            return BadRequest(414, "the request line is too long")
        return BadRequest(431, f"a head has at most {self._max_head:,} bytes")


class _ChunkDecoder:
    """Decodes a chunked body (RFC 9112, section 7.1). Checks the trailers and drops them."""

    def __init__(self, max_extra: int, max_trailers: int) -> None:
        self._max_extra, self._max_trailers = max_extra, max_trailers
        self._missing = self._chunks = self._extra = self._trailers = 0
        self._state = "size"
        self.complete = False

    def read(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Decode the input from an offset on. Return the decoded bytes and the offset of the unread input."""
        decoded = bytearray()
        while at < len(data) and not self.complete:
            if self._state == "data":
                part = data[at : at + self._missing]
                decoded += part
                at += len(part)
                self._missing -= len(part)
                if not self._missing:
                    self._state = "end"
                continue
            end = data.find(b"\n", at) + 1
            if not end:
                self._check_incomplete(len(data) - at)
                break
            self._read_line(data[at:end])
            at = end
        return bytes(decoded), at

    def _check_incomplete(self, size: int) -> None:
        in_trailers = self._state == "trailer"
        if size > (self._max_extra - self._extra if in_trailers else _MAX_CHUNK_LINE):
            raise self._too_large()

    def _read_line(self, line: bytes) -> None:
        if self._state == "end":
            if line != b"\r\n":
                raise BadRequest(400, "a chunk is longer than its size")
            self._state = "size"
        elif self._state == "size":
            self._read_size(line)
        elif line == b"\r\n":
            self.complete = True
        else:
            self._trailers += 1
            self._count_extra(len(line))
            if self._trailers > self._max_trailers:
                raise BadRequest(431, f"a body has at most {self._max_trailers} trailers")
            if not _TRAILER.fullmatch(line):
                raise BadRequest(400, "a trailer is not valid")

    def _read_size(self, line: bytes) -> None:
        if len(line) > _MAX_CHUNK_LINE:
            raise self._too_large()
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise BadRequest(400, "the size of a chunk is not valid")
        self._count_extra(len(size[2]))
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise BadRequest(413, f"a body has at most {MAX_CHUNKS:,} chunks: send larger ones")
        self._missing = int(size[1], 16)
        self._state = "data" if self._missing else "trailer"

    def _count_extra(self, size: int) -> None:
        self._extra += size
        if self._extra > self._max_extra:
            raise self._too_large()

    def _too_large(self) -> BadRequest:
        what = f"chunk extensions and trailers together have at most {self._max_extra:,} bytes"
        return BadRequest(431, what)


class _Head(NamedTuple):
    """A parsed head. The fields are those of Request. Heads are cached, so nothing may change ``headers``."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    version: str
    keep_alive: bool
    body_length: int | None


def _parse_head(raw: bytes, max_headers: int) -> _Head:
    """Parse and check a complete head, which ends with an empty line. Raises BadRequest."""
    lines = raw.split(b"\r\n")
    if len(lines) - 3 > max_headers:  # request line, empty line, and what follows the last CRLF
        raise _too_many_headers(max_headers)
    _check_syntax(raw)
    method, target, version, url_host = _parse_request_line(lines[0])
    headers: dict[bytes, bytes] = {}
    for line in lines[1:-2]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name in headers:
            if name == b"host":
                raise BadRequest(400, "more than one Host header")
            value = headers[name] + b", " + value
        headers[name] = value
    host = headers.get(b"host")
    if host is None:
        if version == "1.1":
            raise BadRequest(400, "a request of HTTP/1.1 has a Host header")
    elif not _HOST.fullmatch(host):
        raise BadRequest(400, "the Host header is not valid")
    if url_host is not None:
        headers[b"host"] = url_host  # RFC 9112, section 3.2.2
    keep_alive = _keep_alive(version, headers.get(b"connection"))
    length = _body_length(version, headers)
    return _Head(method, target, headers, version, keep_alive, length)


_cached_parse_head = lru_cache(_CACHED_HEADS)(_parse_head)


class _NoCallbacks:
    """A protocol for httptools without callbacks; only the result of the syntax check is used."""


_NO_CALLBACKS = _NoCallbacks()


def _check_syntax(raw: bytes) -> None:
    """Check a head with httptools. Raises BadRequest.

    httptools is strict: afterwards each line of a header is ``TOKEN:VALUE``, and the lengths are valid.
    """
    try:
        httptools.HttpRequestParser(_NO_CALLBACKS).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # RFC 9110, section 7.8: a server may ignore the offer
    except httptools.HttpParserError as error:
        raise BadRequest(400, f"not HTTP: {str(error)[:100]}") from None


@lru_cache(32)
def _parse_request_line(line: bytes) -> tuple[bytes, bytes, str, bytes | None]:
    """Return method, target in origin form, version, and the host if the target is a URL.

    Raises BadRequest.
    """
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest(400, "the request line is not `METHOD TARGET HTTP/1.1`")
    method, target, version = match[1], match[2], match[3].decode()
    if method == b"CONNECT":
        raise BadRequest(405, "CONNECT is not supported")
    if b"#" in target:
        raise BadRequest(400, "the target has a fragment")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return method, target, version, None
    url = _URL.fullmatch(target)
    if url is None or not _HOST.fullmatch(url[1]):
        raise BadRequest(400, "the target is neither a path nor a URL")
    host, path = url[1], url[2]
    if not path.startswith(b"/"):
        path = b"*" if method == b"OPTIONS" and not path else b"/" + path
    return method, path, version, host


def _keep_alive(version: str, connection: bytes | None) -> bool:
    """Return whether the connection stays open (RFC 9112, section 9.3)."""
    if connection is None:
        return version == "1.1"
    options = [option.strip(b" \t").lower() for option in connection.split(b",")]
    return b"close" not in options and (version == "1.1" or b"keep-alive" in options)


def _body_length(version: str, headers: dict[bytes, bytes]) -> int | None:
    """Return the bytes of the body, None if it is chunked (RFC 9112, section 6). Raises BadRequest."""
    coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if coding is None:
        return int(length) if length is not None else 0
    if length is not None:
        raise BadRequest(400, "both Content-Length and Transfer-Encoding")
    if version == "1.0":
        raise BadRequest(400, "a request of HTTP/1.0 with Transfer-Encoding")
    if coding.lower() != b"chunked":
        raise BadRequest(400, "the only transfer coding is chunked")
    return None


def _too_many_headers(max_headers: int) -> BadRequest:
    return BadRequest(431, f"a head has at most {max_headers} headers")
