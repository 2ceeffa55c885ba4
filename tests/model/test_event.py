from __future__ import annotations

import json

import msgspec
import pytest
from engine.model.errors import EventError
from engine.model.event import (
    MAX_DEPTH,
    decode_json,
    format_time,
    identity,
    is_present,
    parse_event,
    parse_time,
)
from engine.model.event_formats import read_events
from engine.model.event_subject import subject_of, target_queue
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory, plan
from hypothesis import given, settings
from hypothesis import strategies as st

FALCO = """{"hostname":"node-7","output":"2026-05-04T10:20:30.123456789+0000: Warning Write to /tmp",
 "output_fields":{"container.id":"0a1b2c3d4e5f",
 "container.name":"web-1","evt.time.iso8601":1777890030123456789,
 "fd.name":"/tmp/x.txt","k8s.ns.name":null,"k8s.pod.name":null,
 "proc.cmdline":"sh -lc echo \\"test\\"",
 "user.loginuid":-1,
 "proc.exe_ino.ctime_duration_proc_start":18446744073670260079,"container.privileged":false},
 "priority":"Warning","rule":"Write to /tmp by container","source":"syscall","tags":["container","drift"],
 "time":"2026-05-04T10:20:30.123456789Z"}"""
"""falco.md, 1a: as Falco 0.43 sends it."""

INTERNAL = """{"hostname":"node-7","output":"18:00:00: Debug Falco internal: syscall event drop.",
 "output_fields":{"n_drops":"7","n_evts":"100"},"priority":"Debug",
 "rule":"Falco internal: syscall event drop","source":"internal",
 "time":"2026-05-04T10:20:30.000000000Z"}"""

BARE = {"rule": "r", "time": "2026-03-01T10:00:00Z"}


def forwarded(**changes):
    """The alert as Falcosidekick sends it on: its own uuid, keys in its order, zeros of the time cut."""
    told = json.loads(FALCO)
    order = ("output", "priority", "rule", "time", "output_fields", "source", "tags", "hostname")
    return {"uuid": "0f0e-fresh", **{key: told[key] for key in order}, **changes}


def test_an_alert_of_falco_is_parsed():
    event = parse_event(decode_json(FALCO.encode()))
    assert (event.rule, event.priority, event.source) == (
        "Write to /tmp by container",
        4,
        "syscall",
    )
    assert (event.hostname, event.tags) == ("node-7", ("container", "drift"))
    assert (event.time_ns, event.timed) == (1777890030123456789, True)
    assert event.fields["proc.exe_ino.ctime_duration_proc_start"] == 18446744073670260079
    assert subject_of(event).container_id == "0a1b2c3d4e5f"
    assert subject_of(event).pod is None
    assert target_queue(event, "run") == "node-7/0a1b2c3d4e5f"


def test_an_internal_alert_has_no_tags_and_may_have_no_fields():
    assert parse_event(decode_json(INTERNAL.encode())).tags == ()
    for fields in ({}, None):
        assert (
            parse_event(
                {"rule": "Falco internal: hot restart failure", "output_fields": fields}
            ).fields
            == {}
        )


def test_an_event_has_the_same_identity_through_falcosidekick():
    there, here = parse_event(decode_json(FALCO.encode())), parse_event(forwarded())
    assert identity(there) == identity(here) == identity(parse_event(forwarded(uuid="another")))
    assert identity(there) == identity(
        parse_event(forwarded(source="syscall", message="x", output="y"))
    )
    assert len(identity(there)) == 32
    assert set(identity(there)) <= set("0123456789abcdef")


def test_the_time_fields_do_not_affect_the_identity():
    fields = {**json.loads(FALCO)["output_fields"], "evt.time": 1, "evt.time.iso8601": 2}
    assert identity(parse_event(forwarded(output_fields=fields))) == identity(
        parse_event(forwarded())
    )


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "other"}, {"hostname": "node-8"}, {"source": "k8s_audit"}, {"output_fields": {"a": 1}},
        {"time": "2026-05-04T10:20:30.123456788Z"},
    ],
    ids=str,
)  # fmt: skip
def test_another_event_has_another_identity(change):
    assert identity(parse_event(forwarded(**change))) != identity(parse_event(forwarded()))


def test_the_order_of_keys_does_not_affect_the_identity():
    one, other = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert identity(parse_event({**BARE, "output_fields": one})) == identity(
        parse_event({**BARE, "output_fields": other})
    )


def test_an_event_without_a_time_differs_from_every_other_event():
    one, other = parse_event({"rule": "r"}, salt="1"), parse_event({"rule": "r"}, salt="2")
    assert identity(one) != identity(other)
    assert (one.time_ns, one.timed) == (946_684_800_000_000_000, False)
    assert parse_event({"rule": "r", "time": None}, received_ns=7).time_ns == 7


def test_keys_are_read_in_any_case_and_the_last_one_counts():
    assert parse_event({"RULE": "r", "Output_Fields": {"A": 1}, "Tags": ["x"]}).fields == {"A": 1}
    assert parse_event(decode_json(b'{"rule":"a","rule":"b"}')).rule == "b"
    assert parse_event(decode_json(b'{"rule":"a","Rule":"b"}')).rule == "b"
    assert parse_event(decode_json(b'{"Rule":"b","rule":"a"}')).rule == "a"
    assert parse_event(decode_json(b'{"rule":"r","output_fields":{"a":1,"a":2}}')).fields == {
        "a": 2
    }


def test_spellings_are_normalised():
    for source in (None, "", "syscalls", "syscall"):
        assert parse_event({**BARE, "source": source}).source == "syscall"
        assert parse_event({**BARE, "source": source}).alert["source"] == "syscall"
    for word, number in (
        ("CRITICAL", 2),
        ("info", 6),
        ("Info", 6),
        ("iNformational", 6),
        ("debug", 7),
    ):
        assert parse_event({**BARE, "priority": word}).priority == number
    assert parse_event({**BARE, "priority": "info"}).alert["priority"] == "Informational"
    assert parse_event({**BARE, "priority": None}).priority is None
    assert parse_event({**BARE, "hostname": ""}).hostname is None


@pytest.mark.parametrize(
    ("text", "seconds", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0, 0),
        ("1970-01-01t00:00:01z", 1, 0),
        ("1970-01-01T00:00:00.5Z", 0, 500_000_000),
        ("1970-01-01T00:00:00.1234567899Z", 0, 123_456_789),
        ("1970-01-01T02:00:00.000000001+02:00", 0, 1),
        ("1969-12-31T23:00:00-01:30", 1800, 0),
    ],
)
def test_times_are_rfc_3339_to_the_nanosecond(text, seconds, nanoseconds):
    assert parse_time(text) == seconds * 1_000_000_000 + nanoseconds


@given(st.integers(-62_135_596_800_000_000_000, 253_402_300_799_999_999_999))
def test_a_time_is_written_as_it_is_read(ns):
    assert parse_time(format_time(ns)) == ns


WRONG = [
    None, 5, "r", [], {}, {"rule": ""}, {"rule": None}, {"rule": 5}, {**BARE, "priority": "warn"},
    {**BARE, "priority": ""}, {**BARE, "priority": 4}, {**BARE, "time": ""}, {**BARE, "time": 5},
    {**BARE, "time": "yesterday"}, {**BARE, "time": "2026-02-30T00:00:00Z"},
    {**BARE, "time": "2026-03-01 10:00:00"}, {**BARE, "time": "2026-03-01T10:00:00"},
    {**BARE, "time": "2026-03-01T10:00:00+24:00"}, {**BARE, "tags": "a"}, {**BARE, "tags": [1]},
    {**BARE, "tags": {}}, {**BARE, "output_fields": []}, {**BARE, "output_fields": "x"},
    {**BARE, "hostname": 5}, {**BARE, "source": []}, {**BARE, "output": 1},
]  # fmt: skip


@pytest.mark.parametrize("value", WRONG, ids=str)
def test_a_value_that_is_not_an_event_is_an_error(value):
    with pytest.raises(EventError):
        parse_event(value)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nul", b'{"rule": "\xff"}', b'{"a":1e999}', b'"\\ud800"', b"[" * 100_000],
    ids=lambda body: str(body[:20]),
)
def test_a_body_that_is_not_json_is_an_error(body):
    with pytest.raises(EventError):
        decode_json(body)


@pytest.mark.parametrize("body", [b'"' + b"[" * 500 + b'"', b'["' + b"{" * 500 + b'"]'])
def test_brackets_in_a_string_are_not_nesting(body):
    assert decode_json(body) == json.loads(body)


def test_a_value_that_is_nested_too_deep_is_an_error():
    def body(depth):
        return b'{"rule":"[[[{","output_fields":{"a":' + b"[" * depth + b"]" * depth + b"}}"

    assert parse_event(decode_json(body(MAX_DEPTH - 2)))
    for depth in (MAX_DEPTH, 900):
        with pytest.raises(EventError, match="too deep"):
            decode_json(body(depth))
    assert decode_json(b'{"a":"' + b"[{" * 500 + b'"}')
    assert decode_json(b"[" + b"{}," * 500 + b"{}]")


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner)),
    max_leaves=10,
)
alerts = st.dictionaries(
    st.sampled_from(
        [
            "rule",
            "Rule",
            "priority",
            "time",
            "source",
            "tags",
            "hostname",
            "output",
            "output_fields",
        ]
    ),
    st.one_of(
        json_values,
        st.sampled_from(["r", "Warning", "2026-03-01T10:00:00Z", ["t"], {"k8s.pod.name": "x"}]),
    ),
)


@settings(max_examples=100)
@given(st.one_of(json_values, alerts))
def test_any_json_is_an_event_or_an_error(value):
    try:
        event = parse_event(value)
    except EventError:
        return
    assert identity(event) == identity(parse_event(value))
    assert parse_event(event.alert).fields == event.fields
    subject_of(event)
    plan(event, PlaybookIndex([]), PlanningMemory())


@given(st.binary(max_size=60))
def test_any_bytes_are_events_or_errors(content):
    for alert in read_events(content):
        assert (alert.event is None) is (alert.error is not None)


def test_a_file_has_one_alert_or_an_array_or_one_alert_per_line():
    def read(content):
        return [
            (alert.line, alert.event.rule if alert.event else None)
            for alert in read_events(content)
        ]

    assert read(b'\xef\xbb\xbf{"rule": "a"}') == [(1, "a")]
    assert read(b'{\n"rule":\n"a"}\n') == [(1, "a")]
    assert read(b'[{"rule": "a"}, 5, {"rule": "b"}]') == [(1, "a"), (2, None), (3, "b")]
    assert read(b'{"rule": "a"}\r\n\n{"rule": "b"}\nno\n') == [(1, "a"), (3, "b"), (4, None)]
    assert read(b"") == read(b"\n \n") == read(b"[]") == []


def test_empty_values_are_absent():
    assert not any(map(is_present, [None, "", "<NA>", []]))
    assert all(map(is_present, [0, False, {}, " ", [None], "<na>"]))


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"k8s.ns.name": "n", "k8s.pod.name": "p", "k8smeta.pod.name": "q"}, ("n", "p")),
        ({"k8s.ns.name": "<NA>", "k8smeta.ns.name": "n", "k8smeta.pod.name": "q"}, ("n", "q")),
        (
            {"ka.target.namespace": "n", "ka.target.pod.name": "p", "ka.target.name": "x"},
            ("n", "p"),
        ),
        ({"ka.target.name": "x", "ka.target.resource": "pods"}, (None, "x")),
        ({"ka.target.name": "x", "ka.target.resource": "secrets"}, (None, None)),
        ({"k8s.pod.name": ["p"], "k8s.ns.name": 5}, (None, None)),
    ],
    ids=str,
)
def test_the_pod_is_named_by_the_first_field_that_has_it(fields, names):
    who = subject_of(parse_event({"rule": "r", "output_fields": fields}))
    assert (who.namespace, who.pod) == names


def test_a_container_id_has_12_or_64_hex_digits():
    for text, there in (("a" * 12, True), ("0" * 64, True), ("host", False), ("A" * 12, False)):
        who = subject_of(parse_event({"rule": "r", "output_fields": {"container.id": text}}))
        assert (who.container_id is not None) is there


def test_the_whole_alert_is_created_once_per_event():
    event = parse_event({"rule": "r", "priority": "Warning", "source": "syscalls"})
    assert event.alert is event.alert
    assert event.alert["source"] == "syscall"
    changed = msgspec.structs.replace(event, fields={"a": 1})
    assert changed.alert["output_fields"] == {"a": 1}
    assert event.alert["output_fields"] == {}
    assert event == parse_event({"rule": "r", "priority": "Warning", "source": "syscalls"})
