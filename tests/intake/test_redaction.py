"""What ``--redact`` takes out of events: of values however deep, of throttles, lanes, dead letters."""

from __future__ import annotations

import base64
import json

import pytest
from engine.intake.deferred_records import DeferredRecords
from engine.intake.redaction import Redaction
from engine.journal.codec import from_event, to_event
from engine.journal.protocol import RunFilter
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.event import identity, parse_event
from hypothesis import given
from hypothesis import strategies as st
from tests.support.intake import (
    FALCO,
    PLAYBOOK,
    InstantJournal,
    ManualJournal,
    alert,
    intake_of,
    take,
)
from tests.support.playbooks import playbook_from_snapshot

SECRET = "canary"
ANY = Redaction([rf"*=(?i){SECRET}\S*"])
BY_COMMAND = PLAYBOOK.replace("  match:", "  throttle: {key: [proc.cmdline], once: 10m}\n  match:")

texts = st.text() | st.just(SECRET) | st.text().map(lambda text: f"{text}{SECRET}-{text}")
values = st.recursive(
    texts | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


def left(redaction, **said):
    return redaction.redact_event(parse_event({**FALCO, **said}))


@given(values, values, st.lists(texts), texts)
def test_what_any_field_may_not_say_is_left_nowhere_in_the_event(value, other, tags, host):
    event = left(ANY, output_fields={"x": value}, extra=other, tags=tags, hostname=host)
    said = json.dumps([event.alert, event.sent, event.hostname, event.tags], ensure_ascii=False)
    assert SECRET not in said.lower()


def test_a_field_is_redacted_however_deep_and_others_are_left_alone():
    rule = Redaction(["ka.req=secret-.*"])
    said = {"a": [1, {"b": "secret-1", "secret-2": None}]}
    event = left(rule, output_fields={"ka.req": said, "ka.resp": said})
    assert event.fields == {"ka.req": {"a": [1, {"b": "***", "***": None}]}, "ka.resp": said}


def test_a_number_is_redacted_whole_where_something_is_found_in_its_text():
    event = left(
        Redaction(["pin=^47", "on=true"]), output_fields={"pin": 4711, "on": True, "x": 4711}
    )
    assert event.fields == {"pin": "***", "on": "***", "x": 4711}
    assert left(Redaction(["pin=^47"]), output_fields={"pin": 1147.5}).fields == {"pin": 1147.5}


def test_a_field_may_be_a_key_of_the_alert_itself():
    rules = Redaction(["hostname=worker", "tags=shell", "ticket=T-.*", "rule=Terminal"])
    event = left(rules, ticket={"id": ["T-1"]})
    assert (event.hostname, event.tags, event.rule) == (
        "***-1", ("container", "***"), "*** shell in container",
    )  # fmt: skip
    assert event.alert["ticket"] == {"id": ["***"]}
    assert (event.alert["hostname"], event.sent["rule"]) == (event.hostname, event.rule)


def test_an_event_stays_one_whatever_is_taken_out_of_it():
    event = left(Redaction([r"*=\d", "*=[A-Za-z]"]))
    assert parse_event(event.alert).time_ns == parse_event(FALCO).time_ns
    assert event.priority == parse_event(FALCO).priority


def test_its_identity_is_that_of_the_event_as_it_came_also_from_the_journal():
    event = left(Redaction(["k8s.pod.name=nginx"]))
    assert identity(event) == identity(parse_event(FALCO))
    kept, _ = to_event(from_event(event))
    assert kept == event
    assert identity(kept) == identity(parse_event(FALCO))


def test_a_throttle_tells_values_apart_that_nobody_may_read(tmp_path):
    journal, notes = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot), DeferredRecords()
    intake = intake_of(
        journal, BY_COMMAND, redaction=Redaction(["proc.cmdline=canary.*"]), deferred_records=notes
    )

    def runs(number, command):
        fields = {"proc.cmdline": command, "k8s.ns.name": "demo"}
        taken = take(intake, json.dumps(alert(number, output_fields=fields)).encode())
        if taken.written:
            taken.written.result(10)
        return taken.runs

    try:
        assert runs(1, "x canary-1")
        assert runs(2, "x canary-2")
        assert runs(3, "x canary-1") == []
        assert runs(4, "plain")
        assert runs(5, "plain") == []
        journal.save_dropped(*notes.drain())
        kept = f"{journal.key_values()} {journal.dropped_runs(RunFilter())}"
        assert {drop.key for drop in journal.dropped_runs(RunFilter())} == {
            "proc.cmdline=x ***",
            "proc.cmdline=plain",
        }
    finally:
        journal.close()
    assert SECRET not in kept
    assert SECRET.encode() not in (tmp_path / "j.db").read_bytes()


def lanes(rule, *fields, **said):
    disk = ManualJournal()
    intake = intake_of(disk, redaction=Redaction([rule]))
    for number, one in enumerate(fields):
        take(intake, json.dumps(alert(number, output_fields=one, **said)).encode())
    return [run.target for accepted, _ in disk.waiting for run in accepted.runs]


def test_the_lane_of_a_pod_whose_name_nobody_may_read_is_its_own_and_tells_no_name():
    first, again, other, elsewhere, plain = lanes(
        r"k8s.pod.name=canary\S*",
        {"k8s.ns.name": "demo", "k8s.pod.name": "canary-1"},
        {"ka.target.namespace": "demo", "ka.target.pod.name": "canary-1"},
        {"k8s.ns.name": "demo", "k8s.pod.name": "canary-2"},
        {"k8s.ns.name": "prod", "k8s.pod.name": "canary-1"},
        {"k8s.ns.name": "demo", "k8s.pod.name": "nginx"},
    )
    assert first == again
    assert len({first, other, elsewhere, plain}) == 4
    assert plain == "demo/nginx"
    assert SECRET not in f"{first} {other} {elsewhere}"


def test_the_lane_of_a_container_tells_no_host_that_nobody_may_read():
    fields = {"container.id": "0a1b2c3d4e5f"}
    (lane,) = lanes("hostname=canary.*", fields, hostname="canary-1")
    assert "canary" not in lane
    assert lanes("proc.cmdline=x", fields, hostname="w") == ["w/0a1b2c3d4e5f"]


def buried(redaction, sent):
    notes = DeferredRecords()
    intake = intake_of(InstantJournal(), redaction=redaction, deferred_records=notes)
    with pytest.raises(ValueError):  # noqa: PT011 - whatever its sentence
        take(intake, sent)
    (dead, *_), _ = notes.drain()
    return dead.body.decode()


QUOTED = Redaction(['*=password="[^"]*"', rf"*=(?i){SECRET}\S*"])


@pytest.mark.parametrize(
    "sent",
    [
        json.dumps({"rule": "", "cmd": 'mysql --password="canary" x'}).encode(),
        b'{"rule": "", "cmd": "\\u0063anary"}',
        b'{"rule": "", "cmd": "\\u0063anary" and no JSON',
        b'{"rule": "", "cmd": "password=\\"canary\\" and no JSON',
        json.dumps({"specversion": "1.0", "data": '{"cmd": "\\u0063anary"'}).encode(),
        json.dumps(
            {"specversion": "1.0", "data_base64": base64.b64encode(b"canary{").decode()}
        ).encode(),
        b'{"rule": "", "pad": "' + b"p" * 16_330 + b' password=\\"canary\\" ' + b"p" * 99 + b'"}',
        b"p" * 16_380 + b" canary-and-no-JSON",
    ],
)
def test_a_dead_letter_says_nothing_that_nobody_may_read_however_it_is_written(sent):
    body = buried(QUOTED, sent)
    assert not any(
        word in body for word in ("cana", "\\u0063", base64.b64encode(b"canary{").decode())
    )


def test_a_dead_letter_is_kept_as_it_came_where_there_is_nothing_to_take_out():
    for sent in (b'{"rule": "",  "x": 1', b'{"path": "C:\\\\u\\temp"'):
        assert buried(Redaction(()), sent) == buried(QUOTED, sent) == sent.decode()
