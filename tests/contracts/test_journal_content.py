"""Data is read as it was written, for every backend."""

from __future__ import annotations

import threading

import msgspec
import pytest
from engine.model.calls import Call, OutboundRequest
from engine.model.event import parse_event
from engine.model.run import Outcome, Run, StepResult, run_id
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.support.journals import DONE, JOURNALS, NOW, accept, claim, event, playbook, run, step


def test_attempt_state_is_merged_and_stays_with_the_run(journal):
    accept(journal, run(1, of=playbook("two", step("a"), step("b"))))
    first = claim(journal)
    assert journal.keep(first, {"uid": "u", "sent": ["a"]})
    assert journal.keep(first, {"sent": ["a", "b"], "big": 2**70})
    journal.settle(first, DONE, NOW)
    assert claim(journal).attempt_state == {"uid": "u", "sent": ["a", "b"], "big": 2**70}


def test_a_record_shows_the_last_attempt_while_the_run_waits_and_runs(journal):
    accept(journal, run(1))
    assert journal.find(run(1).id).results == ()
    journal.settle(claim(journal), Outcome("failed", "503 from the server", 5.0), NOW)
    (waiting,) = journal.find(run(1).id).results
    assert (waiting.state, waiting.message) == ("waiting", "503 from the server")
    again = claim(journal, NOW + 5)
    assert again.results == ()
    (running,) = journal.find(run(1).id).results
    assert (running.state, running.message, running.attempts) == ("running", waiting.message, 2)
    assert journal.find("0" * 32) is None


def test_results_are_read_as_they_were_written(journal):
    call = Call("apply", "v1", "pods", "demo", "nginx", {"metadata": {"generation": 2**65}})
    request = OutboundRequest("POST", "https://hooks.example/***", {"text": "é"}, {"X-Run": "1"})
    outcome = Outcome(
        "done", "ok", None, False, (call,), (request,), {"n": [1, 1.5, None, -(2**80)]}
    )
    accept(journal, run(1))
    journal.settle(claim(journal), outcome, NOW)
    wanted = StepResult("mark", "done", "ok", 1, (call,), (request,), outcome.answer)
    assert journal.find(run(1).id).results == (wanted,)


def test_an_answer_that_is_not_valid_json_does_not_prevent_the_end_of_a_run(journal):
    accept(journal, run(1))
    held = claim(journal)
    broken = Outcome("done", "half \ud83d", answer={"x": float("nan")})
    assert journal.settle(held, broken, NOW) == "done"
    (result,) = journal.find(run(1).id).results
    assert (result.message, result.answer) == ("half ?", {"x": None})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
alerts = st.fixed_dictionaries(
    {"rule": st.text(min_size=1), "output_fields": st.dictionaries(st.text(), json_values)},
    optional={
        "time": st.datetimes().map(lambda t: t.isoformat() + "-09:30"),
        "Priority": st.sampled_from(["info", "CRITICAL", None]),
        "tags": st.lists(st.text()) | st.none(),
        "source": st.sampled_from(["", "syscalls", "k8s_audit", None]),
        "uuid": json_values,
    },
)


@pytest.fixture(scope="module", params=JOURNALS.values(), ids=JOURNALS)
def shared(request, tmp_path_factory):
    journal = request.param(tmp_path_factory.mktemp("shared"))
    yield journal
    journal.close()


@settings(deadline=None, max_examples=20)
@given(alert=alerts, number=st.integers(0, 2**128), salt=st.text(max_size=4))
def test_an_event_is_read_as_it_was_written(shared, alert, number, salt):
    decoded = msgspec.json.decode(msgspec.json.encode(alert))
    parsed = parse_event(decoded, received_ns=1_772_359_200_000_000_001, salt=salt)
    one = Run(run_id(str(number), "p"), playbook(), parsed, NOW, "")
    known = bool(shared.known([one.id]))
    accept(shared, one)
    assert known or shared.find(one.id).run == one


def test_throttle_windows_change_with_and_without_an_accept(journal):
    rejected = accept(journal, windows={"a": {"first": 2**64}, "b": [1], "c": False})
    assert dict(rejected) == {}  # the result is that of the runs, not that of the windows
    journal.save_throttle_windows({"b": None, "c": "x", "never": None})
    assert journal.throttle_windows() == {"a": {"first": 2**64}, "c": "x"}


def test_an_offset_is_read_as_it_was_saved(journal):
    assert journal.offset("file") is None
    journal.save_offset("file", {"offset": 2**64})
    journal.save_offset("other", {"offset": 1})
    assert journal.offset("file") == {"offset": 2**64}


def test_a_budget_decision_sees_the_windows_and_writes_its_changes(journal, opened, tmp_path):
    def decide(windows):
        return {"a": {"until": NOW, "seen": sorted(windows)}, "b": None}, len(windows)

    assert journal.update_budgets(["a", "b"], decide, NOW) == 0
    journal.update_budgets(["b"], lambda _: ({"b": {"until": NOW}}, None), NOW)
    assert journal.update_budgets(["b", "a"], decide, NOW) == 2
    journal.close()
    again = opened(tmp_path)
    try:
        assert again.budget_windows() == {"a": {"until": NOW, "seen": ["a", "b"]}}
    finally:
        again.close()


def test_concurrent_budget_decisions_see_each_other(journal):
    def count(windows):
        counted = windows.get("n", {"until": NOW, "count": 0})["count"] + 1
        return {"n": {"until": NOW, "count": counted}}, counted

    counted = []

    def work():
        counted.extend(journal.update_budgets(["n"], count, NOW) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counted) == [*range(1, 81)]


def test_the_last_set_is_the_newest(journal, opened, tmp_path):
    assert journal.last_set() is None
    journal.save_set("d1", {"a.yaml": b"\xff\x00", "b/c.yaml": b""})
    journal.save_set("d2", {"a.yaml": b"\xff\x00"}, "v1.2")
    journal.close()
    again = opened(tmp_path)
    try:
        assert again.last_set() == ("d2", {"a.yaml": b"\xff\x00"}, "v1.2")
    finally:
        again.close()


def test_a_run_keeps_its_revision_over_a_restart_and_its_undo_has_it_too(journal, opened, tmp_path):
    accept(journal, replace(run(1), revision="v1.2"))
    journal.close()
    again = opened(tmp_path)
    try:
        taken = claim(again)  # from the inbox that the first process wrote
        assert taken.run.revision == "v1.2"
        assert again.add_undo_intent(taken, (), NOW + 1, {})
        again.settle(taken, DONE, NOW)
        assert again.find(taken.run.id).run.revision == "v1.2"
        undo = claim(again, NOW + 2)
        assert (undo.undo is None, undo.run.revision) == (False, "v1.2")
        accept(again, run(2))
        assert again.find(run(2).id).run.revision == ""
    finally:
        again.close()


def test_a_run_without_steps_is_over_at_once(journal):
    empty = run(1, of=playbook("empty"))
    object.__setattr__(empty.playbook, "steps", ())
    accept(journal, empty)
    assert journal.find(empty.id).outcome == "skipped"


def test_the_runs_of_one_body_have_their_own_events(journal):
    accept(journal, *(Run(f"{n:032x}", playbook(), event(n, uuid=str(n)), NOW, "") for n in (1, 2)))
    assert journal.find(f"{2:032x}").run.event.alert["uuid"] == "2"


def test_an_event_with_the_last_possible_time_is_read_as_it_was_written(journal):
    last = event(
        time="9999-12-31T23:59:59-12:00"
    )  # in UTC, this time is after the last RFC 3339 time
    accept(journal, Run("f" * 32, playbook(), last, NOW, ""))
    assert journal.find("f" * 32).run.event == last
