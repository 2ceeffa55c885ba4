from __future__ import annotations

import gzip
import io
import json
import tracemalloc

import pytest
import zstandard
from engine.model.event_formats import read_events
from engine.preview.event_log import MAX_LINE, EventLog, open_event_file
from hypothesis import given
from hypothesis import strategies as st

EVENT = {"rule": "R", "time": "2026-03-01T10:00:00Z", "output_fields": {"proc.name": 'é " ] }'}}
LINE = json.dumps(EVENT).encode()
LINES = b"".join(LINE + b"\n" for _ in range(3_000))


class Endless(io.RawIOBase):
    """A line of 300 MB that nobody wants to hold, then an event."""

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


def read(content):
    with open_event_file(io.BytesIO(content)) as source:
        recording = EventLog(source)
        events = [(line, event.rule) for line, event in recording]
    return events, recording


def test_lines_of_other_text_between_are_counted_and_no_error():
    events, recording = read(b"Falco says hello\n\n" + LINE + b"\r\n[libs]: more\n  " + LINE)
    assert events == [(3, "R"), (5, "R")]
    assert (recording.events, recording.other, recording.unreadable) == (2, 2, 0)


def test_a_line_that_begins_as_an_event_and_is_none_is_told_and_skipped():
    events, recording = read(LINE + b'\n{"rule": "R", \n{"rule": ""}\n{"rule": "\xff"}\n' + LINE)
    assert events == [(1, "R"), (5, "R")]
    assert [line for line, _ in recording.told] == [2, 3, 4]
    assert "`rule` must be a non-empty string" in recording.told[1][1]


def test_of_many_broken_lines_the_first_are_kept():
    _, recording = read(b"{\n" * 500)
    assert (recording.unreadable, len(recording.told)) == (500, 20)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b"\xef\xbb\xbf[ ]\n"])
def test_a_file_without_events_is_fine(content):
    events, recording = read(content)
    assert (events, recording.unreadable) == ([], 0)


def test_one_alert_over_several_lines_is_one():
    assert read(b"\xef\xbb\xbf" + json.dumps(EVENT, indent=2).encode())[0] == [(1, "R")]


@pytest.mark.parametrize("chunk", [7, 150, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_element_by_element(indent, chunk, monkeypatch):
    monkeypatch.setattr("engine.preview.event_log.MAX_LINE", 200)  # so that it is not read whole
    monkeypatch.setattr("engine.preview.event_log._CHUNK", chunk)
    array = json.dumps([EVENT, EVENT, *[1234567] * 30, *[EVENT] * 40], indent=indent).encode()
    events, recording = read(array)
    assert events == [(1, "R"), (2, "R"), *((number, "R") for number in range(33, 73))]
    assert recording.unreadable == 30
    assert recording.told[0] == (3, "an event is a JSON object")


HERE = "the array cannot be read from here on"


@pytest.mark.parametrize("chunk", [1, 2**20])
@pytest.mark.parametrize(
    ("end", "events", "told"),
    [
        (b', {"rule": "b"}', 4, HERE),
        (b' {"rule": "b"}]', 3, HERE),
        (b",]", 3, HERE),
        (b",,", 3, HERE),
        (b', {"rule": ]', 3, HERE),
        (b'] \n{"rule": "b"}', 3, "something follows the end of the array"),
    ],
)
def test_a_broken_array_is_read_as_far_as_it_goes(end, events, told, chunk, monkeypatch):
    monkeypatch.setattr("engine.preview.event_log.MAX_LINE", 30)
    monkeypatch.setattr("engine.preview.event_log._CHUNK", chunk)
    found, recording = read(b'[{"rule": "a"}, {"rule": "a"}, {"rule": "a"}' + end)
    assert len(found) == events
    assert [reason for _, reason in recording.told] == [told]


def test_an_element_of_an_array_with_a_huge_number_does_not_hide_the_rest():
    huge = b'{"rule": "a", "output_fields": {"n": 1' + b"0" * 5_000 + b"}}"
    events, _ = read(b"[" + huge + b"," + LINE + b"] ")
    assert events[-1] == (2, "R")


def test_what_nests_too_deep_is_told():
    deep = b'{"rule": "a", "output_fields": {"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}"
    _, recording = read(deep + b"\n" + LINE)
    assert [reason for _, reason in recording.told] == ["nested too deep"]
    assert recording.events == 1


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_packed_files_are_read_as_what_they_hold(pack):
    events, recording = read(pack(LINES))
    assert len(events) == 3_000
    assert recording.unreadable == 0
    assert len(read(pack(LINES) + pack(LINES))[0]) == 6_000


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_a_packed_file_that_breaks_off_is_told(pack, harm):
    lines = b"".join(LINE[:-1] + b', "n": "%d"}\n' % (n * 7919) for n in range(5_000))
    packed = pack(lines)
    half = len(packed) // 2
    broken = packed[:half] if harm == "cut" else packed[:half] + b"\0\0\0\0" + packed[half + 4 :]
    events, recording = read(broken)
    assert 1_000 < len(events) < 5_000
    assert recording.unreadable > 0


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("shape", ["lines", "array"])
def test_progress_follows_what_has_been_worked_off_and_ends_at_the_size_of_the_file(pack, shape):
    items = [LINE[:-1] + b', "n": "%s"}' % (b"%d" % n * 100) for n in range(1000, 3000)]
    whole = b"\n".join(items) if shape == "lines" else b"[" + b",\n".join(items) + b"]"
    packed = pack(whole)
    seen, apart = [0], 0.0
    with open_event_file(io.BytesIO(packed), len(packed)) as source:
        recording = EventLog(source, seen.append)
        for number, _ in recording:
            apart = max(apart, abs(seen[-1] / len(packed) - number / len(items)))
    assert recording.events == len(items)
    assert apart < 0.08, "the bar runs ahead of the work, or behind it"
    assert seen == sorted(seen)
    assert seen[-1] == len(packed)


def test_a_line_of_any_length_costs_little_memory():
    tracemalloc.start()
    with open_event_file(io.BufferedReader(Endless())) as source:
        recording = EventLog(source)
        rules = [event.rule for _, event in recording]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rules == ["R"]
    assert recording.told == [(1, f"longer than {MAX_LINE:,} bytes")]
    assert peak < 6 * MAX_LINE


@given(st.binary(max_size=60))
def test_any_bytes_are_read(content):
    _, recording = read(content)
    assert recording.unreadable <= content.count(b"\n") + 1


@given(st.lists(st.sampled_from([LINE, b'{"rule": "b"}', b"{", b'{"rule": 1}']), max_size=5))
def test_events_are_those_that_plan_finds_in_the_file(lines):
    content = b"\n".join(lines)
    alerts = [alert for alert in read_events(content) if alert.event]
    assert read(content)[0] == [(alert.line, alert.event.rule) for alert in alerts]
