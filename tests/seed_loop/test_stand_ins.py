"""The stand-ins for Loki and Slack answer like the real services."""

import gzip
import http.client
import json
import socket
import struct
import threading
import time
from urllib.parse import urlencode, urlsplit

import pytest

import stand_ins
from stand_ins import Entry, Loki, RequestError, Slack, parse_query

NOW = time.time_ns()
NGINX = {"source": "syscall", "rule": "Terminal shell in container", "k8s_pod_name": "nginx"}


@pytest.fixture
def loki():
    with Loki() as running:
        yield running


@pytest.fixture
def slack():
    with Slack() as running:
        yield running


def request(url, body=None, method=None, **headers):
    """Send a request. Returns the status and the text."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    given = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection.request(method or ("GET" if body is None else "POST"), target, body, given)
    response = connection.getresponse()
    try:
        return response.status, response.read().decode()
    finally:
        connection.close()


def push(loki, streams, **headers):
    body = json.dumps({"streams": streams}).encode()
    if headers.get("Content_Encoding") == "gzip":
        body = gzip.compress(body)
    return request(f"{loki.url}/loki/api/v1/push", body, **headers)


def query(loki, text, **more):
    parameters = urlencode({"query": text, **more})
    status, body = request(f"{loki.url}/loki/api/v1/query_range?{parameters}")
    assert status == 200, body
    return [line for stream in json.loads(body)["data"]["result"] for _, line in stream["values"]]


@pytest.mark.parametrize("headers", [{}, {"Content_Encoding": "gzip"}])
def test_a_pushed_line_is_found_by_its_labels(loki, headers):
    pushed = push(loki, [{"stream": NGINX, "values": [[str(NOW), "a shell"]]}], **headers)
    assert pushed == (204, "")
    assert query(loki, '{k8s_pod_name="nginx"}') == ["a shell"]
    assert query(loki, '{k8s_pod_name="redis"}') == []
    labels = json.loads(request(f"{loki.url}/loki/api/v1/labels")[1])
    assert labels == {"status": "success", "data": ["k8s_pod_name", "rule", "source"]}
    values = request(f"{loki.url}/loki/api/v1/label/source/values")[1]
    assert json.loads(values)["data"] == ["syscall"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('{source=~".+"}', ["one", "two", "three"]),
        ('{source="a"}', ["one"]),
        ('{source!="a", pod="x"}', ["two", "three"]),
        ('{source=~"a|b"}', ["one", "two"]),
        ('{source=~"a.*"}', ["one", "three"]),
        ('{source=~".+", source!~"a.*"}', ["two"]),
        ('{source=~".+", team=""}', ["one", "two", "three"]),
        ('{pod="x"} |= "o"', ["one", "two"]),
        ('{pod="x"} |= `o` != "tw"', ["one"]),
        ('{pod="x"} |~ "^t" !~ "ee$"', ["two"]),
    ],
)
def test_selectors_and_line_filters(loki, text, lines):
    loki.push(
        ({"source": source, "pod": "x"}, [Entry(NOW + n, line)])
        for n, (source, line) in enumerate([("a", "one"), ("b", "two"), ("ac", "three")])
    )
    assert sorted(query(loki, text)) == sorted(lines)


def test_a_range_has_a_start_an_end_a_limit_and_a_direction(loki):
    loki.push([({"a": "b"}, [Entry(NOW + n, str(n)) for n in range(5)])])
    every = {"query": '{a="b"}', "start": str(NOW), "end": str(NOW + 5)}
    assert query(loki, '{a="b"}', **{**every, "end": str(NOW + 2)}) == ["1", "0"]
    assert query(loki, '{a="b"}', **every, limit=2) == ["4", "3"]
    assert query(loki, '{a="b"}', **every, limit=2, direction="forward") == ["0", "1"]
    assert query(loki, '{a="b"}', start=NOW / 1e9 - 10, end=NOW / 1e9 + 10) == list("43210")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "at least one"),
        ('{a=~".*"}', "at least one"),
        ('{a="b"', "col 7"),
        ('{a="b",}', "col 7"),
        ('{a="b"} | json', "col 9"),
        ('count_over_time({a="b"}[5m])', "col 1"),
        ('{a=~"("}', "invalid regular expression"),
        ('{a="b"} |= "' + "x" * 6000, "longer"),
    ],
)
def test_a_query_that_is_not_supported_is_refused_with_its_column(loki, text, message):
    with pytest.raises(RequestError) as refused:
        parse_query(text)
    assert message in refused.value.text
    status, body = request(
        f"{loki.url}/loki/api/v1/query_range?{urlencode({'query': text})}",
    )
    assert (status, message in body) == (400, True)


@pytest.mark.parametrize(
    ("streams", "status"),
    [
        ([{"stream": {}, "values": []}], 400),
        ([{"stream": {"a-b": "c"}, "values": []}], 400),
        ([{"stream": {"a": 1}, "values": []}], 400),
        ([{"stream": {f"a{n}": "b" for n in range(16)}, "values": []}], 400),
        ([{"stream": {"a": "b"}, "values": [[NOW, "line"]]}], 400),
        ([{"stream": {"a": "b"}, "values": [["yesterday", "line"]]}], 400),
        ([{"stream": {"a": "b"}, "values": [[str(NOW), "x" * (stand_ins.MAX_LINE + 1)]]}], 400),
        ([{"stream": {"a": str(n)}, "values": [[str(NOW), "x"]]} for n in range(1001)], 429),
        ("many", 400),
    ],
)
def test_a_bad_push_is_refused(loki, streams, status):
    assert push(loki, streams)[0] == status


def test_bytes_that_are_not_a_push_are_refused(loki):
    url = f"{loki.url}/loki/api/v1/push"
    assert request(url, b"[" * 100_000)[0] == 400
    assert request(url, b"\x1f\x8b", Content_Encoding="gzip")[0] == 400
    assert request(url, gzip.compress(b"0" * (5 << 20)), Content_Encoding="gzip")[0] == 413
    assert request(url, b"{}", Content_Type="application/x-protobuf")[0] == 415
    assert request(url, b"x", Content_Length=str(5 << 20))[0] == 413


def test_the_oldest_entries_go_first(loki, monkeypatch):
    monkeypatch.setattr(stand_ins, "MAX_ENTRIES", 3)
    loki.push([({"a": "b"}, [Entry(NOW, "0")])])
    loki.push([({"a": "c"}, [Entry(NOW + n, str(n)) for n in range(1, 4)])])
    assert query(loki, '{a=~".+"}') == ["3", "2", "1"]


def test_slack_accepts_what_a_webhook_accepts(slack):
    attachment = {"fallback": "a shell", "color": "#5bffb5", "text": "a shell", "fields": []}
    assert request(slack.webhook, json.dumps({"text": "isolated"})) == (200, "ok")
    assert request(slack.webhook, json.dumps({"attachments": [attachment]})) == (200, "ok")
    form = urlencode({"payload": json.dumps({"text": "form"})})
    content_type = "application/x-www-form-urlencoded"
    assert request(slack.webhook, form, Content_Type=content_type) == (200, "ok")
    assert list(slack.texts()) == ["isolated", "a shell", "form"]
    assert request(slack.webhook, "{}") == (400, "no_text")
    assert request(slack.webhook, "[]") == (400, "invalid_payload")
    assert request(f"{slack.url}/services/x", '{"text": "x"}') == (404, "no_service")


def test_slack_accepts_what_the_web_api_accepts(slack):
    url = f"{slack.api}chat.postMessage"
    message = {"channel": "C1", "text": "isolated"}
    assert json.loads(request(url, json.dumps(message))[1])["error"] == "not_authed"
    token = {"Authorization": "Bearer xoxb-1"}
    posted = json.loads(request(url, json.dumps(message), **token)[1])
    assert (posted["ok"], posted["channel"], list(slack.messages)) == (True, "C1", [message])
    assert json.loads(request(url, '{"text": "x"}', **token)[1])["error"] == "channel_not_found"


def test_a_fault_refuses_each_post_until_it_is_removed(slack):
    slack.fault = 503
    assert request(slack.webhook, '{"text": "lost"}')[0] == 503
    slack.fault = None
    assert request(slack.webhook, '{"text": "kept"}')[0] == 200
    assert list(slack.texts()) == ["kept"]


def test_a_client_that_is_gone_prints_nothing(slack, capfd):
    address = urlsplit(slack.url)
    for _ in range(5):
        client = socket.create_connection((address.hostname, address.port))
        # Closing sends a reset.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        client.close()
    assert request(slack.webhook, '{"text": "x"}')[0] == 200
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(60)
    assert capfd.readouterr().err == ""
