"""``--redact`` removes secrets from events, throttle windows, targets and dead letters."""

from __future__ import annotations

import base64
import json

import pytest
from engine.intake.deferred_records import DeferredRecords
from engine.intake.redaction import RedactError, Redaction
from engine.journal.codec import from_event, to_event
from engine.journal.records import RunFilter
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.event import identity, parse_event
from hypothesis import given
from hypothesis import strategies as st
from tests.support.engine import PATIENCE
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


def redacted(redaction, **said):
    return redaction.redact_event(parse_event({**FALCO, **said}))


@given(values, values, st.lists(texts), texts)
def test_a_rule_for_all_fields_leaves_the_secret_nowhere_in_the_event(value, other, tags, host):
    event = redacted(ANY, output_fields={"x": value}, extra=other, tags=tags, hostname=host)
    said = json.dumps([event.alert, event.sent, event.hostname, event.tags], ensure_ascii=False)
    assert SECRET not in said.lower()


def test_a_field_is_redacted_at_any_depth_and_other_fields_are_kept():
    rule = Redaction(["ka.req=secret-.*"])
    said = {"a": [1, {"b": "secret-1", "secret-2": None}]}
    event = redacted(rule, output_fields={"ka.req": said, "ka.resp": said})
    assert event.fields == {"ka.req": {"a": [1, {"b": "***", "***": None}]}, "ka.resp": said}


def test_a_number_is_replaced_as_a_whole():
    event = redacted(
        Redaction(["pin=^47", "on=true"]), output_fields={"pin": 4711, "on": True, "x": 4711}
    )
    assert event.fields == {"pin": "***", "on": "***", "x": 4711}
    assert redacted(Redaction(["pin=^47"]), output_fields={"pin": 1147.5}).fields == {"pin": 1147.5}


def test_a_rule_can_name_a_key_of_the_alert():
    rules = Redaction(["hostname=worker", "tags=shell", "ticket=T-.*", "rule=Terminal"])
    event = redacted(rules, ticket={"id": ["T-1"]})
    assert (event.hostname, event.tags, event.rule) == (
        "***-1", ("container", "***"), "*** shell in container",
    )  # fmt: skip
    assert event.alert["ticket"] == {"id": ["***"]}
    assert (event.alert["hostname"], event.sent["rule"]) == (event.hostname, event.rule)


def test_a_redacted_event_is_still_a_valid_event():
    event = redacted(Redaction([r"*=\d", "*=[A-Za-z]"]))
    assert parse_event(event.alert).time_ns == parse_event(FALCO).time_ns
    assert event.priority == parse_event(FALCO).priority


def test_a_redacted_event_keeps_its_identity_also_in_the_journal():
    event = redacted(Redaction(["k8s.pod.name=nginx"]))
    assert identity(event) == identity(parse_event(FALCO))
    kept, _ = to_event(from_event(event))
    assert kept == event
    assert identity(kept) == identity(parse_event(FALCO))


def test_a_throttle_distinguishes_values_that_are_redacted(tmp_path):
    journal, records = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot), DeferredRecords()
    intake = intake_of(
        journal,
        BY_COMMAND,
        redaction=Redaction(["proc.cmdline=canary.*"]),
        deferred_records=records,
    )

    def runs(number, command):
        fields = {"proc.cmdline": command, "k8s.ns.name": "demo"}
        taken = take(intake, json.dumps(alert(number, output_fields=fields)).encode())
        if taken.written:
            taken.written.result(PATIENCE)
        return taken.runs

    try:
        assert runs(1, "x canary-1")
        assert runs(2, "x canary-2")
        assert runs(3, "x canary-1") == []
        assert runs(4, "plain")
        assert runs(5, "plain") == []
        journal.save_dropped(*records.drain())
        kept = f"{journal.throttle_windows()} {journal.dropped_runs(RunFilter())}"
        assert {drop.key for drop in journal.dropped_runs(RunFilter())} == {
            "proc.cmdline=x ***",
            "proc.cmdline=plain",
        }
    finally:
        journal.close()
    assert SECRET not in kept
    assert SECRET.encode() not in (tmp_path / "j.db").read_bytes()


def targets(rule, *fields, **said):
    disk = ManualJournal()
    intake = intake_of(disk, redaction=Redaction([rule]))
    for number, one in enumerate(fields):
        take(intake, json.dumps(alert(number, output_fields=one, **said)).encode())
    return [run.target for accepted, _ in disk.waiting for run in accepted.runs]


def test_a_pod_with_a_redacted_name_has_its_own_target_queue_without_the_name():
    first, again, other, elsewhere, plain = targets(
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


def test_the_target_of_a_container_does_not_contain_a_redacted_host():
    fields = {"container.id": "0a1b2c3d4e5f"}
    (target,) = targets("hostname=canary.*", fields, hostname="canary-1")
    assert "canary" not in target
    assert targets("proc.cmdline=x", fields, hostname="w") == ["w/0a1b2c3d4e5f"]


def dead_letter(redaction, sent):
    records = DeferredRecords()
    intake = intake_of(InstantJournal(), redaction=redaction, deferred_records=records)
    with pytest.raises(ValueError):  # noqa: PT011 - whatever its sentence
        take(intake, sent)
    (dead, *_), _ = records.drain()
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
def test_a_dead_letter_contains_no_secret_whatever_its_encoding(sent):
    body = dead_letter(QUOTED, sent)
    assert not any(
        word in body for word in ("cana", "\\u0063", base64.b64encode(b"canary{").decode())
    )


def test_a_dead_letter_without_a_secret_is_kept_unchanged():
    for sent in (b'{"rule": "",  "x": 1', b'{"path": "C:\\\\u\\temp"'):
        assert dead_letter(Redaction(()), sent) == dead_letter(QUOTED, sent) == sent.decode()


@pytest.mark.parametrize("rule", [r"x=\pL{100}", r"x=\pL{900}"])
def test_an_expression_that_needs_too_much_memory_is_refused(rule):
    with pytest.raises(RedactError, match="not a valid RE2 expression"):
        Redaction([rule])
