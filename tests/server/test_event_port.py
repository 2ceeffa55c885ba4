"""The event port: formats of the senders, replies, and their time."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import http.client
import itertools
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from engine.intake.deferred_records import DeferredRecords
from engine.journal.records import AcceptBatch
from engine.journal.sqlite import schema, watchdog
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.event_formats import Splitter
from engine.server.credentials_file import MAX_BYTES
from engine.server.messages import Request
from engine.server.sender_auth import SecretCheck
from engine.sources.http import MAX_BODY, MAX_OPEN_BODIES, MAX_OPEN_BYTES, EventPort
from engine.telemetry.events import Observers
from tests.support.engine import PATIENCE, engine
from tests.support.intake import (
    FALCO,
    NOW,
    ONCE,
    PLAYBOOK,
    SHELL,
    SIDEKICK,
    THIRD,
    InstantJournal,
    ManualJournal,
    alert,
    ask,
    call,
    intake_of,
    port_of,
)
from tests.support.playbooks import playbook_from_snapshot

KEYS = {"accepted", "duplicates", "runs", "errors"}
SIDEKICKS = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "Falcosidekick"}
CE = {
    "specversion": "1.0",
    "id": "d2f0a4b2",
    "source": "https://falco.org",
    "type": "falco.rule.output.v1",
}
SENDERS = {
    "Falco": (FALCO, "/", {"Content-Type": "application/json"}),
    "Falco without json_output's header": (FALCO, "/falco?x=1", {"Content-Type": "text/plain"}),
    "Falcosidekick webhook": (SIDEKICK, "/", SIDEKICKS),
    "Falcosidekick Talon": (SIDEKICK, "/", SIDEKICKS),
    "Falcosidekick kubeless": (
        SIDEKICK,
        "/",
        SIDEKICKS | {"event-id": "5", "event-type": "falco", "event-namespace": "falco"},
    ),
    "CloudEvents binary": (
        SIDEKICK,
        "/",
        {f"ce-{key}": value for key, value in CE.items()} | {"ce-rule": SHELL},
    ),
    "CloudEvents structured": (
        CE | {"data": SIDEKICK},
        "/",
        {"Content-Type": "application/cloudevents+json"},
    ),
    "CloudEvents structured, base64": (
        CE | {"data_base64": base64.b64encode(json.dumps(SIDEKICK).encode()).decode()},
        "/",
        {"Content-Type": "application/cloudevents+json"},
    ),
    "CloudEvents structured, text": (CE | {"data": json.dumps(SIDEKICK)}, "/", {}),
    "curl": (FALCO, "/events", {"Content-Type": "application/x-www-form-urlencoded"}),
}


@pytest.mark.parametrize("sender", SENDERS)
def test_the_formats_of_all_senders_give_the_same_event(sender):
    body, path, headers = SENDERS[sender]
    disk = InstantJournal()
    port = port_of(disk)
    status, given, said = ask(port, json.dumps(body).encode() + b"\n", path=path, headers=headers)
    assert (status, given["content-type"]) == (202, "application/json")
    assert said == {"accepted": 1, "duplicates": 0, "runs": disk.runs, "errors": []}
    assert ask(port, FALCO)[2]["duplicates"] == 1


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/", "/events", "/any/other", "//", "/events/"])
def test_events_are_accepted_by_post_and_put_on_any_path(method, path):
    assert ask(port_of(InstantJournal()), FALCO, path=path, method=method)[0] == 202


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_405_with_the_allowed_ones(method):
    status, headers, said = ask(port_of(InstantJournal()), method=method)
    assert (status, headers["allow"]) == (405, "POST, PUT")
    assert not said if method == "HEAD" else said["error"]


def test_a_reply_names_paused_playbooks_in_one_header():
    intake = intake_of(InstantJournal())
    port = EventPort(intake, Observers(), lambda: None, dry_run=True)
    intake.pause({"mark-shell", "b", "x\r\nset-cookie: y"})
    for body in (FALCO, b"{", json.dumps([7] * 1_001).encode()):
        headers = ask(port, body)[1]
        assert (headers["tiercel-mode"], headers["tiercel-paused"]) == ("dry-run", "b, mark-shell")
        assert "set-cookie" not in headers
    assert "tiercel-mode" not in ask(port, method="GET")[1]
    intake.pause({"*", "b"})
    assert ask(port, FALCO)[1]["tiercel-paused"] == "*"


def test_an_array_and_ndjson_are_accepted_completely():
    alerts = [alert(number) for number in range(3)]
    lines = "\r\n".join(map(json.dumps, alerts)).encode() + b"\n\n"
    for body in (json.dumps(alerts).encode(), lines):
        status, _, said = ask(port_of(InstantJournal()), body)
        assert (status, said["accepted"], len(said["runs"])) == (202, 3, 3)


def test_each_cloudevent_of_a_batch_is_unwrapped():
    body = json.dumps([CE | {"data": alert(1)}, CE | {"data": None}]).encode()
    status, _, said = ask(port_of(InstantJournal()), body)
    assert (status, said["accepted"], [e["index"] for e in said["errors"]]) == (202, 1, [1])


GOOD, ALSO = (json.dumps(alert(number)).encode() for number in (1, 2))
SPOILED = {
    "half a surrogate pair": (rb'{"rule": "R", "output": "cut \ud83d"}', 29),
    "an invalid byte": (b'{"rule": "R", "output": "cut \xe2\x82"}', 29),
    "an escape that is none": (rb'{"rule": "R", "output": "\x41"}', 27),
    "a number without end": (b'{"rule": "R", "output_fields": {"a": 1e400}}', None),
    "no JSON": (b"{bad}", 1),
    "a bracket of another kind": (b'{"rule": [}', None),
    "too deep": (b'{"rule": "R", "a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", None),
}
SHAPES = {
    "array": b"[%b,\n%b , %b]",
    "array that is cut off": b"[%b, %b, %b, ",
    "lines": b"%b\n%b\r\n%b\n",
    "one after the other": b"%b%b%b",
    "mark of another file": b"\xef\xbb\xbf%b\n%b\n\xef\xbb\xbf%b",
    "CloudEvent": b'{"specversion": "1.0", "id": "x", "data": [%b, %b, %b]}',
}


# without a separator, a value that is not an object has no end that could be found
PAIRS = [
    pair
    for pair in itertools.product(SHAPES, SPOILED)
    if pair != ("one after the other", "no JSON")
]


@pytest.mark.parametrize(("shape", "why"), PAIRS)
def test_an_invalid_element_is_stored_and_does_not_affect_others(shape, why):
    spoiled, at = SPOILED[why]
    body = SHAPES[shape] % (GOOD, spoiled, ALSO)
    disk, notes = InstantJournal(), DeferredRecords()
    port = EventPort(intake_of(disk, deferred_records=notes), Observers(), lambda: None)
    status, _, said = ask(port, body)
    assert (status, said["accepted"], len(said["runs"])) == (202, 2, 2)
    assert [error["index"] for error in said["errors"]] == [1]
    if at is not None:
        assert f"(byte {body.index(spoiled) + at})" in said["errors"][0]["error"]
    assert [letter.body[:5] for letter in notes.drain()[0]] == [spoiled[:5]]


def test_consecutive_alerts_can_have_several_lines_each():
    body = "\n".join(json.dumps(alert(number), indent=2) for number in range(3)).encode()
    assert ask(port_of(InstantJournal()), body)[2]["accepted"] == 3
    assert ask(port_of(InstantJournal()), b"\xef\xbb\xbf" + GOOD)[2]["accepted"] == 1


def test_the_data_of_a_cloudevent_can_be_several_alerts():
    alerts = [alert(number) for number in range(3)]
    lines = "\n".join(map(json.dumps, alerts))
    for data in (
        {"data": alerts},
        {"data": lines},
        {"data_base64": base64.b64encode(lines.encode()).decode()},
    ):
        assert ask(port_of(InstantJournal()), json.dumps(CE | data).encode())[2]["accepted"] == 3
    status, _, said = ask(
        port_of(InstantJournal()), json.dumps([CE | {"data": []}, FALCO]).encode()
    )
    assert (status, [error["index"] for error in said["errors"]]) == (202, [0])
    assert (
        ask(port_of(InstantJournal()), json.dumps(CE | {"data": [{"rule": "x"}] * 1_001}).encode())[
            0
        ]
        == 413
    )


HINTS = {
    gzip.compress(b"{}", mtime=0): "Content-Encoding",
    '{"rule": "x"}'.encode("utf-16"): "UTF-8",
    b"10:00:00.123: Notice A shell": "json_output",
    b"{'rule': 'x'}": "double quotes",
    b"<html>": "JSON",
}


@pytest.mark.parametrize("body", HINTS)
def test_an_error_has_a_hint(body):
    status, _, said = ask(port_of(InstantJournal()), body)
    assert (status, HINTS[body] in said["hint"]) == (400, True)


@pytest.mark.parametrize("begin", [b"[1, {bad}, ", b"{bad}\n", b'{"specversion":"1","data":['])
@pytest.mark.parametrize(
    "text", [b"[", b"]", b"{", b"[]", b"{\n", b'{"', b'{"a":"', b"\\", b'"\n', b","]
)
def test_the_work_of_splitting_a_body_is_limited(begin, text):
    split = Splitter(begin + text * (20_000 // len(text)))
    assert len(list(split.parts())) <= 20_000
    assert split._brackets_left > -20_000
    small = Splitter(begin + text * 10_000)
    small._brackets_left = 100
    list(itertools.islice(small.parts(), 200))
    assert small._brackets_left >= 0


GZIP = {"Content-Encoding": "gzip"}


@pytest.mark.parametrize("coding", ["gzip", "GZip", "x-gzip", "identity, gzip"])
def test_a_gzip_body_can_have_several_members(coding):
    packed = gzip.compress(GOOD + b"\n") + gzip.compress(ALSO) + b"\0" * 10
    status, _, said = ask(port_of(InstantJournal()), packed, headers={"Content-Encoding": coding})
    assert (status, said["accepted"]) == (202, 2)
    assert ask(port_of(InstantJournal()), GOOD, headers={"Content-Encoding": "identity"})[0] == 202


PACKED = gzip.compress(GOOD)
BROKEN = {
    "plain": (GOOD, 400),
    "empty": (b"", 400),
    "cut off": (PACKED[:-1], 400),
    "cut off in the head": (PACKED[:5], 400),
    "another checksum": (PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], 400),
    "something after it": (PACKED + b"x", 400),
    "too many members": (gzip.compress(b"") * 101, 400),
    "empty members only": (gzip.compress(b"") * 3, 400),
    "a bomb": (gzip.compress(b" " * (MAX_BODY + 1)), 413),
    "a bomb of members": (gzip.compress(b" " * (MAX_BODY // 2)) * 3, 413),
}


@pytest.mark.parametrize("why", BROKEN)
def test_invalid_or_too_large_gzip_is_rejected_with_a_hint(why):
    packed, expected = BROKEN[why]
    disk = InstantJournal()
    status, _, said = ask(port_of(disk), packed, headers=GZIP)
    assert (status, set(said), disk.runs) == (expected, {"error", "hint"}, [])


def test_large_gzip_bodies_are_decoded_in_separate_turns_of_the_event_loop():
    bomb = gzip.compress(b" " * (MAX_BODY + 1))
    headers = {b"content-encoding": b"gzip"}

    async def scene():
        port, replies, answered = port_of(InstantJournal()), [], []
        for _ in range(3):
            port.answer(Request(b"POST", b"/", headers, body=bomb), replies.append)
        while len(replies) < 3:
            await asyncio.sleep(0)
            answered.append(len(replies))
        assert answered == [1, 2, 3]

    asyncio.run(scene())


def test_gzip_of_4_mib_is_accepted():
    body = gzip.compress(GOOD + b" " * (MAX_BODY - len(GOOD)))
    assert ask(port_of(InstantJournal()), body, headers=GZIP)[0] == 202


@pytest.mark.parametrize("coding", ["deflate", "br", "zstd", "gzip, gzip", "gzip, br"])
def test_another_content_coding_is_415_with_the_supported_one(coding):
    headers = {"Content-Encoding": coding}
    status, given, said = ask(port_of(InstantJournal()), GOOD, headers=headers)
    assert (status, given["accept-encoding"], set(said)) == (415, "gzip", {"error", "hint"})


BAD_LINES = [b"{", b"7", b'{"rule": ""}', b'{"rule": "x", "priority": "loud"}', b"\xff\xfe"]


@pytest.mark.parametrize("bad", BAD_LINES)
def test_an_invalid_line_does_not_affect_others(bad):
    body = b"\n".join([json.dumps(alert(1)).encode(), bad, json.dumps(alert(2)).encode()])
    status, _, said = ask(port_of(InstantJournal()), body)
    assert (status, said["accepted"], len(said["runs"])) == (202, 2, 2)
    ((index, sentence),) = [tuple(error.values()) for error in said["errors"]]
    assert index == 1
    assert sentence
    assert set(said["errors"][0]) == {"index", "error"}


def test_an_invalid_element_without_matching_events_is_200_with_its_error():
    body = json.dumps([alert(rule="Another"), {}]).encode()
    status, _, said = ask(port_of(InstantJournal()), body)
    assert (status, said["accepted"], said["runs"], len(said["errors"])) == (200, 1, [], 1)
    assert set(said) == KEYS


BAD = {
    "empty": b"",
    "blank": b"  \n ",
    "empty array": b"[]",
    "no JSON": b"rule=x",
    "cut off": json.dumps(FALCO).encode()[:-1],
    "NUL": b"\0",
    "NUL in a string": b'{"rule": "a\0b"}',
    "invalid UTF-8": b'{"rule": "\xff"}',
    "half a surrogate pair": rb'{"rule": "\ud800"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "no object": b'"rule"',
    "no rule": b'{"priority": "Error"}',
    "empty rule": b'{"rule": ""}',
    "rule of another type": b'{"rule": ["x"]}',
    "unknown priority": b'{"rule": "x", "priority": "warn"}',
    "priority of another type": b'{"rule": "x", "priority": 4}',
    "no time": b'{"rule": "x", "time": "yesterday"}',
    "impossible time": b'{"rule": "x", "time": "2026-02-30T10:00:00Z"}',
    "tags of another type": b'{"rule": "x", "tags": "a"}',
    "fields of another type": b'{"rule": "x", "output_fields": []}',
    "number without end": b'{"rule": "x", "output_fields": {"a": 1e999}}',
    "nested too deep": b'{"rule": "x", "a": ' + b"[" * 100_000,
    "all bad": b'[{}, 7, {"rule": 1}]',
    "CloudEvent without data": json.dumps(CE).encode(),
    "CloudEvent of no base64": json.dumps(CE | {"data_base64": "%"}).encode(),
    "CloudEvent of foreign letters": json.dumps(CE | {"data_base64": "é"}).encode(),
    "CloudEvent of no JSON": json.dumps(CE | {"data": "rule"}).encode(),
}


@pytest.mark.parametrize("why", BAD)
def test_a_body_without_events_is_400_with_an_error_and_a_hint(why):
    disk = InstantJournal()
    status, _, said = ask(port_of(disk), BAD[why])
    assert (status, set(said), disk.runs) == (400, {"error", "hint"}, [])
    assert said["error"]


def test_an_escaped_nul_is_accepted():
    fields = {"proc.cmdline": "a\0b", "k8s.pod.name": "\0", "k8s.ns.name": "\u202e"}
    assert ask(port_of(InstantJournal()), alert(output_fields=fields))[0] == 202


def test_deep_nesting_is_not_an_internal_error(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    port = port_of(journal)
    start, end = json.dumps(FALCO)[:-1].encode() + b', "deep": ', b"}"
    for depth in (*range(850, 1050, 3), 5_000):
        status = ask(port, start + b"[" * depth + b"]" * depth + end)[0]
        assert status in (202, 400), depth
    journal.close()


def test_an_event_without_match_is_200_with_all_four_keys():
    status, _, said = ask(port_of(ManualJournal()), alert(rule="Another"))
    assert status == 200
    assert said == {"accepted": 1, "duplicates": 0, "runs": [], "errors": []}


def test_an_event_that_a_throttle_counts_is_202_without_runs():
    disk = InstantJournal()
    status, _, said = ask(port_of(disk, THIRD), FALCO)
    assert (status, said) == (202, {"accepted": 1, "duplicates": 0, "runs": [], "errors": []})
    assert disk.windows


def test_an_event_that_a_throttle_drops_is_200():
    port = port_of(InstantJournal(), ONCE)
    assert [ask(port, alert(number))[0] for number in (1, 2)] == [202, 200]


def test_a_disabled_playbook_is_200():
    disabled = PLAYBOOK.replace("spec:", "spec:\n  mode: disabled")
    status, _, said = ask(port_of(InstantJournal(), disabled), FALCO)
    assert (status, said["runs"]) == (200, [])


def test_a_repeated_event_is_202_with_the_earlier_run():
    port = port_of(InstantJournal())
    first, again = ask(port, FALCO), ask(port, FALCO)
    assert (again[0], set(again[2])) == (202, KEYS)
    assert again[2] == first[2] | {"duplicates": 1}


def test_a_repeated_event_that_had_been_dropped_is_200():
    port = port_of(InstantJournal(), ONCE)
    ask(port, alert(1))
    ask(port, alert(2))
    status, _, said = ask(port, alert(2))
    assert (status, said["duplicates"], said["runs"]) == (200, 1, [])


async def _turns():
    """Run all other tasks as far as possible."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_202_comes_only_after_the_write():
    async def scene():
        disk = ManualJournal()
        asked = asyncio.ensure_future(call(port_of(disk), FALCO))
        await _turns()
        assert disk.waiting
        assert not asked.done()
        disk.write()
        assert (await asked)[0] == 202

    asyncio.run(scene())


def test_events_that_arrive_during_a_write_are_written_together_afterwards():
    async def scene():
        disk = ManualJournal()
        port = port_of(disk)
        asked = [asyncio.ensure_future(call(port, alert(1)))]
        await _turns()
        asked += [asyncio.ensure_future(call(port, alert(number))) for number in (2, 3)]
        await _turns()
        assert [len(accepted.runs) for accepted, _ in disk.waiting] == [1]
        disk.write()
        await _turns()
        assert [len(accepted.runs) for accepted, _ in disk.waiting] == [2]
        disk.write()
        assert [(await one)[0] for one in asked] == [202] * 3

    asyncio.run(scene())


def test_the_bodies_and_bytes_of_a_batch_are_limited():
    async def scene():
        disk = ManualJournal()
        port = port_of(disk)
        large = alert(0, output="x" * MAX_OPEN_BYTES)
        told = [large, *(alert(number) for number in range(1, MAX_OPEN_BODIES + 10))]
        asked = [asyncio.ensure_future(call(port, one)) for one in told]
        sizes = []
        while not all(one.done() for one in asked):
            await _turns()
            sizes += [len(accepted.runs) for accepted, _ in disk.waiting]
            disk.write()
        assert sizes == [1, MAX_OPEN_BODIES, 9]

    asyncio.run(scene())


def test_a_body_with_many_runs_is_planned_in_slices_between_other_bodies(monkeypatch):
    monkeypatch.setattr("engine.intake.intake.RUNS_PER_WRITE", 3)
    texts = [PLAYBOOK.replace("mark-shell", f"p{number}") for number in range(2)]

    async def scene():
        disk = ManualJournal()
        port = port_of(disk, *texts)
        large = asyncio.ensure_future(call(port, json.dumps([alert(n) for n in range(6)]).encode()))
        await _turns()
        small = asyncio.ensure_future(call(port, alert(9)))
        sizes, order = [], []
        while not large.done():
            await _turns()
            sizes += [len(accepted.runs) for accepted, _ in disk.waiting]
            disk.write()
            order.append(small.done())
        assert sizes == [4, 4, 4, 2]
        assert order[-2:] == [True, True]  # before the last slice
        status, _, said = await large
        assert (status, said["accepted"]) == (202, 6)
        assert sorted(disk.runs) == sorted(said["runs"] + (await small)[2]["runs"])

    asyncio.run(scene())


def test_a_body_with_a_failed_slice_is_503_and_its_other_slices_are_duplicates_when_resent(
    monkeypatch,
):
    monkeypatch.setattr("engine.intake.intake.RUNS_PER_WRITE", 2)
    sent = json.dumps([alert(n) for n in range(6)]).encode()

    async def scene():
        disk = ManualJournal()
        port = port_of(disk)
        first = asyncio.ensure_future(call(port, sent))
        await _turns()
        disk.write()
        await _turns()
        disk.fail()
        status, headers, said = await first
        assert (status, headers["retry-after"]) == (503, "5")
        assert said["error"].startswith("only a part was accepted")
        assert len(disk.runs) == 2
        again = asyncio.ensure_future(call(port, sent))
        while not again.done():
            await _turns()
            disk.write()
        status, _, said = await again
        assert (status, said["duplicates"], len(set(disk.runs))) == (202, 2, 6)

    asyncio.run(scene())


def test_a_failed_reply_does_not_affect_others():
    async def scene():
        disk = ManualJournal()
        port = port_of(disk)

        def broken(_):
            raise ZeroDivisionError

        port.answer(Request(b"POST", b"/", {}, body=json.dumps(alert(1)).encode()), broken)
        asked = asyncio.ensure_future(call(port, alert(2)))
        for _ in range(2):  # first the broken one, then those that arrived meanwhile
            await _turns()
            disk.write()
        assert (await asked)[0] == 202

    asyncio.run(scene())


def test_an_exception_is_500_and_the_port_continues(monkeypatch):
    port = port_of(InstantJournal())
    with monkeypatch.context() as patch:
        patch.setattr(port._intake, "submit", None)
        assert ask(port, FALCO)[0] == 500
    assert ask(port, FALCO)[0] == 202


@pytest.mark.parametrize("text", [PLAYBOOK, ONCE])
def test_an_event_that_cannot_be_written_is_503_and_not_a_duplicate_when_resent(text):
    async def scene():
        disk = ManualJournal()
        port = port_of(disk, text)
        asked = asyncio.ensure_future(call(port, FALCO))
        await _turns()
        disk.fail()
        status, headers, said = await asked
        assert (status, set(said)) == (503, {"error", "hint"})
        assert int(headers["retry-after"]) > 0
        asked = asyncio.ensure_future(call(port, FALCO))
        await _turns()
        disk.write()
        status, _, said = await asked
        assert (status, said["duplicates"], said["runs"]) == (202, 0, disk.runs)

    asyncio.run(scene())


def test_a_closed_or_failing_journal_is_503():
    disk = ManualJournal()
    disk.closed = True
    assert ask(port_of(disk), FALCO)[0] == 503
    disk.broken = True
    assert ask(port_of(disk), FALCO)[0] == 503


def test_workers_are_woken_after_a_run_is_written():
    woken = []
    port = port_of(InstantJournal())
    port._wake = lambda: woken.append(True)
    ask(port, alert(rule="Another"))
    assert not woken
    ask(port, FALCO)
    assert woken


def test_a_body_announced_as_too_large_is_not_read():
    headers = {"Content-Length": str(MAX_BODY + 1)}
    status, given, said = ask(port_of(InstantJournal()), b"", headers=headers)
    assert (status, given["connection"], set(said)) == (413, "close", {"error", "hint"})


def test_a_body_that_grows_too_large_is_rejected():
    assert ask(port_of(InstantJournal()), [b" " * (1 << 20)] * 5)[0] == 413


def test_a_chunked_body_of_4_mib_is_accepted():
    sent = json.dumps(FALCO).encode()
    chunks = [b" " * (1 << 20)] * 3 + [b" " * ((1 << 20) - len(sent)), sent]
    assert ask(port_of(InstantJournal()), chunks)[0] == 202


def test_1001_events_are_413_as_array_and_as_lines():
    alerts = [json.dumps({"rule": "x"})] * 1001
    for body in ("[" + ",".join(alerts) + "]", "\n".join(alerts)):
        assert ask(port_of(InstantJournal()), body.encode())[0] == 413


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


FIRST, SECOND, THIRD_ONE = (f"{number}-of-the-tokens" for number in ("first", "second", "third"))


def statuses(port, *tokens):
    return [ask(port, FALCO, headers=bearer(token))[0] for token in tokens]


def test_a_request_without_a_valid_token_is_401(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"# falco\n{FIRST}\n\n  {SECOND} \t# the other cluster\r\n")
    disk = InstantJournal()
    port = port_of(disk, access=[SecretCheck(file)])
    for headers in (
        {},
        bearer(THIRD_ONE),
        bearer(""),
        bearer("# falco"),
        bearer(f"{FIRST} {SECOND}"),
        bearer(f"{SECOND} \t# the other cluster"),
        {"Authorization": f"Basic {FIRST}"},
        {"Authorization": FIRST},
    ):
        status, given, said = ask(port, FALCO, headers=headers)
        assert (status, given["www-authenticate"]) == (401, "Bearer")
        assert set(said) == {"error", "hint"}
        assert FIRST not in json.dumps(said)
    assert disk.runs == []
    for headers in (bearer(FIRST), {"authorization": f"bEARER {SECOND}"}):
        assert ask(port, FALCO, headers=headers)[0] == 202


def test_a_wrong_method_is_405_without_a_token(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(FIRST)
    assert ask(port_of(InstantJournal(), access=[SecretCheck(file)]), method="GET")[0] == 405


def test_rotated_tokens_apply_at_once_and_replace_the_old_ones(tmp_path):
    file, new = tmp_path / "tokens", tmp_path / "new"
    file.write_text(FIRST)
    port = port_of(InstantJournal(), access=[SecretCheck(file)])
    new.write_text(SECOND)
    new.rename(file)
    assert statuses(port, FIRST, SECOND) == [401, 202]
    file.write_text(THIRD_ONE)
    os.utime(file, ns=(1, 1))
    assert statuses(port, SECOND, THIRD_ONE) == [401, 202]


def mounted(folder, **files):
    """Write files like the kubelet mounts a Secret: links into a folder that is swapped."""
    number = len(list(folder.glob("..2*")))
    content = folder / f"..2026_{number}"
    content.mkdir(parents=True)
    for name, text in files.items():
        (content / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "new").symlink_to(content.name)
    (folder / "new").rename(folder / "..data")


@pytest.mark.parametrize(
    "left", [{}, {"tokens": ""}, {"tokens": f"# {FIRST}\n"}, {"tokens": "short"}]
)
def test_an_emptied_token_file_closes_the_port_at_once(tmp_path, left):
    mounted(tmp_path, tokens=FIRST)
    port = port_of(InstantJournal(), access=[SecretCheck(tmp_path / "tokens")])
    assert statuses(port, FIRST) == [202]
    mounted(tmp_path, **left)
    assert statuses(port, FIRST, "short", "", "x") == [401] * 4
    mounted(tmp_path, tokens=SECOND)
    assert statuses(port, FIRST, SECOND) == [401, 202]


def test_an_added_invalid_line_gives_no_access_and_does_not_affect_valid_ones(tmp_path, capsys):
    file = tmp_path / "tokens"
    file.write_text(FIRST)
    port = port_of(InstantJournal(), access=[SecretCheck(file)])
    file.write_text(f"{FIRST}\nshort\n{SECOND}")
    assert statuses(port, FIRST, "short", SECOND) == [202, 401, 202]
    said = "".join(capsys.readouterr())
    assert "tokens:2: a token must have at least 16 characters" in said
    assert FIRST not in said


@pytest.mark.parametrize("text", ["\n \n", "# one\n", "fifteen-letters", f"{FIRST}\nshort\n"])
def test_a_token_file_without_tokens_or_with_a_short_one_is_rejected_at_the_start(tmp_path, text):
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"no credentials|at least 16 characters"):
        SecretCheck(file)


def test_the_size_of_a_credentials_file_is_limited(tmp_path):
    file = tmp_path / "tokens"
    file.write_bytes(b"\xef\xbb\xbf" + FIRST.encode() + b"\n" * MAX_BYTES)
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        SecretCheck(file)
    file.write_bytes(b"\xef\xbb\xbf" + FIRST.encode())
    assert statuses(port_of(InstantJournal(), access=[SecretCheck(file)]), FIRST) == [202]


@pytest.fixture
def running(tmp_path):
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as one:
        yield one


def test_twenty_concurrent_connections_are_all_answered(running):
    def post(number):
        return [running.post(alert(100 * number + k)) for k in range(10)]

    with ThreadPoolExecutor(20) as pool:
        answers = [answer for each in pool.map(post, range(20)) for answer in each]
    assert {status for status, _, _ in answers} == {202}
    ids = {said["runs"][0] for _, _, said in answers}
    assert len(ids) == 200
    for run in ids:
        running.wait_for_audit(lambda line, run=run: line.get("run") == run)


def test_a_connection_stays_open_between_events(running):
    address = urlsplit(running.events)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=PATIENCE)
    connection.connect()
    first = connection.sock
    for number, status in ((1, 202), (1, 202)):
        connection.request("PUT", "/", json.dumps(alert(number)))
        response = connection.getresponse()
        assert response.status == status
        response.read()
    assert connection.sock is first
    connection.close()


def test_a_large_body_over_a_socket_is_413_with_length_or_chunked(running):
    address = urlsplit(running.events)

    def status(**request):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=PATIENCE)
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # the reply came before all was sent
            connection.request("POST", "/", **request)
        try:
            return connection.getresponse().status
        except ConnectionResetError:
            return None
        finally:
            connection.close()

    # the sender announces the body and waits, like curl
    assert status(headers={"Content-Length": str(5 << 20), "Expect": "100-continue"}) == 413
    assert status(body=b" " * (5 << 20)) in (413, None)
    assert status(body=iter([b" " * (1 << 20)] * 5), encode_chunked=True) in (413, None)
    assert running.post(FALCO)[0] == 202  # other requests are not affected


SECRET = "5b7d0f3a9c1e4826b7d0f3a9"


@pytest.fixture
def shut(tmp_path):
    """A port that accepts tokens and path secrets."""
    (tmp_path / "tokens").write_text("one-of-the-tokens\n")
    (tmp_path / "paths").write_text(f"# falco\n{SECRET}  # node\n{SECRET[::-1]}\n")
    return port_of(InstantJournal(), access=[SecretCheck(tmp_path / "tokens", tmp_path / "paths")])


@pytest.mark.parametrize("path", [f"/{SECRET}", f"/events/{SECRET}", f"/a/b/{SECRET[::-1]}/"])
def test_a_secret_at_the_end_of_the_path_gives_access(shut, path):
    assert ask(shut, FALCO, path=path)[0] == 202


@pytest.mark.parametrize(
    "path",
    ["/", "/events", f"/{SECRET[:-1]}", f"/{SECRET}/events", f"/{SECRET.upper()}", f"/x{SECRET}"],
)
def test_another_path_gives_no_access_and_the_secret_is_not_shown(shut, path):
    status, headers, said = ask(shut, FALCO, path=path)
    assert status == 401
    assert SECRET not in json.dumps([headers, said])


def test_a_token_as_the_password_of_basic_gives_access(shut):
    pair = base64.b64encode(b"falco:one-of-the-tokens").decode()
    assert ask(shut, FALCO, headers={"authorization": f"Basic {pair}"})[0] == 202
    for wrong in ("falco:", "one-of-the-tokens:falco", "falco:two", "one-of-the-tokens"):
        pair = base64.b64encode(wrong.encode()).decode()
        assert ask(shut, FALCO, headers={"authorization": f"Basic {pair}"})[0] == 401
    assert ask(shut, FALCO, headers={"authorization": "Basic ~"})[0] == 401


def test_a_path_secret_is_rotated_like_a_token(tmp_path):
    file = tmp_path / "paths"
    file.write_text(SECRET)
    port = port_of(InstantJournal(), access=[SecretCheck(None, file)])
    assert ask(port, FALCO, path=f"/{SECRET}")[0] == 202
    file.write_text(SECRET[::-1])
    os.utime(file, ns=(1, 1))
    assert ask(port, FALCO, path=f"/{SECRET}")[0] == 401
    assert ask(port, alert(1), path=f"/{SECRET[::-1]}")[0] == 202
    for text in ("", f"# {SECRET[::-1]}", None):
        file.unlink() if text is None else file.write_text(text)
        assert ask(port, alert(1), path=f"/{SECRET[::-1]}")[0] == 401
        assert ask(port, alert(1), path="/")[0] == 401


@pytest.mark.parametrize(
    "text", ["", "short", "a secret with blanks in it", "per%2Fcent/and/slashes/x"]
)
def test_an_invalid_path_secret_is_rejected(tmp_path, text):
    (tmp_path / "paths").write_text(text)
    with pytest.raises(ValueError, match="secret"):
        SecretCheck(None, tmp_path / "paths")


def test_events_during_a_disk_stall_are_503_and_duplicates_if_they_were_written(
    tmp_path, monkeypatch
):
    go_on, flush = threading.Event(), schema.WalSync.__call__
    monkeypatch.setattr(
        schema.WalSync, "__call__", lambda self: (go_on.wait(PATIENCE), flush(self))
    )
    monkeypatch.setattr(watchdog, "STALL_TIMEOUT", 0.05)
    monkeypatch.setattr(watchdog, "INTERVAL", 0.01)
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    with contextlib.closing(journal):
        port = port_of(journal)
        for number in (1, 2):  # one waits for the disk, the other arrives afterwards
            status, headers, said = ask(port, alert(number))
            assert (status, headers["retry-after"]) == (503, "5")
            assert "its disk has not answered" in said["error"]
        assert "has not answered" in journal.write_error()
        monkeypatch.setattr(watchdog, "STALL_TIMEOUT", 20)
        go_on.set()
        while journal.write_error() is not None:
            pass
        journal.accept(AcceptBatch(), NOW).result()  # after all earlier writes
        duplicates = [ask(port, alert(number))[2]["duplicates"] for number in (1, 2)]
        assert duplicates == [1, 0]
