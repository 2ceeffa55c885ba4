"""Deadlines: a call ends at its timeout, however slowly the server connects or responds."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading

import pytest
from engine.cluster.api import POD
from engine.cluster.client import connect
from engine.model.calls import Call, SecretName
from engine.model.errors import TemporaryError
from engine.outbound import connections
from engine.outbound.client import LiveHttpClient
from engine.outbound.secrets import Secrets
from tests.cluster.keys import make_keys
from tests.execution.test_worker_pool import TELL, Engine, Ops
from tests.support.engine import PATIENCE
from tests.support.http_head import read_head

TIME = 0.3
"""Seconds of a call's timeout; the server sends ten bytes in this time."""
HOOK, BOT = SecretName("hook"), SecretName("bot")
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
SAID = {
    "nothing": b"",
    "the status": b"HTTP/1.1 200",
    "the headers": b"HTTP/1.1 200 OK\r\nX-Long: ",
    "the body": WHOLE,
    "a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFF\r\n",
    "the next headers": b"HTTP/1.1 200 OK\r\nX-Long: x\r\n",
}


class Trickle(socketserver.StreamRequestHandler):
    """Reads the head of a request, sends ``server.said`` at once, then one byte at a time."""

    def handle(self):
        if not (head := read_head(self.rfile)):
            return  # the client left during its timeout
        self.server.asked.append(head[0])
        try:
            self.wfile.write(self.server.said)
            while not self.server.closing.wait(TIME / 10):
                self.wfile.write(b"7")
        except OSError:
            self.server.left.release()


@pytest.fixture(params=["http", "https"])
def scheme(request, tmp_path, monkeypatch):
    make_keys(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    return request.param


@pytest.fixture(params=SAID)
def server(request, scheme, tmp_path):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Trickle) as one:
        if scheme == "https":
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
            one.socket = context.wrap_socket(one.socket, server_side=True)
        one.daemon_threads = True
        one.said, one.asked, one.closing = SAID[request.param], [], threading.Event()
        one.left = threading.Semaphore(0)
        one.url = f"{scheme}://127.0.0.1:{one.server_address[1]}"
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        yield one
        one.closing.set()
        one.shutdown()
        thread.join()


@pytest.fixture
def outside(tmp_path, server):
    (tmp_path / "hook").write_text(f"{server.url}/services/x")
    (tmp_path / "bot").write_text("xoxb-1")
    return LiveHttpClient(Secrets(tmp_path), slack_api=f"{server.url}/api/").with_timeout(TIME)


@pytest.fixture
def cluster(tmp_path, server):
    cluster = {"server": server.url, "certificate-authority": str(tmp_path / "ca.crt")}
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": cluster}],
        "users": [{"name": "x", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    return connect(str(tmp_path / "kubeconfig"), None)


def over_in_time(call):
    """Check that a call ends with a TemporaryError although the server never ends its response."""
    with pytest.raises(TemporaryError) as caught:
        call()
    assert not caught.value.answered


def test_requests_to_other_servers_end_at_the_timeout(server, outside):
    over_in_time(lambda: outside.request("POST", server.url, {}, {"a": 1}))
    over_in_time(lambda: outside.post_slack_message({"text": "x"}, HOOK, None))
    over_in_time(lambda: outside.post_slack_message({"text": "x", "channel": "C"}, None, BOT))
    for _ in server.asked:  # each connection was closed
        assert server.left.acquire(timeout=PATIENCE)


def test_calls_to_the_api_server_end_at_the_timeout_and_count_as_failures(cluster):
    patch = Call("patch", "v1", "pods", "demo", "p", {"metadata": {"labels": {"a": "b"}}})
    over_in_time(lambda: cluster.with_timeout(TIME).get(POD, "p", "demo"))
    # a byte that cannot start a status line is an error at once
    assert any(what in cluster.breaker.error.lower() for what in ("timed out", "not http"))
    over_in_time(lambda: cluster.with_timeout(TIME).send(patch))
    over_in_time(lambda: cluster.with_timeout(TIME).list(POD))
    for _ in range(2):
        over_in_time(lambda: cluster.with_timeout(TIME).get(POD, "p", "demo"))
    assert cluster.breaker.open


@pytest.mark.parametrize("server", ["the headers"], indirect=True)
@pytest.mark.parametrize("scheme", ["http"], indirect=True)
def test_workers_are_free_after_the_timeout(tmp_path, server, outside):
    class Slow(Ops):
        def request(self, *asked):
            return outside.request(*asked)

    with Engine(tmp_path, TELL.replace("https://ops.example.com/", server.url)) as engine:
        engine.ops = Slow()
        for number, pod in enumerate("abcdef"):  # of three workers each is held twice
            engine.accept(number, pod)
        engine.wait_for(*["waiting"] * 6)


def test_all_addresses_of_a_host_share_one_timeout(monkeypatch):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        with socket.create_connection(address):  # its queue is full, so the next connection waits
            one = (socket.AF_INET, socket.SOCK_STREAM, 0, "", address)
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [one] * 20)
            given, settimeout = [], socket.socket.settimeout
            caller = threading.current_thread()

            def noted(one, seconds):
                if threading.current_thread() is caller:  # threads of other tests have sockets too
                    given.append(seconds)
                settimeout(one, seconds)

            monkeypatch.setattr(socket.socket, "settimeout", noted)
            with pytest.raises(TimeoutError):
                connections.dial(("many.example", 80), TIME)
            assert len(given) == 1  # the first address used the whole timeout


def test_the_second_address_is_used_if_the_first_refuses(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as dead:
        gone = dead.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as there:
        places = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", at) for at in (gone, there.getsockname())
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
        with connections.dial(("two.example", 80), 5) as made:
            assert made.getpeername() == there.getsockname()
