"""The checker on small histories: what it reports and what it excuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.history.checker import check
from tests.history.records import Effect, Fault, History, Limits, QueueEvent, Row, Sent

LIMITS = Limits(once=frozenset({"once"}), until=frozenset({"hold"}))
POD = "demo/web"


def history(number, rule="tell", kind="request", *, at=None, process="a.1", state="done", said=""):
    """Return the history of one run that was sent, claimed, done and settled within four seconds."""
    run, at = f"run-{number}", 10.0 * number if at is None else at
    change = QueueEvent(int(10 * at), at, "claimed", run, 1, POD, None, 1, process)
    return History(
        LIMITS,
        [Sent(number, rule, POD, "a", at - 1, at - 0.5, 202, (run,))],
        [Effect(run, kind, POD, process, at + 1, at + 2)],
        [change, replace(change, place=change.place + 30, at=at + 3, what="settled")],
        [Row(run, rule, POD, None, state, (("step", state, said),))],
    )


def joined(*histories, **of):
    """Return the records of several histories in one, in the order of their places."""
    parts = {
        name: [one for history in histories for one in getattr(history, name)]
        for name in ("sent", "effects", "queue", "rows", "faults")
    }
    parts["queue"].sort(key=lambda one: one.place)
    return History(LIMITS, **{**parts, **of})


def violations(found):
    return [(one.statement, one.rows) for one in check(found).violations]


def test_a_history_without_a_fault():
    assert violations(joined(history(1), history(2), history(3, "hold", "hold", said="x"))) == [
        ("every undo is done", ("run-3",))
    ]
    assert violations(joined(history(1), history(2))) == []


def test_a_throttle_that_was_passed():
    both = joined(history(1, "once", "once"), history(2, "once", "once"))
    assert violations(both) == [("no throttle is passed", ("run-1", "run-2"))]


def test_a_run_of_a_spool_that_a_throttle_suppressed_is_not_lost():
    second = history(2, "once")
    both = joined(history(1, "once", "once"), History(LIMITS, second.sent))
    assert violations(both) == [("no acknowledged run is lost", ("run-2",))]
    both.limits = replace(LIMITS, spooling=frozenset({"a"}))
    assert violations(both) == []


def test_what_an_undo_left():
    found = joined(history(1), undo_intents=["undo-1"], left=[POD])
    assert violations(found) == [
        ("every undo is done", ("undo-1",)),
        ("every undo is done", (POD,)),
    ]


def test_a_run_that_is_done_needs_an_effect_and_an_effect_a_run():
    found = joined(history(1))
    found.effects = [replace(found.effects[0], run="another")]
    lost = "no acknowledged run is lost"
    assert violations(found)[:2] == [(lost, ("run-1",)), (lost, ("another",))]


def test_a_request_that_is_sent_twice_unless_the_run_says_that_it_may_have_run():
    one = history(1)
    one.effects *= 2
    assert ("no effect is doubled", ("run-1",)) in violations(one)
    one.rows = history(1, state="failed", said="interrupted, may have run").rows
    assert ("no effect is doubled", ("run-1",)) not in violations(one)


def test_two_writes_at_once():
    found = joined(history(1), history(2))
    found.effects[0] = replace(found.effects[0], ended=22.0)
    assert violations(found) == [("no two attempts on one target at once", ("run-1", "run-2"))]


@pytest.mark.parametrize(("writes", "deaths"), [(1, 0), (2, 1), (3, 1)])
def test_writes_after_the_claim_of_a_replica_that_was_stopped(writes, deaths):
    """At most two requests of a dead process may have been on their way."""
    found = joined(history(1), history(2, process="b.1"))
    late = replace(found.effects[0], began=15.0, ended=15.1, kind="mark")
    found.effects += [replace(late, began=15.0 + n, ended=15.1 + n) for n in range(writes)]
    found.queue += [QueueEvent(999, 14.0, "died", "", 0, "", None, 1, "a.1")] * deaths
    excused = writes <= 2 * deaths
    several = ("no two attempts on one target at once", ("run-1",) * writes)
    assert violations(found) == ([] if excused else [several])


def test_recovery_is_measured_from_the_kill_to_the_next_claim_of_a_run_that_was_held():
    found = history(1)
    claimed, settled = found.queue
    freed = replace(claimed, place=120, at=13.2, what="freed", process="b.1")
    again = replace(claimed, place=121, at=13.25, fence=2, process="b.1")
    found.queue = [claimed, freed, again, replace(settled, place=150, at=15.0, process="b.1")]
    found.faults = [Fault("kill", "a.1", 11.5, 12.0)]
    report = check(found)
    assert report.violations == ()
    assert report.figures["replica_recovery_s_p50"] == pytest.approx(1.75)
    assert report.figures["recovery_without_another_fault_s_p99"] == pytest.approx(1.75)
    assert "kills 1" in report.text()


@pytest.mark.parametrize(
    ("began", "ended", "alone"), [(10, 11, 1), (11, 12, 0), (13, 14, 0), (13.5, 14, 1)]
)
def test_a_recovery_during_another_fault_is_counted_apart(began, ended, alone):
    found = history(1)
    claimed, _ = found.queue
    found.queue.insert(1, replace(claimed, place=121, at=13.25, fence=2, process="b.1"))
    found.faults = [Fault("kill", "a.1", 11.5, 12.0), Fault("pause", "b.1", began, ended)]
    figures = check(found).figures
    assert figures["replica_recovery_s_count"] == 1
    assert figures.get("recovery_without_another_fault_s_count", 0) == alone
