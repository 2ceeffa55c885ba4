"""Connections: the bytes of requests, and all forms of responses."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading

import pytest
from engine.cluster.kubeconfig import ApiServerAccess, Credentials
from engine.cluster.transport import ApiServer, NoResponseError, ResponseTooLongError
from kubernetes.client import Configuration
from tests.cluster.keys import make_keys
from tests.support.http_head import read_head

SHORT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Scripted(socketserver.StreamRequestHandler):
    """Answers the requests of all connections with the entries of ``script`` in turn."""

    def handle(self):
        while head := b"".join(read_head(self.rfile)):
            length = next(
                (int(line[15:]) for line in head.splitlines() if line[:15] == b"Content-Length:"), 0
            )
            self.server.asked.append((self.client_address[1], head, self.rfile.read(length)))
            answer = self.server.script.pop(0)
            with contextlib.suppress(OSError):  # the client has enough
                self.wfile.write(answer)
            if b"close" in answer.lower() or answer[-1:] == b"#":
                return


def serving(handler, context=None):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    server.asked, server.script = [], []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture
def server():
    with serving(Scripted) as one:
        yield one
        one.shutdown()


@pytest.fixture
def tls(tmp_path):
    make_keys(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    with serving(Scripted, context) as one:
        one.ca = str(tmp_path / "ca.crt")
        yield one
        one.shutdown()


def api(server, prefix="", scheme="http", header="Bearer canary", **settings):
    configuration = Configuration()
    configuration.host = f"{scheme}://127.0.0.1:{server.server_address[1]}{prefix}"
    for name, value in settings.items():
        setattr(configuration, name, value)
    return ApiServer(Credentials(lambda: ApiServerAccess(configuration, header)))


def get(api, path="/x"):
    return api.request("GET", path, (), None, 5.0)


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (SHORT, 200, b"{}"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n1\r\n \r\n0\r\n\r\n", 200, b"{} "),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.0 200 OK\r\nServer: close\r\n\r\nof old", 200, b"of old"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SHORT, 200, b"{}"),
        (b"HTTP/1.1 429 Slow\r\nRETRY-AFTER: 7\r\nContent-Length: 0\r\n\r\n", 429, b""),
    ],
)  # fmt: skip
def test_responses_of_every_form_are_read_completely(server, answer, status, body):
    server.script += [answer, SHORT]
    one = api(server)
    told = get(one)
    assert (told.status, told.data) == (status, body)
    assert told.headers.get("Retry-After") == ("7" if status == 429 else None)
    assert get(one).data == b"{}"


def test_a_connection_is_reused_unless_the_server_closes_it(server):
    closing = SHORT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    server.script += [SHORT, closing, SHORT]
    one = api(server)
    for _ in range(3):
        assert get(one).data == b"{}"
    first, second, third = (port for port, _, _ in server.asked)
    assert first == second != third


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"#", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort#", "before the response ended"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz#", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Le#", "before the response ended"),
        (b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Le#", "before the response ended"),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: #\r\n\r\nHTTP/1.1 200 OK\r\nA#",
            "before the response",
        ),
    ],
)
def test_an_incomplete_response_is_an_error_and_the_next_call_uses_a_new_connection(
    server, answer, why
):
    server.script += [answer, SHORT]
    one = api(server)
    with pytest.raises(NoResponseError, match=why):
        get(one)
    assert get(one).data == b"{}"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (33 << 20), "exceeds 32 MiB"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000, "framing"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "response head"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300, "response head"),
        (b"HTTP/1.1 103 E\r\nX: y\r\n\r\n" * 5000, "response head"),
    ],
)  # fmt: skip
def test_a_response_over_a_limit_is_an_error_that_contains_the_limit(server, answer, why):
    server.script += [answer + b"#", SHORT]
    one = api(server)
    with pytest.raises(ResponseTooLongError, match=why):
        one.request("GET", "/x", (), None, 60.0)
    assert get(one).data == b"{}"


def test_trailers_are_not_headers_and_a_compressed_body_is_not_decompressed(server):
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nRetry-After: 9\r\n\r\n"
    packed = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    server.script += [chunked, packed]
    one = api(server)
    assert get(one).headers.get("Retry-After") is None
    assert get(one).data == b"abc"


OTHER = b"HTTP/1.1 500 Other\r\nX-Other: x\r\nContent-Length: 5\r\n\r\nother"


@pytest.mark.parametrize("other", [OTHER, b"not HTTP"])
def test_bytes_after_a_response_are_ignored_and_end_the_connection(server, other):
    server.script += [SHORT + other, SHORT]
    one = api(server)
    told = get(one)
    assert (told.status, told.data, told.headers.get("X-Other")) == (200, b"{}", None)
    assert (get(one).status, len({port for port, _, _ in server.asked})) == (200, 2)


def test_a_request_has_the_expected_bytes(server):
    server.script += [SHORT]
    api(server, "/clusters/c").request(
        "PATCH", "/api/v1/pods/p", (("fieldManager", "tiercel"),), (b'{"a":"\xc3\xa9"}', "x/y"), 5.0
    )
    ((_, head, body),) = server.asked
    first, *lines = head.decode().splitlines()
    assert first == "PATCH /clusters/c/api/v1/pods/p?fieldManager=tiercel HTTP/1.1"
    assert f"Host: 127.0.0.1:{server.server_address[1]}" in lines
    assert {"authorization: Bearer canary", "Content-Type: x/y"} <= set(lines)
    assert body == b'{"a":"\xc3\xa9"}'


@pytest.mark.parametrize("token", ["Bearer a\r\nX-Other: b", "Bearer a\nb"])
def test_a_token_cannot_inject_a_header(server, token):
    one = api(server, header=token)
    with pytest.raises(Exception, match="a line break"):
        get(one)
    assert server.asked == []


def test_a_path_cannot_inject_a_request(server):
    server.script += [SHORT]
    get(api(server), "/x HTTP/1.1\r\nX-Other: b\r\n\r\n")
    ((_, head, _),) = server.asked
    assert head.startswith(b"GET /x%20HTTP/1.1%0D%0AX-Other:%20b%0D%0A%0D%0A HTTP/1.1\r\n")


def test_tls_is_verified(tls):
    tls.script += [SHORT]
    assert get(api(tls, scheme="https", ssl_ca_cert=tls.ca)).data == b"{}"
    with pytest.raises(NoResponseError, match="SSLCertVerificationError"):
        get(api(tls, scheme="https"))


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy for CONNECT that records the first line of each request."""

    def handle(self):
        head = b"".join(read_head(self.rfile))
        self.server.asked.append(head.splitlines()[0])
        host, _, port = head.split()[1].decode().partition(":")
        with socket.create_connection((host, int(port))) as other:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pump, args=(other, self.connection), daemon=True)
            back.start()
            pump(self.connection, other)
            back.join()


def pump(one, other):
    with contextlib.suppress(OSError):  # either side may close first
        while data := one.recv(65_536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def test_a_proxy_gets_absolute_urls_or_connect(server, tls):
    server.script += [SHORT]
    proxy = f"http://127.0.0.1:{server.server_address[1]}"
    assert get(api(server, host="http://cluster.test:8001", proxy=proxy)).data == b"{}"
    assert server.asked[0][1].startswith(b"GET http://cluster.test:8001/x HTTP/1.1\r\n")
    tls.script += [SHORT]
    with serving(Tunnel) as tunnel:
        proxy = f"http://127.0.0.1:{tunnel.server_address[1]}"
        assert get(api(tls, scheme="https", ssl_ca_cert=tls.ca, proxy=proxy)).data == b"{}"
        assert tunnel.asked == [b"CONNECT 127.0.0.1:%d HTTP/1.0" % tls.server_address[1]]
        tunnel.shutdown()
