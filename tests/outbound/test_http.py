"""The client for other servers: requests, responses, secrets, limits and proxies."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import logging
import socket
import socketserver
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from engine.model.calls import SecretName
from engine.model.errors import PermanentError, RefusedError, TemporaryError
from engine.outbound.api import BlocksRefusedError, RequestRecorder
from engine.outbound.client import LiveHttpClient, Senders
from engine.outbound.destination import check_host, parse_url
from engine.outbound.host_limits import HostLimits
from engine.outbound.retry_after import retry_after
from engine.outbound.secrets import Secrets
from tests.support.http_head import read_head

TOKEN = "xoxb-canary-token"
PATH = "/services/T0/B0/canarysecret"
HOOK, BOT = SecretName("hook"), SecretName("bot")
MESSAGE = {"text": "Isolated demo/nginx"}


class Server(ThreadingHTTPServer):
    """A server that returns ``answers`` (status, headers, body) in turn and repeats the last one.

    asked: the requests received, as (method, path, headers, body).
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.answers, self.asked = [(200, {}, b"ok")], []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    def _answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        self.server.asked.append((self.command, self.path, self.headers, content))
        answers = self.server.answers
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        if status is None:
            self.wfile.write(body)
            return
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer  # noqa: N815 - http.server looks for these names

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def outside(tmp_path, server):
    (tmp_path / "hook").write_text(f"{server.url}{PATH}\n")
    (tmp_path / "bot").write_text(f"{TOKEN}\n")
    return LiveHttpClient(Secrets(tmp_path), timeout=5, slack_api=f"{server.url}/api/")


def hook(outside):
    return outside.post_slack_message(MESSAGE, HOOK, None)


def bot(outside):
    return outside.post_slack_message(MESSAGE | {"channel": "C1"}, None, BOT)


def http(outside, **headers):
    url = outside._slack_api + "tickets"
    return outside.request("POST", url, {"Authorization": BOT, **headers}, {"a": 1})


WAYS = {"webhook": hook, "token": bot, "http": http}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def test_a_webhook_gets_the_message(server, outside):
    assert hook(outside).status == 200
    ((method, path, headers, body),) = server.asked
    assert (method, path, json.loads(body)) == ("POST", PATH, MESSAGE)
    assert headers["Content-Type"].startswith("application/json")


def test_a_token_posts_to_the_channel_and_returns_the_position(server, outside):
    server.answers = [(200, {}, b'{"ok": true, "ts": "1.2", "channel": "C9"}')]
    assert bot(outside).json == {"ts": "1.2", "channel": "C9"}
    ((_, path, headers, body),) = server.asked
    assert (path, headers["Authorization"]) == ("/api/chat.postMessage", f"Bearer {TOKEN}")
    assert json.loads(body) == MESSAGE | {"channel": "C1"}


def test_a_request_contains_secret_headers_and_returns_the_json_of_its_response(server, outside):
    server.answers = [(201, {}, b'{"id": 7}')]
    answer = http(outside, **{"Idempotency-Key": "run/step"})
    assert (answer.status, answer.json) == (201, {"id": 7})
    ((_, path, headers, body),) = server.asked
    assert (path, headers["Authorization"]) == ("/api/tickets", TOKEN)
    assert headers["Idempotency-Key"] == "run/step"
    assert json.loads(body) == {"a": 1}


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b"", b"[" * 100_000])
def test_a_response_that_is_not_json_is_accepted(server, outside, body):
    server.answers = [(200, {}, body)]
    answer = http(outside)
    assert (answer.status, answer.json) == (200, None)


@each_way
@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_server_uses_no_attempt_up_and_sets_the_wait(server, outside, way, status):
    server.answers = [(status, {"Retry-After": "37"}, b"{}")]
    with pytest.raises(TemporaryError, match=str(status)) as caught:
        way(outside)
    assert (caught.value.after, caught.value.answered) == (37.0, False)
    assert len(server.asked) == 1  # nothing tries again by itself


@each_way
@pytest.mark.parametrize(
    ("after", "wait"),
    [("Wed, 21 Oct 2026 07:28:37 GMT", 37.0), ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0)],
)
def test_a_retry_after_date_is_relative_to_the_date_of_the_response(
    server, outside, way, after, wait
):
    dates = {"Date": "Wed, 21 Oct 2026 07:28:00 GMT", "Retry-After": after}
    server.answers = [(429, dates, b"{}")]
    with pytest.raises(TemporaryError) as caught:
        way(outside)
    assert caught.value.after == wait


def test_a_retry_after_date_is_relative_to_now_if_the_response_has_no_date():
    then = formatdate(time.time() + 1000, usegmt=True)
    assert 990 < retry_after({"Retry-After": then}) <= 1000


@each_way
@pytest.mark.parametrize("after", ["-1", "soon", "", "٣", "Wed, 99 Oct 2026 07:28:00 GMT"])
def test_an_invalid_retry_after_is_ignored(server, outside, way, after):
    server.answers = [(429, {"Retry-After": after}, b"{}")]
    with pytest.raises(TemporaryError) as caught:
        way(outside)
    assert caught.value.after is None


@pytest.mark.parametrize("way", [hook, bot])
def test_a_server_error_of_slack_is_temporary_and_uses_an_attempt_up(server, outside, way):
    server.answers = [(500, {}, b"oops")]
    with pytest.raises(TemporaryError, match="500") as caught:
        way(outside)
    assert caught.value.answered


@pytest.mark.parametrize("way", [hook, bot])
@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_a_client_error_of_slack_is_permanent(server, outside, way, status):
    server.answers = [(status, {}, b"no_service")]
    with pytest.raises(PermanentError, match=str(status)):
        way(outside)


def test_an_error_of_slack_with_status_200_is_permanent_and_contains_the_code(server, outside):
    server.answers = [(200, {}, b'{"ok": false, "error": "channel_not_found"}')]
    with pytest.raises(PermanentError, match="channel_not_found"):
        bot(outside)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("way", [hook, bot])
def test_a_redirect_of_slack_is_not_followed(server, outside, way, status):
    server.answers = [(status, {"Location": f"{server.url}/elsewhere"}, b""), (200, {}, b"ok")]
    with pytest.raises(PermanentError, match=str(status)):
        way(outside)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_of_a_request_is_not_followed(server, outside, status):
    server.answers = [(status, {"Location": f"{server.url}/elsewhere"}, b""), (200, {}, b"ok")]
    assert http(outside).status == status
    assert len(server.asked) == 1


@each_way
def test_an_unreachable_server_is_temporary_and_uses_no_attempt_up(tmp_path, way):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    (tmp_path / "hook").write_text(url + PATH)
    (tmp_path / "bot").write_text(TOKEN)
    with pytest.raises(TemporaryError) as caught:
        way(LiveHttpClient(Secrets(tmp_path), timeout=5, slack_api=f"{url}/api/"))
    assert not caught.value.answered
    assert "canary" not in str(caught.value)


@each_way
@pytest.mark.parametrize("said", [b"garbage\r\n\r\n", b""])
def test_a_response_that_is_not_http_is_temporary(server, outside, way, said):
    server.answers = [(None, {}, said)]
    with pytest.raises(TemporaryError):
        way(outside)


def test_a_slow_response_ends_at_the_timeout(server, tmp_path):
    server.answers = [(200, {"Content-Length": "9"}, b"x")]
    (tmp_path / "bot").write_text(TOKEN)
    outside = LiveHttpClient(Secrets(tmp_path), slack_api=f"{server.url}/api/").with_timeout(0.2)
    with pytest.raises(TemporaryError):
        http(outside)


@each_way
def test_a_missing_secret_is_temporary_and_the_message_contains_its_name(
    server, outside, tmp_path, way
):
    (tmp_path / "hook").unlink()
    (tmp_path / "bot").unlink()
    name = "hook" if way is hook else "bot"
    message = f"secret {name}: No such file or directory in --secrets-dir"
    with pytest.raises(TemporaryError, match=message) as caught:
        way(outside)
    assert caught.value.answered
    assert server.asked == []


def test_without_a_secrets_folder_the_message_names_the_flag():
    with pytest.raises(TemporaryError, match=r"hook.*--secrets-dir"):
        hook(LiveHttpClient(Secrets(None)))


@pytest.mark.parametrize(
    "secret",
    [
        "canary",
        "file:///etc/canary",
        "http:///canary",
        "http://[canary/",
    ],
)
def test_an_invalid_webhook_url_is_not_shown(tmp_path, caplog, secret):
    caplog.set_level(logging.DEBUG)
    (tmp_path / "hook").write_text(secret)
    with pytest.raises(TemporaryError) as caught:
        hook(LiveHttpClient(Secrets(tmp_path), timeout=2))
    assert "canary" not in str(caught.value) + caplog.text
    assert caught.value.__cause__ is None


@each_way
@pytest.mark.parametrize("status", [200, 302, 404, 429, 500, None])
def test_secrets_that_a_server_repeats_are_in_no_error_and_no_log(
    server, outside, caplog, way, status
):
    caplog.set_level(logging.INFO)
    echo = f"you sent {server.url}{PATH} and {PATH}" if way is hook else f"you sent {TOKEN}"
    body = json.dumps({"ok": False, "error": echo}).encode()
    server.answers = [(status, {}, body)]
    try:
        way(outside)
        said = ""
    except (TemporaryError, PermanentError) as error:
        said = str(error)
    assert "canary" not in said + caplog.text


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://ops.example.com/x", True),
        ("https://OPS.example.com/x", True),
        ("https://a.internal/x", True),
        ("http://127.0.0.1:9000/", True),
        ("http://127.0.0.1:9001/", False),
        ("https://internal/", False),
        ("https://evil.com/ops.example.com", False),
        ("https://ops.example.com.evil.com/", False),
        ("https://ops.example.com@evil.com/", False),
        ("https://evil.com\\@ops.example.com/", False),
        ("ftp://ops.example.com/", False),
        ("//ops.example.com/", False),
        ("https://ops.example.com/a b", False),
        ("https://ops.example.com:x/", False),
    ],
)
def test_only_hosts_in_the_list_are_called(url, allowed):
    hosts = frozenset({"ops.example.com", "127.0.0.1:9000", "*.internal"})
    recorder = RequestRecorder(None, hosts)
    if allowed:
        assert recorder.request("GET", url, {}, None).status is None
        return
    with pytest.raises(RefusedError):
        recorder.request("GET", url, {}, None)
    assert recorder.requests == []


def test_an_empty_list_allows_no_host_and_none_allows_every_host():
    place = parse_url("https://a.example.com/")
    with pytest.raises(RefusedError, match="--http-hosts"):
        check_host(place, frozenset())
    check_host(place, None)


def test_recorded_requests_contain_no_secret(server, outside):
    server.answers = [(200, {}, b'{"ok": true}')]
    recorder = RequestRecorder(outside, None)
    recorder.request("POST", f"{server.url}/x", {"Authorization": BOT, "X": "plain"}, None)
    recorder.post_slack_message(MESSAGE, HOOK, None)
    recorder.post_slack_message(MESSAGE | {"channel": "C1"}, None, BOT)
    assert "canary" not in repr(recorder.requests)
    assert recorder.requests[0].headers == {"Authorization": "***", "X": "plain"}
    assert len(server.asked) == 3


def test_concurrent_requests_are_limited_for_each_host_separately(tmp_path, server):
    hosts = HostLimits(2)
    outside = LiveHttpClient(Secrets(tmp_path), hosts=hosts).with_timeout(5)
    with hosts.slot("127.0.0.1"), hosts.slot("elsewhere.example"):
        assert outside.request("GET", server.url, {}, None).status == 200
        with hosts.slot("127.0.0.1"), pytest.raises(TemporaryError) as caught:
            outside.request("GET", server.url, {}, None)
        assert (caught.value.answered, caught.value.again) == (False, 1.0)
        assert outside.request("GET", server.url, {}, None).status == 200


def test_a_failed_request_frees_its_slot(tmp_path):
    hosts = HostLimits(1)
    for _ in range(3):
        with pytest.raises(TemporaryError, match="Error"):
            LiveHttpClient(Secrets(tmp_path), hosts=hosts).request(
                "GET", "http://127.0.0.1:1/", {}, None
            )


def test_all_webhooks_of_slack_share_one_limit(tmp_path, server):
    (tmp_path / "hook").write_text(f"{server.url}{PATH}\n")
    hosts = HostLimits(1)
    outside = LiveHttpClient(Secrets(tmp_path), hosts=hosts)
    with hosts.slot("Slack"), pytest.raises(TemporaryError, match="in progress"):
        hook(outside)
    assert hook(outside).status == 200


def test_a_request_connects_only_to_a_checked_address(tmp_path, server, monkeypatch):
    resolve = socket.getaddrinfo
    leads_to = {"ops.example.com": "127.0.0.1", "evil.example.com": "169.254.169.254"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: resolve(leads_to.get(host, host), *a, **k)
    )
    live = LiveHttpClient(
        Secrets(tmp_path), timeout=5, senders=Senders(frozenset({"*.example.com"}))
    )
    outside = RequestRecorder(live, frozenset({"*.example.com"}))
    url = f"http://ops.example.com:{server.server_port}/x"
    assert outside.request("GET", url, {}, None).status == 200
    assert server.asked[0][2]["Host"] == f"ops.example.com:{server.server_port}"
    with pytest.raises(RefusedError, match=r"169\.254\.169\.254"):
        outside.request("GET", "http://evil.example.com/", {}, None)


class Greedy(socketserver.StreamRequestHandler):
    """Sends ``server.head``, then ``server.body`` repeatedly until the client closes the connection."""

    def handle(self):
        read_head(self.rfile)
        with contextlib.suppress(OSError):
            self.wfile.write(self.server.head)
            self.server.written += len(self.server.head)
            while self.server.body:
                self.wfile.write(self.server.body)
                self.server.written += len(self.server.body)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "body": (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536),
    "chunks": (CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
    "tiny chunks": (CHUNKED, b"1\r\nx\r\n" * 10_000),
    "chunk extension": (CHUNKED + b"1;", b"x" * 65_536),
    "trailers": (CHUNKED + b"0\r\n", b"X-A: b\r\n" * 8_000),
    "gzip": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(bytes(1 << 22))),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 8_000),
    "a header": (b"HTTP/1.1 200 OK\r\nX-A: ", b"x" * 65_536),
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 1_000),
}
HEADS = ("headers", "a header", "interim answers")


@each_way
@pytest.mark.parametrize("kind", ENDLESS)
def test_an_endless_response_is_read_up_to_a_limit(tmp_path, way, kind):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greedy) as server:
        server.daemon_threads = True
        server.head, server.body = ENDLESS[kind]
        server.written = 0
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        (tmp_path / "hook").write_text(url + PATH)
        (tmp_path / "bot").write_text(TOKEN)
        outside = LiveHttpClient(Secrets(tmp_path), timeout=30, slack_api=f"{url}/api/")
        try:
            if kind in HEADS:
                with pytest.raises(TemporaryError):
                    way(outside)
            elif way is bot:  # needs JSON
                with pytest.raises(PermanentError):
                    way(outside)
            else:
                assert way(outside).json is None
        finally:
            server.shutdown()
            thread.join()
        assert server.written < 16 << 20  # what the sockets buffer included


@pytest.mark.parametrize(
    "body", [b'{"a": "\\ud800"}', b'{"a": 1e400}', b"[1" + b" " * 65_536 + b"]"]
)
def test_json_that_the_journal_cannot_store_is_dropped(server, outside, body):
    server.answers = [(200, {}, body)]
    assert (http(outside).status, http(outside).json) == (200, None)


def test_json_of_almost_64_kib_is_kept(server, outside):
    said = {"a": "x" * 65_000}
    server.answers = [(200, {}, json.dumps(said).encode())]
    assert http(outside).json == said


@each_way
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
def test_the_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch, way, name):
    server.answers = [(200, {}, b'{"ok": true}')]
    monkeypatch.setenv(name, f"http://ada:p%40ss@127.0.0.1:{server.server_port}")
    (tmp_path / "hook").write_text("http://hooks.test/services/x")
    (tmp_path / "bot").write_text(TOKEN)
    outside = LiveHttpClient(Secrets(tmp_path), timeout=5, slack_api="http://slack.test/api/")
    assert way(outside).status == 200
    ((_, target, headers, _),) = server.asked
    assert target.startswith("http://")
    assert headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"ada:p@ss").decode()


@pytest.mark.parametrize(
    "no_proxy", ["127.0.0.1", "10.0.0.0/8,127.0.0.0/8", "*", "a.test, 127.0.0.1:{port}"]
)
def test_hosts_in_no_proxy_are_connected_directly(server, outside, monkeypatch, no_proxy):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", no_proxy.format(port=server.server_port))
    assert http(outside).status == 200
    assert hook(outside).status == 200


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"canary\n\n", "blank line"),
        (b"canary\r\nX: y\n", "more than one line"),
        (b"\xef\xbb\xbfcanary\n", "byte order mark"),
        ("canary\n".encode("utf-16"), "byte order mark"),
        ("canary\xa0\n".encode(), "visible ASCII"),
        (b"canary\x00", "visible ASCII"),
        (b"canary" * 20_000, "64 KiB"),
    ],
)
def test_an_invalid_secret_is_permanent_and_the_message_contains_its_name(
    server, outside, tmp_path, content, why
):
    (tmp_path / "hook").write_bytes(content)
    (tmp_path / "bot").write_bytes(content)
    for way, name in ((hook, "hook"), (bot, "bot"), (http, "bot")):
        with pytest.raises(PermanentError, match=f"secret {name}: .*{why}") as caught:
            way(outside)
        assert "canary" not in str(caught.value)
    assert server.asked == []


@each_way
def test_a_windows_newline_is_removed_and_an_empty_secret_is_temporary(
    server, outside, tmp_path, way
):
    server.answers = [(200, {}, b'{"ok": true}')]
    for name in ("hook", "bot"):
        content = (tmp_path / name).read_text().strip()
        (tmp_path / name).write_bytes(content.encode() + b"\r\n")
    assert way(outside).status == 200
    (tmp_path / "hook").write_text("\n")
    (tmp_path / "bot").write_text("")
    with pytest.raises(TemporaryError, match="is empty"):
        way(outside)


@pytest.mark.parametrize("body", [b"[1]", b'"x"', b"null", b"[" * 60_000, b"\xff"])
def test_a_response_of_slacks_api_that_is_not_an_object_is_permanent(server, outside, body):
    server.answers = [(200, {}, body)]
    with pytest.raises(PermanentError, match="not a JSON object"):
        bot(outside)


@pytest.mark.parametrize("word", ["invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long"])
def test_rejected_blocks_have_their_own_error(server, outside, word):
    server.answers = [(400, {}, word.encode())]
    with pytest.raises(BlocksRefusedError, match=word):
        hook(outside)
    server.answers = [(200, {}, json.dumps({"ok": False, "error": word}).encode())]
    with pytest.raises(BlocksRefusedError, match=word):
        bot(outside)
