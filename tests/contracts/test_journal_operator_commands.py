"""Operator commands on runs and playbooks, for every backend: decide, retry, pause and resume."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from engine.journal.records import Decision, DecisionResult, Pause, RunFilter
from engine.model.run import Approval, Outcome
from tests.support.journals import DONE, FAILED, LEASE, NOW, accept, claim, playbook, run, step

HELD = Outcome("held", "over the budget", retry_in=3600.0)


def hold(journal, number=1, of=None):
    accept(journal, run(number, of=of))
    held = claim(journal)
    journal.keep(held, {"held": [held.step.name, NOW]})
    assert journal.settle(held, HELD, NOW) == "waiting"
    return held.run.id


def test_a_held_run_is_listed_separately_from_waiting_runs(journal):
    held = hold(journal)
    accept(journal, run(2))
    assert journal.counts() == {"waiting": 1, "running": 0, "held": 1}
    (result,) = journal.find(held).results
    assert (result.state, result.message) == ("held", "over the budget")
    assert [r.run.id for r in journal.runs(RunFilter(state="held"))] == [held]


@pytest.mark.parametrize("verdict", ["approve", "deny"])
def test_a_decision_lets_a_held_run_continue_and_names_the_operator(journal, verdict):
    held = hold(journal)
    assert journal.claim("cluster", 9, NOW + 1) == []
    assert journal.decide(held, Decision(verdict, "alice", NOW + 1))
    again = claim(journal, NOW + 1)
    assert again.attempt_state["verdict"] == ["mark", verdict, "alice", ""]
    assert journal.counts()["held"] == 0


def test_only_a_held_run_can_be_decided_and_only_once(journal):
    held = hold(journal)
    accept(journal, run(2))
    assert not journal.decide(run(2).id, Decision("approve", "a", NOW))
    assert not journal.decide("0" * 32, Decision("approve", "a", NOW))
    assert journal.decide(held, Decision("deny", "a", NOW))
    assert not journal.decide(held, Decision("approve", "b", NOW))


def test_two_approvals_of_different_operators_end_a_hold(journal):
    held = hold(journal)

    def approve(by, reason=""):
        return journal.decide(held, Decision("approve", by, NOW + 1, reason, "mark"), 2)

    assert approve("alice", "ticket 1") == DecisionResult(1, ("alice",))
    for same in ("alice", "Alice", "\uff41lice", "al\u200bice", "kubernetes:alice@example.com"):
        assert approve(same) == DecisionResult(1, ("alice",), counts=False)
    assert journal.counts()["held"] == 1
    assert journal.claim("cluster", 9, NOW + 1) == []
    assert approve("bob", "ticket 2") == DecisionResult(0, ("alice", "bob"))
    assert approve("carol") is None
    assert claim(journal, NOW + 1).approval == Approval(
        "approve", "alice and bob", "ticket 1; ticket 2"
    )
    assert [one.by for one in journal.find(held).decisions] == ["alice", "bob"]


def test_one_denial_ends_a_hold_that_needs_two_approvals(journal):
    held = hold(journal)
    journal.decide(held, Decision("approve", "alice", NOW), 2)
    assert journal.decide(held, Decision("deny", "alice", NOW, "no"), 2).missing == 0
    assert claim(journal).approval == Approval("deny", "alice", "no")


def test_approvals_of_an_earlier_hold_do_not_count(journal):
    held = hold(journal)
    journal.decide(held, Decision("approve", "alice", NOW), 2)
    again = claim(journal, NOW + 3600)  # the hold expired
    journal.settle(again, FAILED, NOW)
    assert journal.retry(held, 0, Decision("retry", "carol", NOW))
    again = claim(journal)
    journal.keep(again, {"held": ["mark", NOW]})
    journal.settle(again, HELD, NOW)
    assert journal.decide(held, Decision("approve", "bob", NOW), 2) == DecisionResult(1, ("bob",))


def test_simultaneous_decisions_of_two_operators_both_count(journal):
    held = hold(journal)
    with ThreadPoolExecutor(8) as threads:
        names = [f"{name}{number}" for number in range(4) for name in ("alice", "bob")]
        decided = list(
            threads.map(
                lambda by: journal.decide(held, Decision("approve", by[:-1], NOW), 2), names
            )
        )
    assert sum(one is not None and one.counts for one in decided) == 2
    assert sum(one is not None and not one.missing for one in decided) == 1


def test_a_decision_does_not_apply_to_another_step(journal):
    held = hold(journal)
    assert journal.decide(held, Decision("approve", "alice", NOW, step="another")) is None
    assert journal.counts()["held"] == 1


def test_a_hold_that_expired_is_claimed_without_a_decision(journal):
    hold(journal)
    assert "verdict" not in claim(journal, NOW + 3600).attempt_state
    assert journal.counts()["held"] == 0


def test_a_finished_run_can_be_retried_from_any_step(journal):
    of = playbook("p", step("one"), step("two"), step("three", phase="finally"))
    accept(journal, run(1, of=of))
    journal.settle(claim(journal), DONE, NOW)
    journal.settle(claim(journal), FAILED, NOW)
    assert journal.settle(claim(journal), DONE, NOW) == "failed"
    assert journal.retry(run(1, of=of).id, 1, Decision("retry", "alice", NOW + 9))
    again = claim(journal, NOW + 9)
    assert (again.step.name, again.attempt, again.answers) == ("two", 1, 0)
    assert [result.step for result in again.results] == ["one"]
    journal.settle(again, DONE, NOW + 9)
    assert journal.settle(claim(journal, NOW + 9), DONE, NOW + 9) == "done"


def test_an_unfinished_run_cannot_be_retried(journal):
    accept(journal, run(1))
    assert not journal.retry(run(1).id, 0, Decision("retry", "alice", NOW))
    late = claim(journal)
    assert not journal.retry(run(1).id, 0, Decision("retry", "alice", NOW))
    journal.settle(late, FAILED, NOW)
    assert journal.retry(run(1).id, 0, Decision("retry", "alice", NOW))
    assert not journal.retry(run(1).id, 0, Decision("retry", "alice", NOW))
    assert journal.settle(late, DONE, NOW) is None  # the retry increased the fence


def test_a_paused_playbook_is_not_claimed_until_it_is_resumed_even_after_a_restart(
    journal, opened, tmp_path
):
    accept(journal, run(1))
    journal.pause("p", Pause("alice", NOW))
    assert journal.claim("cluster", 9, NOW) == []
    journal.close()
    again = opened(tmp_path)
    try:
        assert {k: (v.by, v.since) for k, v in again.paused().items()} == {"p": ("alice", NOW)}
        assert again.claim("cluster", 9, NOW) == []
        assert again.next_due("cluster") is None
        again.resume("p")
        assert claim(again).run.id == run(1).id
        assert again.paused() == {}
    finally:
        again.close()


def test_a_pause_with_an_end_expires(journal):
    accept(journal, run(1))
    journal.pause("p", Pause("alice", NOW, NOW + 60, "an upgrade"))
    assert journal.paused()["p"] == Pause("alice", NOW, NOW + 60, "an upgrade")
    assert journal.end_pauses(NOW + 59) == []
    assert journal.claim("cluster", 9, NOW + 59) == []
    assert journal.end_pauses(NOW + 60) == ["p"]
    assert claim(journal, NOW + 60).run.id == run(1).id


def test_a_run_keeps_the_newest_decisions(journal):
    accept(journal, run(1))
    for number in range(25):
        journal.settle(claim(journal), FAILED, NOW)
        assert journal.retry(run(1).id, 0, Decision("retry", "alice", NOW, f"try {number}", "mark"))
    kept = journal.find(run(1).id).decisions
    assert [one.reason for one in kept] == [f"try {number}" for number in range(5, 25)]
    held = claim(journal)
    journal.keep(held, {"held": ["mark", NOW]})
    journal.settle(held, HELD, NOW)
    journal.decide(run(1).id, Decision("deny", "ada", NOW, "not now", "mark"))
    assert journal.find(run(1).id).decisions[-1] == Decision("deny", "ada", NOW, "not now", "mark")
    assert claim(journal).approval == Approval("deny", "ada", "not now")


def test_runs_of_a_paused_playbook_let_other_runs_of_the_target_pass(journal):
    first, second = playbook("a"), playbook("b")
    accept(journal, run(1, "demo/x", first), run(1, "demo/x", second))
    journal.pause("a", Pause("alice", NOW))
    passed = claim(journal)
    assert passed.run.playbook.name == "b"
    journal.settle(passed, DONE, NOW)
    assert journal.claim("cluster", 9, NOW) == []
    accept(journal, run(2, "demo/y", first))
    assert journal.claim("cluster", 9, NOW) == []
    journal.resume("a")
    assert {c.run.target for c in journal.claim("cluster", 9, NOW)} == {"demo/x", "demo/y"}


def test_a_pause_of_all_playbooks_stops_all_claims(journal):
    accept(journal, run(1))
    journal.settle(claim(journal), Outcome("waiting", "busy", retry_in=5.0), NOW)
    accept(journal, run(2))
    journal.pause(None, Pause("alice", NOW))
    assert journal.claim("cluster", 9, NOW + 9) == []
    assert journal.next_due("cluster") is None
    journal.resume(None)
    assert len(journal.claim("cluster", 9, NOW + 9)) == 2


def test_a_running_attempt_can_end_while_its_playbook_is_paused(journal):
    of = playbook("p", step("one"), step("two"))
    accept(journal, run(1, of=of))
    flying = claim(journal)
    journal.pause("p", Pause("alice", NOW))
    assert journal.settle(flying, DONE, NOW) == "next"
    assert journal.claim("cluster", 9, NOW) == []
    journal.resume(None)
    assert claim(journal).step.name == "two"


def test_a_lease_that_expired_during_a_pause_is_claimed_after_it(journal):
    accept(journal, run(1))
    claim(journal)
    journal.pause("p", Pause("alice", NOW))
    assert journal.claim("cluster", 9, NOW + LEASE) == []
    journal.resume("p")
    assert claim(journal, NOW + LEASE).interrupted


def test_runs_are_filtered_and_listed_newest_first(journal):
    a, b = playbook("a"), playbook("b")
    accept(journal, run(1, of=a), run(1, of=b))
    accept(journal, run(2, of=a))
    journal.settle(journal.claim("cluster", 1, NOW)[0], FAILED, NOW)
    names = [(r.run.playbook.name, r.outcome) for r in journal.runs(RunFilter())]
    assert names == [("a", None), ("b", None), ("a", "failed")]
    assert len(journal.runs(RunFilter(limit=2))) == 2
    assert [r.run.playbook.name for r in journal.runs(RunFilter(playbook="b"))] == ["b"]
    assert [r.outcome for r in journal.runs(RunFilter(state="failed"))] == ["failed"]
    assert len(journal.runs(RunFilter(state="waiting"))) == 2
    assert journal.runs(RunFilter(since=NOW + 1)) == journal.runs(RunFilter(namespace="demo")) == []


def test_a_run_accepted_during_a_pause_passes_the_paused_run(journal):
    accept(journal, run(1, "demo/a", playbook("sleeps")))
    journal.pause("sleeps", Pause("alice", NOW))
    accept(journal, run(2, "demo/a", playbook("acts")))
    assert claim(journal).run.id == run(2, of=playbook("acts")).id


def test_a_run_without_steps_does_not_block_its_target(journal):
    none = replace(playbook("none"), steps=())
    accept(journal, run(1, "demo/a", none), run(1, "demo/a", playbook("then")))
    assert claim(journal).run.id == run(1, of=playbook("then")).id
