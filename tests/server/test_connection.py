"""Connections: order of replies, what is refused by its head, what is late, too long or too much."""

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
    """Answers a request with what it was; those of a path that begins with /later once they are let go."""

    max_body = 100

    def __init__(self):
        self.later = []
        self.came = asyncio.Event()
        self.asked = []

    def count_rejected(self, status):
        """Nobody counts these."""

    def reject(self, request):
        return json_reply(401, {"error": "no"}) if b"x-stranger" in request.headers else None

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
    """A connection, what it was sent, and what it answers."""

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
        """So much time goes by, and somebody looks."""
        self.connection.deadline -= seconds
        self.connection.check_timeout(time.monotonic())
        return self


def test_a_request_in_pieces_is_one_request():
    talk = Talk().say(*(bytes([b]) for b in post(b"[1]")))
    assert talk.bodies == [{"path": "/events", "body": "[1]"}]
    assert not talk.pipe.closed


def test_what_is_asked_at_once_is_answered_in_order_and_one_after_the_other():
    talk = Talk().say(post(b"1").replace(b"/events", b"/later") + post(b"2"))
    assert (len(talk.port.asked), talk.statuses) == (1, [])
    talk.port.later.pop()()
    assert [told["body"] for told in talk.bodies] == ["1", "2"]


def test_requests_that_follow_are_read_once_the_first_is_answered():
    later = post(b"1").replace(b"/events", b"/later")
    talk = Talk().say(later + post(b"2") + later)
    assert (len(talk.port.asked), talk.pipe.reading) == (1, False)
    assert talk.shared.buffered_bytes == 1 + len(post(b"2") + later)
    talk.port.later.pop()()
    assert (len(talk.port.asked), talk.pipe.reading) == (3, True)
    talk.port.later.pop()()
    assert [told["body"] for told in talk.bodies] == ["1", "2", "1"]
    assert talk.shared.buffered_bytes == 0


def test_requests_that_follow_count_and_what_has_no_room_ends_with_the_reply():
    talk = Talk(buffered_bytes=300).say(post(b"1").replace(b"/events", b"/later"))
    talk.say(*[post(b"x" * 90)] * 3)
    assert (talk.pipe.closed, talk.shared.buffered_bytes) == (False, 1)
    talk.port.later.pop()()
    assert (talk.statuses, talk.pipe.closed, talk.shared.buffered_bytes) == ([200], True, 0)


def test_a_body_counts_until_it_is_answered_though_its_sender_is_gone():
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
def test_a_connection_stays_as_its_sender_asks(version, header, stays):
    head = post().replace(b"HTTP/1.1", b"HTTP/" + version).replace(b"host: t\r\n", header)
    talk = Talk().say(head)
    assert talk.statuses == [200]
    assert talk.pipe.closed is not stays
    assert (b"connection: close" in talk.pipe.sent) is not stays


def test_a_sender_who_waits_for_leave_gets_it_only_where_his_body_is_wanted():
    head = post().replace(b"host: t", b"host: t\r\nexpect: 100-continue").removesuffix(b"{}")
    talk = Talk().say(head)
    assert talk.statuses == [100]
    assert talk.say(b"{}").statuses == [100, 200]
    stranger = head.replace(b"expect", b"x-stranger: 1\r\nexpect")
    assert Talk().say(stranger).statuses == [401]


def test_a_body_is_taken_in_chunks_too():
    head = b"POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
    assert Talk().say(head, b"1\r\na\r\n", b"2\r\nbc\r\n0\r\n\r\n").bodies[0]["body"] == "abc"


def test_a_strangers_body_is_not_read():
    talk = Talk().say(
        b"POST / HTTP/1.1\r\nhost: t\r\nx-stranger: 1\r\ncontent-length: 90\r\n\r\n", b"abc"
    )
    assert (talk.statuses, talk.port.asked, talk.shared.buffered_bytes) == ([401], [], 0)
    assert talk.say(post()).statuses == [401]


def test_what_is_announced_or_grows_too_large_is_refused_once():
    assert Talk().say(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 101\r\n\r\n").statuses == [
        413
    ]
    grows = b"POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
    talk = Talk().say(grows, *[b"32\r\n" + b"x" * 50 + b"\r\n"] * 4)
    assert (talk.statuses, talk.shared.buffered_bytes) == ([413], 0)
    assert Talk().say(post(b"x" * 100)).statuses == [200]


def test_a_refusal_waits_for_the_replies_before_it():
    stranger = b"POST / HTTP/1.1\r\nhost: t\r\nx-stranger: 1\r\ncontent-length: 3\r\n\r\nabc"
    talk = Talk().say(post(b"1").replace(b"/events", b"/later") + stranger)
    assert talk.statuses == []
    talk.port.later.pop()()
    assert (talk.statuses, talk.pipe.closed) == ([200, 401], True)


def test_all_bodies_together_are_bounded():
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
def test_what_is_no_http_is_400(said):
    talk = Talk().say(said + b"\r\n" * 3)
    assert (talk.statuses, talk.pipe.closed, talk.port.asked) == ([400], True, [])


def test_two_ways_to_tell_the_length_are_refused():
    both = post().replace(b"host: t", b"host: t\r\ntransfer-encoding: chunked")
    assert Talk().say(both).statuses == [400]


def test_a_head_without_end_is_431():
    talk = Talk(head_bytes=1000).say(b"POST / HTTP/1.1\r\n", *[b"a: b\r\n"] * 200)
    assert (talk.statuses, talk.pipe.closed) == ([431], True)


@pytest.mark.parametrize(
    ("began", "seconds"),
    [(b"POST / HT", 10), (b"POST / HTTP/1.1\r\na: b\r\n", 10), (POST[:-2] % 9 + b"abc", 30)],
)
def test_who_is_late_gets_408(began, seconds):
    talk = Talk().say(began)
    assert talk.late(seconds - 1).statuses == []
    assert talk.late(2).statuses == [408]
    assert (talk.shared.timed_out, talk.pipe.closed) == (1, True)


def test_time_does_not_begin_anew_with_every_byte():
    talk = Talk().say(b"POST / HT").late(9).say(b"TP/1.1\r\n")
    assert talk.late(2).statuses == [408]


def test_who_says_nothing_is_left_without_a_word():
    assert Talk().late(11).pipe.closed
    talk = Talk().say(post())
    assert not talk.late(70).pipe.closed
    assert talk.late(6).pipe.closed
    assert talk.statuses == [200]


def test_nobody_is_late_while_we_are():
    talk = Talk().say(post().replace(b"/events", b"/later")).late(999)
    assert not talk.pipe.closed
    talk.port.later.pop()()
    assert talk.statuses == [200]


def test_who_does_not_read_his_replies_is_let_go():
    talk = Talk().say(post())
    talk.connection.pause_writing()
    assert not talk.late(29).pipe.closed
    talk.connection.resume_writing()
    assert not talk.late(31).pipe.closed
    talk.connection.pause_writing()
    assert talk.late(31).pipe.closed


def test_a_bug_is_500_and_the_next_request_goes_on():
    talk = Talk().say(post().replace(b"/events", b"/broken") + post())
    assert talk.statuses == [500, 200]


def test_who_has_said_all_still_gets_his_reply():
    talk = Talk().say(post().replace(b"/events", b"/later"))
    assert talk.connection.eof_received() is True
    talk.port.later.pop()()
    assert (talk.statuses, talk.pipe.closed) == ([200], True)
    assert Talk().say(b"POST / HT").connection.eof_received() is False


def test_a_reply_for_who_is_gone_is_nobodys():
    talk = Talk().say(post().replace(b"/events", b"/later"))
    talk.pipe.close()
    talk.connection.connection_lost(None)
    talk.port.later.pop()()
    assert talk.pipe.sent == b""
    assert talk.shared.members == {}


def test_at_the_end_an_idle_one_goes_and_a_busy_one_gets_its_reply():
    idle, busy = Talk(), Talk().say(post().replace(b"/events", b"/later"))
    for talk in (idle, busy):
        talk.shared.closing = True
        talk.connection.close_if_idle()
    assert (idle.pipe.closed, busy.pipe.closed) == (True, False)
    busy.port.later.pop()()
    assert (busy.statuses, busy.pipe.closed) == ([200], True)


def test_escapes_of_a_path_are_taken_back_and_its_query_is_apart():
    async def scene():
        talk = Talk().say(b"GET /a%20b/%C3%A9?c=d%20e HTTP/1.1\r\nhost: t\r\n\r\n")
        return talk.port.asked[0]

    asked = asyncio.run(scene())
    assert (asked.path, asked.query, asked.method) == ("/a b/é", "c=d%20e", b"GET")


@pytest.mark.parametrize("how", [b"content-length: 90", b"transfer-encoding: chunked"])
def test_bodies_that_grow_together_past_the_bound_are_refused(how):
    head = b"POST / HTTP/1.1\r\nhost: t\r\n" + how + b"\r\n\r\n"
    part = b"x" * 80 if how.startswith(b"content") else b"50\r\n" + b"x" * 80 + b"\r\n"
    one = Talk(buffered_bytes=120).say(head)
    other, pipe = Connection(one.shared), Pipe()
    other.connection_made(pipe)
    other.data_received(head)  # announced while nothing was there yet
    one.say(part)
    other.data_received(part)
    assert (pipe.sent[:12], one.shared.buffered_bytes) == (b"HTTP/1.1 503", 80)
