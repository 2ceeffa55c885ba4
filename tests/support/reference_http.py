"""A simple, slow parser of HTTP/1.1 requests (RFC 9112), to which tests compare the real one.

It reads the whole input byte by byte, shares no code with the engine, and checks no limits of size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TCHAR = set(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
VALUE = {9, *range(32, 127), *range(128, 256)}
DIGITS = set(b"0123456789")
HEX = DIGITS | set(b"abcdefABCDEF")
METHODS = {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"}
"""Methods that tests send and the engine accepts. It may refuse others."""


@dataclass
class Message:
    """A request."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes
    keep: bool


@dataclass
class Reading:
    """messages: the complete requests. wrong: why the input after them is not valid, or None."""

    messages: list[Message] = field(default_factory=list)
    wrong: str | None = None


class WrongError(Exception):
    """The input is not valid."""


class ShortError(Exception):
    """The input ends within a request."""


def read(data: bytes) -> Reading:
    """Return the requests of the input, up to one that closes the connection."""
    reading = Reading()
    while data:
        if data.startswith(b"\r\n"):
            data = data[2:]
            continue
        try:
            message, data = one(data)
        except WrongError as error:
            reading.wrong = str(error)
            break
        except ShortError:
            break
        reading.messages.append(message)
        if not message.keep:
            break
    return reading


def line(data: bytes) -> tuple[bytes, bytes]:
    """Return the first line without its CRLF, and the rest. A bare CR or LF does not end it (section 2.2)."""
    for at, byte in enumerate(data):
        if byte == 10:
            raise WrongError("LF without CR")
        if byte == 13:
            if at + 1 == len(data):
                raise ShortError
            if data[at + 1] != 10:
                raise WrongError("CR without LF")
            return data[:at], data[at + 2 :]
    raise ShortError


def fields(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the field lines up to the empty line (section 5), and the rest."""
    found = []
    while True:
        text, data = line(data)
        if not text:
            return found, data
        name, colon, value = text.partition(b":")
        if not colon or not name or not set(name) <= TCHAR:
            raise WrongError("a field line without a name")
        if not set(value) <= VALUE:
            raise WrongError("a control character in a value")
        found.append((name.lower(), value.strip(b" \t")))


def one(data: bytes) -> tuple[Message, bytes]:
    """Return the first request, and the rest."""
    if b"\r\n\r\n" not in data:  # a head is parsed when it is complete
        begun(data)
    first, rest = line(data)
    found, rest = fields(rest)
    parts = first.split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise WrongError("request line")
    method, target, version = parts
    if method not in METHODS:
        raise WrongError("method")
    headers: dict[bytes, bytes] = {}
    for name, value in found:
        headers[name] = headers[name] + b", " + value if name in headers else value
    hosts = [value for name, value in found if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == b"HTTP/1.1"):
        raise WrongError("Host")
    if hosts and not authority(hosts[0]):
        raise WrongError("Host")
    target = origin_form(method, target, headers)
    body, rest = framed(version, found, rest)
    options = [
        option.strip(b" \t").lower()
        for name, value in found if name == b"connection"
        for option in value.split(b",")
    ]  # fmt: skip
    keep = b"close" not in options and (version == b"HTTP/1.1" or b"keep-alive" in options)
    return Message(method, target, headers, body, keep), rest


def begun(data: bytes) -> None:
    """Raise the error for an incomplete head."""
    if data[0] not in TCHAR and data != b"\r":
        raise WrongError("method")
    if any(byte == 10 and data[at - 1] != 13 for at, byte in enumerate(data)):
        raise WrongError("LF without CR")
    raise ShortError


def framed(version: bytes, found: list[tuple[bytes, bytes]], rest: bytes) -> tuple[bytes, bytes]:
    """Return the body (section 6), and the rest."""
    codings = [value.lower() for name, value in found if name == b"transfer-encoding"]
    lengths = [value for name, value in found if name == b"content-length"]
    if codings and (lengths or version == b"HTTP/1.0" or codings != [b"chunked"]):
        raise WrongError("framing")
    if len(lengths) > 1 or any(not value or not set(value) <= DIGITS for value in lengths):
        raise WrongError("Content-Length")
    if codings:
        return chunks(rest)
    size = int(lengths[0]) if lengths else 0
    if len(rest) < size:
        raise ShortError
    return rest[:size], rest[size:]


def authority(text: bytes) -> bool:
    """Whether a text is a host with an optional port, without user information."""
    host, colon, port = text.rpartition(b":")
    if not colon or text.endswith(b"]"):
        host, port = text, b""
    if not set(port) <= DIGITS:
        return False
    if host.startswith(b"["):
        return host.endswith(b"]") and len(host) > 2 and set(host[1:-1]) <= HEX | set(b":.")
    return set(host) <= TCHAR - set(b"#^`|") | set(b"();,=")


def origin_form(method: bytes, target: bytes, headers: dict[bytes, bytes]) -> bytes:
    """Return the target as a path (section 3.2)."""
    if any(byte <= 32 or byte >= 127 for byte in target) or b"#" in target:
        raise WrongError("target")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https"):
        raise WrongError("target")
    end = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    if not end or not authority(rest[:end]):
        raise WrongError("target")
    headers[b"host"], path = rest[:end], rest[end:]
    if not path and method == b"OPTIONS":
        return b"*"
    return path if path.startswith(b"/") else b"/" + path


def chunks(data: bytes) -> tuple[bytes, bytes]:
    """Return a chunked body (section 7.1), and the rest. Trailers are discarded."""
    body = b""
    while True:
        text, data = line(data)
        digits = 0
        while digits < len(text) and text[digits] in HEX:
            digits += 1
        if not 0 < digits <= 16 or not extensions(text[digits:]):
            raise WrongError("chunk size")
        size = int(text[:digits], 16)
        if not size:
            _, data = fields(data)
            return body, data
        if len(data) < size + 2:
            if data[size:] not in (b"", b"\r"):
                raise WrongError("chunk end")
            raise ShortError
        if data[size : size + 2] != b"\r\n":
            raise WrongError("chunk end")
        body += data[:size]
        data = data[size + 2 :]


def extensions(text: bytes) -> bool:
    """Whether a text is a list of chunk extensions (section 7.1.1)."""
    while text:
        text = text.lstrip(b" \t")
        if not text.startswith(b";"):
            return False
        name, text = token(text[1:].lstrip(b" \t"))
        if not name:
            return False
        after = text.lstrip(b" \t")
        if after.startswith(b"="):
            value, text = token(after[1:].lstrip(b" \t"))
            if not value:
                quoted = quotation(text)
                if quoted is None:
                    return False
                text = quoted
    return True


def token(text: bytes) -> tuple[bytes, bytes]:
    """Return the token at the beginning, which may be empty, and the rest."""
    end = 0
    while end < len(text) and text[end] in TCHAR:
        end += 1
    return text[:end], text[end:]


def quotation(text: bytes) -> bytes | None:
    """Return the text after a quoted string, or None without one."""
    if not text.startswith(b'"'):
        return None
    at = 1
    while at < len(text):
        if text[at] == ord('"'):
            return text[at + 1 :]
        if text[at] not in VALUE:
            return None
        at += 2 if text[at] == ord("\\") else 1
    return None
