"""Reads the requests of one connection, one at a time, by RFC 9112; knows neither time nor replies.

httptools checks the syntax of a head. Where a body ends is decided here, because httptools skips the body of
a request that offers an upgrade, delivers trailers as headers, and cannot stop after one request.
"""

from __future__ import annotations

import re
from typing import Any

import httptools
import msgspec

MAX_CHUNKS = 20_000
"""Chunks of a body: 20 for each of 1,000 events. Decoding so many takes some 50 ms."""
_MAX_LINE = 1_024
"""Bytes of a line with the size of a chunk and its extensions."""
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FIRST = re.compile(_TOKEN)
_LINE = re.compile(_TOKEN + rb" [!-~]+ HTTP/1\.[01]")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]+)((?:[/?].*)?)")
_EXTENSION = (
    rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*"
    rb"(?:%b|\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\"))?" % (_TOKEN, _TOKEN)
)
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:%b)*)\r\n" % _EXTENSION)
_TRAILER = re.compile(_TOKEN + rb":[\t -~\x80-\xff]*\r\n")


class BadRequest(Exception):  # noqa: N818 - the name of status 400
    """Input that is not a valid request. status: 400, 405, 413, 414 or 431."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Head(msgspec.Struct, frozen=True, eq=False):
    """The head of a request.

    target: in origin form (``/path?query``) or ``*``. headers: by name in lower case; values of a name that
    occurs several times are joined with a comma. version: ``1.0`` or ``1.1``. keep: whether the sender wants
    the connection to stay open. length: bytes of the body, None if the body is chunked.
    """

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    version: str
    keep: bool
    length: int | None


class Reader:
    """Separates the input of a connection into heads and bodies.

    head_bytes: limit of a head, and of the trailers and chunk extensions of a body. fields: limit of the
    number of headers, and of trailers.
    """

    def __init__(self, head_bytes: int, fields: int) -> None:
        self._head_bytes, self._fields = head_bytes, fields
        self._data, self._at, self._seen = b"", 0, 0
        self._need = 0
        self._chunks: _Chunks | None = None

    @property
    def left(self) -> int:
        """Bytes of input that are not read yet."""
        return len(self._data) - self._at

    @property
    def whole(self) -> bool:
        """Whether the body of the last head is read to its end."""
        return self._need == 0 if self._chunks is None else self._chunks.ended

    def add(self, data: bytes) -> None:
        """Append input."""
        if self.left:
            self._seen -= self._at
            self._data, self._at = self._data[self._at :] + data, 0
        else:
            self._data, self._at, self._seen = data, 0, 0

    def clear(self) -> None:
        """Forget the input that is not read yet."""
        self._data, self._at, self._seen = b"", 0, 0

    def head(self) -> Head | None:
        """The next head, None until all of it is there. Raises BadRequest."""
        data = self._data
        while data.startswith(b"\r\n", self._at):  # RFC 9112, section 2.2: ignored before a request
            self._at += 2
        start = self._at
        end = data.find(b"\r\n\r\n", max(start, self._seen - 3)) + 4
        if end < 4:  # noqa: PLR2004 - not found
            self._check_part(data, start)
            self._seen = len(data)
            return None
        if end - start > self._head_bytes:
            raise self._too_large(data, start)
        raw = data[start:end]
        if raw.count(b"\r\n") - 2 > self._fields:
            raise BadRequest(431, f"a head has at most {self._fields} headers")
        head = read_head(raw)
        self._at = end
        self._need = head.length or 0
        self._chunks = _Chunks(self._head_bytes, self._fields) if head.length is None else None
        return head

    def body(self) -> bytes:
        """The next part of the body, empty if none is there yet. Raises BadRequest."""
        if self._chunks is not None:
            part, self._at = self._chunks.read(self._data, self._at)
            return part
        part = self._data[self._at : self._at + self._need]
        self._at += len(part)
        self._need -= len(part)
        return part

    def _check_part(self, data: bytes, start: int) -> None:
        """Refuse an incomplete head that cannot become a valid one. Raises BadRequest."""
        if len(data) - start > self._head_bytes:
            raise self._too_large(data, start)
        first = data[start : start + 1]
        if first not in (b"", b"\r") and not _FIRST.match(first):
            raise BadRequest(400, "the first byte is not that of an HTTP method")
        if _BARE_LF.search(data, max(start, self._seen - 1)):
            raise BadRequest(400, "a line ends with LF without CR")
        if data.count(b"\n", start) - 1 > self._fields:
            raise BadRequest(431, f"a head has at most {self._fields} headers")

    def _too_large(self, data: bytes, start: int) -> BadRequest:
        if data.find(b"\r\n", start, start + self._head_bytes) < 0:
            return BadRequest(414, "the request line is too long")
        return BadRequest(431, f"a head has at most {self._head_bytes:,} bytes")


class _Chunks:
    """Decodes a chunked body (RFC 9112, section 7.1); its trailers are checked and dropped."""

    def __init__(self, most: int, fields: int) -> None:
        self._most, self._fields = most, fields
        self._need = self._number = self._extra = self._trailers = 0
        self._state = "size"
        self.ended = False

    def read(self, data: bytes, at: int) -> tuple[bytes, int]:
        """What the input from an offset on adds to the body, and the offset of what is not read."""
        out = bytearray()
        while at < len(data) and not self.ended:
            if self._state == "data":
                part = data[at : at + self._need]
                out += part
                at += len(part)
                self._need -= len(part)
                if not self._need:
                    self._state = "end"
                continue
            end = data.find(b"\n", at) + 1
            if not end:
                self._check_part(len(data) - at)
                break
            self._line(data[at:end])
            at = end
        return bytes(out), at

    def _check_part(self, size: int) -> None:
        if size > (self._most - self._extra if self._state == "trailer" else _MAX_LINE):
            raise self._too_large()

    def _line(self, line: bytes) -> None:
        if self._state == "end":
            if line != b"\r\n":
                raise BadRequest(400, "a chunk is longer than its size")
            self._state = "size"
        elif self._state == "size":
            self._size(line)
        elif line == b"\r\n":
            self.ended = True
        else:
            self._trailers += 1
            self._count(len(line))
            if self._trailers > self._fields:
                raise BadRequest(431, f"a body has at most {self._fields} trailers")
            if not _TRAILER.fullmatch(line):
                raise BadRequest(400, "a trailer is not valid")

    def _size(self, line: bytes) -> None:
        if len(line) > _MAX_LINE:
            raise self._too_large()
        size = _SIZE.fullmatch(line)
        if size is None:
            raise BadRequest(400, "the size of a chunk is not valid")
        self._count(len(size[2]))
        self._number += 1
        if self._number > MAX_CHUNKS:
            raise BadRequest(413, f"a body has at most {MAX_CHUNKS:,} chunks: send larger ones")
        self._need = int(size[1], 16)
        self._state = "data" if self._need else "trailer"

    def _count(self, size: int) -> None:
        self._extra += size
        if self._extra > self._most:
            raise self._too_large()

    def _too_large(self) -> BadRequest:
        what = f"chunk extensions and trailers together have at most {self._most:,} bytes"
        return BadRequest(431, what)


class _Fields:
    """Collects what httptools finds in a head. keep: see Head; None until the head is complete."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.keep: bool | None = None
        self.parser: Any = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name, value = name.lower(), value.strip(b" \t")
        before = self.headers.get(name)
        if before is None:
            self.headers[name] = value
        elif name == b"host":
            raise ValueError("more than one Host header")
        else:
            self.headers[name] = before + b", " + value

    def on_headers_complete(self) -> None:
        self.keep = self.parser.should_keep_alive()


def read_head(raw: bytes) -> Head:
    """The head that these bytes are, its empty line included. Raises BadRequest."""
    fields = _Fields()
    parser = fields.parser
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # RFC 9110, section 7.8: a server may ignore the offer
    except httptools.HttpParserError as error:
        raise BadRequest(400, f"not HTTP: {str(error.__context__ or error)[:100]}") from None
    finally:
        fields.parser = None  # it refers to the fields
    line = raw[: raw.index(b"\r\n")]
    if fields.keep is None or not _LINE.fullmatch(line):
        raise BadRequest(400, "the request line is not `METHOD TARGET HTTP/1.1`")
    method, version, headers = parser.get_method(), parser.get_http_version(), fields.headers
    host = headers.get(b"host")
    if host is None and version == "1.1":
        raise BadRequest(400, "a request of HTTP/1.1 has a Host header")
    if host is not None and not _HOST.fullmatch(host):
        raise BadRequest(400, "the Host header is not valid")
    target = _target(method, fields.target, headers)
    length = _length(version, headers)
    return Head(method, target, headers, version, fields.keep, length)


def _target(method: bytes, target: bytes, headers: dict[bytes, bytes]) -> bytes:
    """The target in origin form; the host of one in absolute form replaces the Host header."""
    if method == b"CONNECT":
        raise BadRequest(405, "CONNECT is not supported")
    if b"#" in target:
        raise BadRequest(400, "the target has a fragment")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not _HOST.fullmatch(absolute[1]):
        raise BadRequest(400, "the target is neither a path nor a URL")
    headers[b"host"] = absolute[1]  # RFC 9112, section 3.2.2
    path = absolute[2]
    if path.startswith(b"/"):
        return path
    return b"*" if method == b"OPTIONS" and not path else b"/" + path


def _length(version: str, headers: dict[bytes, bytes]) -> int | None:
    """Bytes of the body, None if it is chunked (RFC 9112, section 6)."""
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
