"""Framing: requests that RFC 9112 rejects, ignored upgrades, limits of heads and chunks."""

from __future__ import annotations

import pytest
from engine.server.framing import MAX_CHUNKS, BadRequest, RequestReader
from tests.server.test_connection import Talk

H = b"POST / HTTP/1.1\r\nhost: t\r\n"
CHUNKED = H + b"transfer-encoding: chunked\r\n\r\n"

REFUSED = {
    "no Host": (400, b"POST / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, H + b"host: t\r\n\r\n"),
    "a Host with a path": (400, b"POST / HTTP/1.1\r\nhost: t/x\r\n\r\n"),
    "a Host with a user": (400, b"POST / HTTP/1.1\r\nhost: a@t\r\n\r\n"),
    "a Host with a list": (400, b"POST / HTTP/1.1\r\nhost: a, b\r\n\r\n"),
    "HTTP/2.0": (400, b"POST / HTTP/2.0\r\nhost: t\r\n\r\n"),
    "the preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9": (400, b"POST /\r\n\r\n"),
    "HTTP/0.9 by name": (400, b"POST / HTTP/0.9\r\nhost: t\r\n\r\n"),
    "HTTP/9.9": (400, b"POST / HTTP/9.9\r\nhost: t\r\n\r\n"),
    "RTSP": (400, b"POST / RTSP/1.0\r\nhost: t\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01"),
    "no target": (400, b"GET\r\n\r\n"),
    "an unknown method": (400, b"NO WAY\r\n\r\n"),
    "a target without a slash": (400, b"POST events HTTP/1.1\r\nhost: t\r\n\r\n"),
    "a target with a fragment": (400, b"POST /a#b HTTP/1.1\r\nhost: t\r\n\r\n"),
    "a target with a space": (400, b"POST /a b HTTP/1.1\r\nhost: t\r\n\r\n"),
    "a target of another scheme": (400, b"POST ftp://t/ HTTP/1.1\r\nhost: t\r\n\r\n"),
    "a target with a user": (400, b"POST http://a@t/ HTTP/1.1\r\nhost: t\r\n\r\n"),
    "an asterisk": (400, b"POST * HTTP/1.1\r\nhost: t\r\n\r\n"),
    "CONNECT": (405, b"CONNECT t:1 HTTP/1.1\r\nhost: t\r\n\r\n"),
    "two spaces": (400, b"POST  / HTTP/1.1\r\nhost: t\r\n\r\n"),
    "a space after the version": (400, b"POST / HTTP/1.1 \r\nhost: t\r\n\r\n"),
    "a CR before the method": (400, b"\rPOST / HTTP/1.1\r\nhost: t\r\n\r\n"),
    "a line that ends with LF": (400, b"POST / HTTP/1.1\nhost: t\n\n"),
    "one line that ends with LF": (400, H + b"a: b\n\r\n"),
    "a bare CR": (400, H + b"a: b\rc: d\r\n\r\n"),
    "NUL": (400, H + b"a: \x00\r\n\r\n"),
    "a line that is continued": (400, H + b"a: b\r\n c\r\n\r\n"),
    "a first header that is continued": (400, b"POST / HTTP/1.1\r\n host: t\r\n\r\n"),
    "a space before the colon": (400, H + b"a : b\r\n\r\n"),
    "a header without a colon": (400, H + b"a\r\n\r\n"),
    "a header without a name": (400, H + b": b\r\n\r\n"),
    "two lengths": (400, H + b"content-length: 1\r\ncontent-length: 2\r\n\r\na"),
    "a list of lengths": (400, H + b"content-length: 1, 1\r\n\r\na"),
    "a signed length": (400, H + b"content-length: +1\r\n\r\na"),
    "a hexadecimal length": (400, H + b"content-length: 0x1\r\n\r\na"),
    "an empty length": (400, H + b"content-length:\r\n\r\n"),
    "a length beyond 64 bits": (400, H + b"content-length: 99999999999999999999\r\n\r\n"),
    "a length and chunks": (400, H + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"),
    "chunks and a length": (400, H + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n"),
    "chunks over HTTP/1.0": (400, CHUNKED.replace(b"1.1", b"1.0")),
    "gzip, chunked": (400, H + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked, gzip": (400, H + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    "chunked twice": (400, H + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n"),
    "identity": (400, H + b"transfer-encoding: identity\r\n\r\n"),
    "a chunk of 0x1": (400, CHUNKED + b"0x1\r\na\r\n0\r\n\r\n"),
    "a chunk of -1": (400, CHUNKED + b"-1\r\na\r\n0\r\n\r\n"),
    "a chunk without a size": (400, CHUNKED + b"\r\na\r\n0\r\n\r\n"),
    "a chunk of 17 digits": (400, CHUNKED + b"00000000000000001\r\na\r\n0\r\n\r\n"),
    "a chunk with a space": (400, CHUNKED + b"1 \r\na\r\n0\r\n\r\n"),
    "a chunk that ends with LF": (400, CHUNKED + b"1\na\n0\n\n"),
    "a chunk that is too long": (400, CHUNKED + b"1\r\nab\r\n0\r\n\r\n"),
    "an extension without a name": (400, CHUNKED + b"1;\r\na\r\n0\r\n\r\n"),
    "a trailer without a colon": (400, CHUNKED + b"0\r\na\r\n\r\n"),
    "a trailer that is continued": (400, CHUNKED + b"0\r\na: b\r\n c\r\n\r\n"),
    "a long request line": (414, b"POST /" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: t\r\n\r\n"),
    "a long header": (431, H + b"a: " + b"b" * 40_000 + b"\r\n\r\n"),
    "a header without end": (431, H + b"a: " + b"b" * 40_000),
    "9,700 headers": (431, H + b"a:\r\n" * 9_700 + b"\r\n"),
    "101 headers": (431, H + b"a:\r\n" * 100 + b"\r\n"),
    "headers without end": (431, H + b"a:\r\n" * 9_700),
    "101 trailers": (431, CHUNKED + b"0\r\n" + b"a:\r\n" * 101 + b"\r\n"),
    "a trailer without end": (431, CHUNKED + b"0\r\na: " + b"b" * 40_000),
    "long trailers": (431, CHUNKED + b"0\r\n" + (b"a: " + b"b" * 1_000 + b"\r\n") * 40 + b"\r\n"),
    "an extension without end": (431, CHUNKED + b"1;" + b"b" * 40_000),
    "long extensions": (431, CHUNKED + (b"1;" + b"b" * 1_000 + b"\r\na\r\n") * 40),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_request_is_rejected_however_it_is_split(name):
    status, said = REFUSED[name]
    for size in (len(said), 999, *([1] if len(said) < 1_000 else [])):
        talk = Talk().say(*(said[at : at + size] for at in range(0, len(said), size)))
        assert (talk.statuses, talk.pipe.closed, talk.port.asked) == ([status], True, [])
        assert talk.shared.buffered_bytes == 0


TAKEN = {
    "a header": (H + b"a: b\r\n\r\n", "/", b""),
    "a host with a port": (b"POST / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n", "/", b""),
    "an empty host": (b"POST / HTTP/1.1\r\nhost:\r\n\r\n", "/", b""),
    "HTTP/1.0 without Host": (b"POST / HTTP/1.0\r\ncontent-length: 1\r\n\r\na", "/", b"a"),
    "empty lines before it": (b"\r\n\r\n" + H + b"\r\n", "/", b""),
    "a URL": (b"POST http://t/a?b HTTP/1.1\r\nhost: x\r\n\r\n", "/a", b""),
    "a URL without a path": (b"POST http://t?b HTTP/1.1\r\nhost: x\r\n\r\n", "/", b""),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\nhost: t\r\n\r\n", "*", b""),
    "the asterisk of a URL": (b"OPTIONS http://t HTTP/1.1\r\nhost: t\r\n\r\n", "*", b""),
    "100 headers": (H + b"a:\r\n" * 99 + b"\r\n", "/", b""),
    "chunks": (CHUNKED + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "/", b"abc"),
    "extensions": (CHUNKED + b'1;a;b=c ; d="e;\\"f"\r\na\r\n00;x\r\n\r\n', "/", b"a"),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\nx-a: b\r\nhost: evil\r\n\r\n", "/", b"a"),
    "capitals": (H + b"TRANSFER-ENCODING: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", "/", b"0123456789"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_a_valid_request_is_accepted_however_it_is_split(name):
    said, path, body = TAKEN[name]
    for size in (len(said), 7, 1):
        talk = Talk().say(*(said[at : at + size] for at in range(0, len(said), size)))
        (asked,) = talk.port.asked
        assert (talk.statuses, asked.path, asked.body) == ([200], path, body)


@pytest.mark.parametrize("offer", ["h2c", "websocket", "TLS/1.2"])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("size", [10**6, 5, 1])
def test_a_request_that_offers_an_upgrade_keeps_its_body_and_the_next_requests(
    offer, chunked, size
):
    offered = (
        b"connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AA\r\nupgrade: %b\r\n"
        % offer.encode()
    )
    first = CHUNKED[:-2] + offered + b"\r\n3\r\nabc\r\n0\r\n\r\n"
    if not chunked:
        first = H + offered + b"content-length: 3\r\n\r\nabc"
    said = first + H + b"content-length: 3\r\n\r\ndef" + first
    talk = Talk().say(*(said[at : at + size] for at in range(0, len(said), size)))
    assert [asked.body for asked in talk.port.asked] == [b"abc", b"def", b"abc"]
    assert (talk.statuses, talk.pipe.closed) == ([200] * 3, False)


def test_trailers_do_not_become_headers():
    said = CHUNKED + b"1\r\na\r\n0\r\nauthorization: Bearer x\r\norigin: t\r\n\r\n"
    talk = Talk().say(said)
    assert talk.port.asked[0].headers.keys() == {b"host", b"transfer-encoding"}


def test_a_repeated_header_has_both_values():
    talk = Talk().say(H + b"authorization: Bearer a \r\nauthorization: Bearer b\r\n\r\n")
    assert talk.port.asked[0].headers[b"authorization"] == b"Bearer a, Bearer b"


def test_the_host_of_a_url_replaces_the_header():
    talk = Talk().say(
        b"GET http://evil.example.com:8081/status HTTP/1.1\r\nhost: localhost\r\n\r\n"
    )
    assert talk.port.asked[0].headers[b"host"] == b"evil.example.com:8081"


def test_the_number_of_chunks_is_limited():
    reader = RequestReader(32_768, 100)
    reader.add(CHUNKED)
    assert reader.head().body_length is None
    reader.add(b"1\r\na\r\n" * MAX_CHUNKS)
    assert len(reader.body()) == MAX_CHUNKS
    reader.add(b"1\r\na\r\n")
    with pytest.raises(BadRequest, match="at most 20,000 chunks"):
        reader.body()
