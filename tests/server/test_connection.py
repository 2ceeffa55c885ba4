"""Connections: order of replies, rejection by the head, timeouts and size limits."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from engine.server.connection import Connection
from engine.server.connection_limits import Limits, OpenConnections
from engine.server.messages import json_reply
from tests.support.intake import Pipe

POST = b"POST /events HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b"


def post(body=b"{}"):
    return POST % (len(body), body)


class Echo:
    """Answers with path and body of the request. Paths that begin with /later are answered on demand."""

    max_body = 100

    def __init__(self):
        self.later = []
        self.came = asyncio.Event()
        self.asked = []

    def count_rejected(self, status):
        """Do nothing."""

    def reject(self, request):
        return json_reply(401, {"error": "no"}) if b"x-no-access" in request.headers else None

    def is_urgent(self, request):
        return request.path == "/urgent"

    def answer(self, request, reply):
        if request.path == "/broken":
            raise ValueError("a bug")
        self.asked.append(request)
        told = json_reply(200, {"path": request.path, "body": request.body.decode()})
        if request.path.startswith("/later"):
            self.later.append(lambda: reply(told))
            self.came.set()
        else:
            reply(told)


class Talk:
    """A connection with its input and its replies."""

    def __init__(self, **limits):
        self.port = Echo()
        self.shared = OpenConnections(self.port, Limits(**limits))
        self.pipe, self.connection = Pipe(("192.0.2.1", 5)), Connection(self.shared)
        self.connection.connection_made(self.pipe)

    def say(self, *parts):
        for part in parts:
            self.connection.data_received(part)
        return self

    @property
    def statuses(self):
        return [int(line.split()[1]) for line in self.lines() if line.startswith(b"HTTP/1.1 ")]

    @property
    def bodies(self):
        return [json.loads(line) for line in self.lines() if line.startswith(b"{")]

    def lines(self):
        return self.pipe.sent.replace(b"}HTTP", b"}\r\nHTTP").split(b"\r\n")

    def late(self, seconds):
        """Let ``seconds`` pass, then check the timeout."""
        self.connection.deadline -= seconds
        self.connection.check_timeout(time.monotonic())
        return self


def test_a_request_in_several_segments_is_one_request():
    talk = Talk().say(*(bytes([b]) for b in post(b"[1]")))
    assert talk.bodies == [{"path": "/events", "body": "[1]"}]
    assert not talk.pipe.closed


def test_pipelined_requests_are_answered_one_at_a_time_in_order():
    talk = Talk().say(post(b"1").replace(b"/events", b"/later") + post(b"2"))
    assert (len(talk.port.asked), talk.statuses) == (1, [])
    talk.port.later.pop()()
    assert [told["body"] for told in talk.bodies] == ["1", "2"]


def test_the_next_request_is_read_after_the_reply_to_the_first():
    later = post(b"1").replace(b"/events", b"/later")
    talk = Talk().say(later + post(b"2") + later)
    assert (len(talk.port.asked), talk.pipe.reading) == (1, False)
    assert talk.shared.buffered_bytes == 1 + len(post(b"2") + later)
    talk.port.later.pop()()
    assert (len(talk.port.asked), talk.pipe.reading) == (3, True)
    talk.port.later.pop()()
    assert [told["body"] for told in talk.bodies] == ["1", "2", "1"]
    assert talk.shared.buffered_bytes == 0


def test_pipelined_input_is_counted_and_over_the_limit_the_reply_ends_the_connection():
    talk = Talk(buffered_bytes=300).say(post(b"1").replace(b"/events", b"/later"))
    talk.say(*[post(b"x" * 90)] * 3)
    assert (talk.pipe.closed, talk.shared.buffered_bytes) == (False, 1)
    talk.port.later.pop()()
    assert (talk.statuses, talk.pipe.closed, talk.shared.buffered_bytes) == ([200], True, 0)


def test_a_body_is_counted_until_its_reply_even_if_the_sender_has_left():
    talk = Talk().say(post(b"x" * 80).replace(b"/events", b"/later"))
    talk.connection.connection_lost(None)
    assert talk.shared.buffered_bytes == 80
    talk.port.later.pop()()
    assert talk.shared.buffered_bytes == 0


@pytest.mark.parametrize(
    ("version", "header", "stays"),
    [
        (b"1.1", b"host: t\r\n", True),
        (b"1.1", b"host: t\r\nconnection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"connection: keep-alive\r\n", True),
        (b"1.1", b"host: t\r\nconnection: upgrade\r\nupgrade: websocket\r\n", True),
    ],
)
def test_a_connection_stays_open_as_the_sender_asks(version, header, stays):
    head = post().replace(b"HTTP/1.1", b"HTTP/" + version).replace(b"host: t\r\n", header)
    talk = Talk().say(head)
    assert talk.statuses == [200]
    assert talk.pipe.closed is not stays
    assert (b"connection: close" in talk.pipe.sent) is not stays


def test_100_continue_is_sent_only_if_the_body_is_accepted():
    head = post().replace(b"host: t", b"host: t\r\nexpect: 100-continue").removesuffix(b"{}")
    talk = Talk().say(head)
    assert talk.statuses == [100]
    assert talk.say(b"{}").statuses == [100, 200]
    rejected = head.replace(b"expect", b"x-no-access: 1\r\nexpect")
    assert Talk().say(rejected).statuses == [401]


def test_a_chunked_body_is_accepted():
    head = b"POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
    assert Talk().say(head, b"1\r\na\r\n", b"2\r\nbc\r\n0\r\n\r\n").bodies[0]["body"] == "abc"


def test_a_body_without_access_is_not_read():
    talk = Talk().say(
        b"POST / HTTP/1.1\r\nhost: t\r\nx-no-access: 1\r\ncontent-length: 90\r\n\r\n", b"abc"
    )
    assert (talk.statuses, talk.port.asked, talk.shared.buffered_bytes) == ([401], [], 0)
    assert talk.say(post()).statuses == [401]


def test_a_body_that_is_announced_or_grows_too_large_is_rejected_once():
    assert Talk().say(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 101\r\n\r\n").statuses == [
        413
    ]
    grows = b"POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
    talk = Talk().say(grows, *[b"32\r\n" + b"x" * 50 + b"\r\n"] * 4)
    assert (talk.statuses, talk.shared.buffered_bytes) == ([413], 0)
    assert Talk().say(post(b"x" * 100)).statuses == [200]


def test_a_rejection_is_sent_after_the_replies_before_it():
    rejected = b"POST / HTTP/1.1\r\nhost: t\r\nx-no-access: 1\r\ncontent-length: 3\r\n\r\nabc"
    talk = Talk().say(post(b"1").replace(b"/events", b"/later") + rejected)
    assert talk.statuses == []
    talk.port.later.pop()()
    assert (talk.statuses, talk.pipe.closed) == ([200, 401], True)


def test_the_bytes_of_all_bodies_are_limited():
    one = Talk(buffered_bytes=120)
    one.say(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 90\r\n\r\n", b"x" * 80)
    other, pipe = Connection(one.shared), Pipe()
    other.connection_made(pipe)
    other.data_received(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 90\r\n\r\n")
    assert pipe.sent.startswith(b"HTTP/1.1 503")
    assert b"retry-after" in pipe.sent
    one.connection.connection_lost(None)
    assert one.shared.buffered_bytes == 0


@pytest.mark.parametrize(
    "said", [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"NO WAY\r\n\r\n", b"POST / HTTP/9.9\r\n"]
)
def test_input_that_is_not_http_is_400(said):
    talk = Talk().say(said + b"\r\n" * 3)
    assert (talk.statuses, talk.pipe.closed, talk.port.asked) == ([400], True, [])


def test_content_length_with_transfer_encoding_is_rejected():
    both = post().replace(b"host: t", b"host: t\r\ntransfer-encoding: chunked")
    assert Talk().say(both).statuses == [400]


def test_an_endless_head_is_431():
    talk = Talk(head_bytes=1000).say(b"POST / HTTP/1.1\r\n", *[b"a: b\r\n"] * 200)
    assert (talk.statuses, talk.pipe.closed) == ([431], True)


@pytest.mark.parametrize(
    ("began", "seconds"),
    [(b"POST / HT", 10), (b"POST / HTTP/1.1\r\na: b\r\n", 10), (POST[:-2] % 9 + b"abc", 30)],
)
def test_a_slow_request_is_408(began, seconds):
    talk = Talk().say(began)
    assert talk.late(seconds - 1).statuses == []
    assert talk.late(2).statuses == [408]
    assert (talk.shared.timed_out, talk.pipe.closed) == (1, True)


def test_a_new_byte_does_not_restart_the_timeout():
    talk = Talk().say(b"POST / HT").late(9).say(b"TP/1.1\r\n")
    assert talk.late(2).statuses == [408]


def test_a_silent_connection_is_closed_without_a_reply():
    assert Talk().late(11).pipe.closed
    talk = Talk().say(post())
    assert not talk.late(70).pipe.closed
    assert talk.late(6).pipe.closed
    assert talk.statuses == [200]


def test_a_request_in_progress_does_not_time_out():
    talk = Talk().say(post().replace(b"/events", b"/later")).late(999)
    assert not talk.pipe.closed
    talk.port.later.pop()()
    assert talk.statuses == [200]


def test_a_client_that_does_not_read_replies_is_disconnected():
    talk = Talk().say(post())
    talk.connection.pause_writing()
    assert not talk.late(29).pipe.closed
    talk.connection.resume_writing()
    assert not talk.late(31).pipe.closed
    talk.connection.pause_writing()
    assert talk.late(31).pipe.closed


def test_an_exception_is_500_and_the_next_request_is_answered():
    talk = Talk().say(post().replace(b"/events", b"/broken") + post())
    assert talk.statuses == [500, 200]


def test_a_half_closed_connection_gets_its_reply():
    talk = Talk().say(post().replace(b"/events", b"/later"))
    assert talk.connection.eof_received() is True
    talk.port.later.pop()()
    assert (talk.statuses, talk.pipe.closed) == ([200], True)
    assert Talk().say(b"POST / HT").connection.eof_received() is False


def test_a_reply_to_a_closed_connection_is_discarded():
    talk = Talk().say(post().replace(b"/events", b"/later"))
    talk.pipe.close()
    talk.connection.connection_lost(None)
    talk.port.later.pop()()
    assert talk.pipe.sent == b""
    assert talk.shared.members == {}


def test_shutdown_closes_idle_connections_and_answers_busy_ones():
    idle, busy = Talk(), Talk().say(post().replace(b"/events", b"/later"))
    for talk in (idle, busy):
        talk.shared.closing = True
        talk.connection.close_if_idle()
    assert (idle.pipe.closed, busy.pipe.closed) == (True, False)
    busy.port.later.pop()()
    assert (busy.statuses, busy.pipe.closed) == ([200], True)


def test_a_path_is_percent_decoded_and_separated_from_its_query():
    async def scene():
        talk = Talk().say(b"GET /a%20b/%C3%A9?c=d%20e HTTP/1.1\r\nhost: t\r\n\r\n")
        return talk.port.asked[0]

    asked = asyncio.run(scene())
    assert (asked.path, asked.query, asked.method) == ("/a b/é", "c=d%20e", b"GET")


@pytest.mark.parametrize("how", [b"content-length: 90", b"transfer-encoding: chunked"])
def test_bodies_that_together_exceed_the_limit_are_rejected(how):
    head = b"POST / HTTP/1.1\r\nhost: t\r\n" + how + b"\r\n\r\n"
    part = b"x" * 80 if how.startswith(b"content") else b"50\r\n" + b"x" * 80 + b"\r\n"
    one = Talk(buffered_bytes=120).say(head)
    other, pipe = Connection(one.shared), Pipe()
    other.connection_made(pipe)
    other.data_received(head)  # announced before any body was received
    one.say(part)
    other.data_received(part)
    assert (pipe.sent[:12], one.shared.buffered_bytes) == (b"HTTP/1.1 503", 80)
