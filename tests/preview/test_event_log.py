"""Recorded events are read as a stream, and split into the same events as by `tiercel plan`."""

from __future__ import annotations

import functools
import gzip
import io
import json
import tracemalloc

import pytest
import zstandard
from engine.model.event_formats import Splitter, read_events
from engine.preview.event_log import MAX_EVENT_BYTES, EventLog, open_event_file
from hypothesis import given, settings
from hypothesis import strategies as st

EVENT = {"rule": "R", "time": "2026-03-01T10:00:00Z", "output_fields": {"proc.name": 'é " ] }'}}
LINE = json.dumps(EVENT).encode()
LINES = b"".join(LINE + b"\n" for _ in range(3_000))
PRETTY = json.dumps(EVENT, indent=2).encode()


class LongLine(io.RawIOBase):
    """A line of 300 MiB, then an event."""

    def __init__(self):
        self.left = 300

    def readable(self):
        return True

    def readinto(self, buffer):
        if self.left == 0:
            buffer[: len(LINE)] = LINE
        elif self.left < 0:
            return 0
        self.left -= 1
        if self.left < 0:
            return len(LINE)
        piece = b'{"rule": "' if self.left == 299 else b"\n" if self.left == 0 else b"x" * 2**20
        size = min(len(piece), len(buffer))
        buffer[:size] = piece[:size]
        return size


@pytest.fixture(params=[1, 7, 150, 2**20], ids=lambda chunk: f"chunks of {chunk}")
def chunk(request, monkeypatch):
    """Bytes that are read at a time. A value may stand in any number of chunks."""
    monkeypatch.setattr("engine.preview.event_log._CHUNK", request.param)
    return request.param


@pytest.fixture
def small_window(monkeypatch):
    """The limit for an event, in bytes; chunks are a quarter of it."""
    monkeypatch.setattr("engine.preview.event_log._CHUNK", 2**11)
    monkeypatch.setattr("engine.preview.event_log.MAX_EVENT_BYTES", 2**13)
    return 2**13


def read(content):
    with open_event_file(io.BytesIO(content)) as source:
        log = EventLog(source)
        events = [(line, event.rule) for line, event in log]
    return events, log


def planned(content):
    """The events that `tiercel plan` finds."""
    return [(one.line, one.event.rule) for one in read_events(content) if one.event]


@pytest.mark.usefixtures("chunk")
def test_lines_of_other_text_are_counted_and_are_not_errors():
    events, log = read(b"Falco says hello\n\n" + LINE + b"\r\n[libs]: more\n  " + LINE)
    assert events == [(3, "R"), (5, "R")]
    assert (log.events, log.other_lines, log.unreadable) == (2, 2, 0)


@pytest.mark.usefixtures("chunk")
def test_a_line_that_starts_as_an_event_and_is_not_one_is_reported_and_skipped():
    events, log = read(LINE + b'\n{"rule": "R", \n{"rule": ""}\n{"rule": "\xff"}\n' + LINE)
    assert events == [(1, "R"), (5, "R")]
    assert [line for line, _ in log.errors] == [2, 3, 4]
    assert "`rule` must be a non-empty string" in log.errors[1][1]


def test_the_first_errors_are_kept_and_all_are_counted():
    _, log = read(b"{\n" * 500)
    assert (log.unreadable, len(log.errors)) == (500, 20)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b"\xef\xbb\xbf[ ]\n"])
def test_a_file_without_events_is_fine(content):
    events, log = read(content)
    assert (events, log.unreadable) == ([], 0)


@pytest.mark.usefixtures("chunk")
def test_an_event_may_have_several_lines():
    content = b"\xef\xbb\xbf" + PRETTY + b"\nsome text\n" + PRETTY + b"\n" + LINE
    lines = PRETTY.count(b"\n") + 1
    events, log = read(content)
    assert events == [(1, "R"), (lines + 2, "R"), (2 * lines + 2, "R")]
    assert (log.other_lines, log.unreadable) == (1, 0)


@pytest.mark.usefixtures("chunk")
def test_a_line_may_have_several_events():
    events, log = read(LINE + LINE + b' {"rule": 1} ' + PRETTY + LINE + b" and text\n" + LINE)
    assert [rule for _, rule in events] == ["R"] * 5
    assert [reason for _, reason in log.errors] == [
        "`rule` must be a non-empty string",
        "not JSON: invalid character (byte 0)",
    ]


def test_events_without_line_breaks_are_read_from_a_small_window(small_window):
    content = LINE * (20 * small_window // len(LINE))
    with open_event_file(io.BytesIO(content)) as source:
        log = EventLog(source)
        assert all(len(log._window.content) < 3 * small_window for _ in log)
    assert (log.events, log.unreadable) == (len(content) // len(LINE), 0)


@pytest.mark.parametrize("chunk", [7, 150, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_element_by_element(indent, chunk, monkeypatch):
    monkeypatch.setattr("engine.preview.event_log.MAX_EVENT_BYTES", 200)
    monkeypatch.setattr("engine.preview.event_log._CHUNK", chunk)
    array = json.dumps([EVENT, EVENT, *[1234567] * 30, *[EVENT] * 40], indent=indent).encode()
    events, log = read(array)
    assert events == [(1, "R"), (2, "R"), *((number, "R") for number in range(33, 73))]
    assert log.unreadable == 30
    assert log.errors[0] == (3, "an event is a JSON object")


END = "the array cannot be read from here on"
BROKEN = "not JSON: "


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(
    ("rest", "rules", "errors"),
    [
        (b', {"rule": "b"}', "aab", [END]),
        (b' {"rule": "b"}, {"rule": "c"}]', "ac", [BROKEN]),
        (b",]", "aa", []),
        (b',, {"rule": "b"}]', "aab", [BROKEN]),
        (b', {"rule": ], {"rule": "b"}', "aa", [BROKEN, END]),
        (b', {"rule": ]}, {"rule": "b"}]', "aab", [BROKEN]),
        (b', {"rule": nil}, {"rule": "b"}]', "aab", [BROKEN]),
        (b'] \n{"rule": "b"}', "aab", []),
        (b'][{"rule": "b"}]', "aab", []),
        (b'] and text\n{"rule": "b"}', "aab", [BROKEN]),
    ],
)
def test_a_broken_element_of_an_array_does_not_affect_the_others(rest, rules, errors):
    content = b'[{"rule": "a"}, {"rule": "a"}' + rest
    events, log = read(content)
    assert events == planned(content)
    assert "".join(rule for _, rule in events) == rules
    assert [reason[: len(BROKEN)] for _, reason in log.errors] == [
        expected[: len(BROKEN)] for expected in errors
    ]


def test_an_element_of_an_array_that_is_too_long_ends_the_reading(monkeypatch):
    monkeypatch.setattr("engine.preview.event_log.MAX_EVENT_BYTES", 200)
    monkeypatch.setattr("engine.preview.event_log._CHUNK", 100)
    long = b'{"rule": "' + b"x" * 1000 + b'"}'
    events, log = read(b"[" + LINE + b"," + long + b"," + LINE + b"]")
    assert (events, log.errors) == ([(1, "R")], [(2, END)])


def test_a_huge_number_in_an_element_does_not_hide_the_other_elements():
    huge = b'{"rule": "a", "output_fields": {"n": 1' + b"0" * 5_000 + b"}}"
    events, _ = read(b"[" + huge + b"," + LINE + b"] ")
    assert events[-1] == (2, "R")


def test_a_value_that_is_nested_too_deep_is_reported():
    deep = b'{"rule": "a", "output_fields": {"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}"
    _, log = read(deep + b"\n" + LINE)
    assert [reason for _, reason in log.errors] == ["nested too deep"]
    assert log.events == 1


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_compressed_files_are_decompressed(pack):
    events, log = read(pack(LINES))
    assert len(events) == 3_000
    assert log.unreadable == 0
    assert len(read(pack(LINES) + pack(LINES))[0]) == 6_000


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_compressed_file_is_read_up_to_the_damage(pack, damage):
    lines = b"".join(LINE[:-1] + b', "n": "%d"}\n' % (n * 7919) for n in range(5_000))
    packed = pack(lines)
    half = len(packed) // 2
    broken = packed[:half] if damage == "cut" else packed[:half] + b"\0\0\0\0" + packed[half + 4 :]
    events, log = read(broken)
    assert 1_000 < len(events) < 5_000
    assert log.unreadable > 0


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("shape", ["lines", "array"])
def test_progress_follows_the_events_and_ends_at_the_size_of_the_file(pack, shape):
    items = [LINE[:-1] + b', "n": "%s"}' % (b"%d" % n * 100) for n in range(1000, 3000)]
    whole = b"\n".join(items) if shape == "lines" else b"[" + b",\n".join(items) + b"]"
    packed = pack(whole)
    seen, apart = [0], 0.0
    with open_event_file(io.BytesIO(packed), len(packed)) as source:
        log = EventLog(source, seen.append)
        for number, _ in log:
            apart = max(apart, abs(seen[-1] / len(packed) - number / len(items)))
    assert log.events == len(items)
    assert apart < 0.08, "the progress is ahead of the events, or behind them"
    assert seen == sorted(seen)
    assert seen[-1] == len(packed)


def test_a_line_of_any_length_needs_little_memory():
    tracemalloc.start()
    with open_event_file(io.BufferedReader(LongLine())) as source:
        log = EventLog(source)
        rules = [event.rule for _, event in log]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rules == ["R"]
    assert log.errors == [(1, f"longer than {MAX_EVENT_BYTES:,} bytes")]
    assert peak < 6 * MAX_EVENT_BYTES


def test_broken_lines_are_searched_for_their_end_a_limited_number_of_times(
    small_window, monkeypatch
):
    searched = []
    splitter = functools.partial(Counting, searched)
    monkeypatch.setattr("engine.preview.event_log.Splitter", splitter)
    lines = 20 * small_window // 11
    content = b'{"rule": [\n' * lines
    _, log = read(content)
    assert log.unreadable == lines
    assert sum(searched) < 30 * len(content)


class Counting(Splitter):
    """Counts the bytes of each search for the end of an object."""

    def __init__(self, searched, *limits):
        super().__init__(*limits)
        self.searched = searched

    def object_end(self, at):
        before = self._failed_bytes_left
        end = super().object_end(at)
        self.searched.append(before - self._failed_bytes_left)
        return end


@given(st.binary(max_size=60))
def test_any_bytes_are_read(content):
    _, log = read(content)
    assert log.unreadable <= len(content)


PARTS = st.sampled_from(
    [
        LINE,
        PRETTY,
        LINE + LINE,
        PRETTY + PRETTY,
        b'{"rule": "b"}',
        b"{",
        b'{"rule": 1}',
        b'{"rule": "cut',
        b"[" + LINE + b"," + LINE + b"]",
        b"[" + LINE + b', {"rule": nil}, ' + PRETTY + b"]",
        b"",
    ]
)


@settings(max_examples=100)
@given(st.lists(PARTS, max_size=6), st.sampled_from([b"\n", b"\r\n\n", b" \n "]))
def test_the_events_are_those_that_plan_finds_in_the_file(parts, between):
    content = LINE + b"\n" + between.join(parts)
    assert read(content)[0] == planned(content)
