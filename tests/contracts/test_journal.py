"""The invariants of engine.journal.protocol, for every backend."""

from __future__ import annotations

import shutil

import pytest
from engine.journal.records import AcceptBatch
from engine.model.errors import JournalError
from engine.model.run import Outcome, StepResult
from tests.support.journals import (
    DONE,
    FAILED,
    LEASE,
    NOW,
    accept,
    claim,
    over,
    playbook,
    run,
    step,
)


def targets(claims):
    return [claim.run.target for claim in claims]


def test_accepted_runs_are_in_a_copy_of_the_files_of_an_open_journal(
    journal, opened, tmp_path, tmp_path_factory
):
    accept(journal, run(1), windows={"throttle": [1]})
    copied = tmp_path_factory.mktemp("copy") / "journal"
    shutil.copytree(tmp_path, copied)
    copy = opened(copied)
    try:
        assert copy.known({run(1).id, run(2).id}) == {run(1).id}
        assert copy.find(run(1).id).run == run(1)
        assert copy.throttle_windows() == {"throttle": [1]}
    finally:
        copy.close()


def test_opening_the_journal_expires_the_leases_of_a_dead_process(
    journal, opened, tmp_path, tmp_path_factory
):
    accept(journal, run(1))
    held = claim(journal)
    assert journal.keep(held, {"uid": "u"})
    copied = tmp_path_factory.mktemp("copy") / "journal"
    shutil.copytree(tmp_path, copied)
    copy = opened(copied)
    try:
        again = claim(copy, NOW + 1)
        assert (again.interrupted, again.attempt, again.attempt_state) == (True, 2, {"uid": "u"})
    finally:
        copy.close()


def test_a_run_that_is_accepted_twice_is_one_run_even_after_its_end(journal):
    accept(journal, run(1), run(1))
    accept(journal, run(1))
    journal.settle(claim(journal), DONE, NOW)
    accept(journal, run(1))
    assert journal.claim("cluster", 10, NOW) == []
    assert journal.counts() == {"waiting": 0, "running": 0, "held": 0}
    assert over(journal) == 1


def test_an_empty_accept_resolves_after_earlier_accepts(journal):
    first = journal.accept(AcceptBatch([run(1)]), NOW)
    journal.accept(AcceptBatch(), NOW).result()
    assert first.done()
    assert journal.known([run(1).id]) == {run(1).id}


def test_runs_start_in_the_order_of_acceptance(journal):
    accept(journal, run(1, of=playbook("z")), run(2), run(1, of=playbook("a")))
    accept(journal, run(0))
    started = []
    while claims := journal.claim("cluster", 1, NOW):
        started += [(claim.run.event.time_ns % 10, claim.run.playbook.name) for claim in claims]
        journal.settle(claims[0], DONE, NOW)
    assert started == [(1, "z"), (2, "p"), (1, "a"), (0, "p")]


def test_a_claim_returns_at_most_the_limit_and_one_run_per_target(journal):
    accept(journal, *(run(n, "demo/a" if n < 3 else None) for n in range(6)))
    assert targets(journal.claim("cluster", 2, NOW)) == ["demo/a", "demo/pod-3"]
    assert targets(journal.claim("cluster", 9, NOW)) == ["demo/pod-4", "demo/pod-5"]
    assert journal.claim("cluster", 0, NOW) == journal.claim("cluster", 9, NOW) == []


def test_the_next_run_of_a_target_starts_after_the_previous_one_is_settled(journal):
    accept(journal, run(1, "demo/a"), run(2, "demo/a"))
    first = claim(journal)
    assert journal.claim("cluster", 10, NOW + 1) == []
    journal.settle(first, DONE, NOW + 2)
    assert claim(journal, NOW + 2).run.id == run(2, "demo/a").id


def test_a_run_that_waits_for_a_retry_lets_later_runs_pass(journal):
    accept(journal, run(1, "demo/a"), run(2, "demo/a"))
    assert journal.settle(claim(journal), Outcome("failed", "503", 5.0), NOW) == "waiting"
    passing = claim(journal)
    assert passing.run.id == run(2, "demo/a").id
    assert journal.claim("cluster", 10, NOW + 6) == []  # due again, but the target has a leased run
    journal.settle(passing, Outcome("failed", "503", 0.0), NOW + 6)
    assert (
        claim(journal, NOW + 6).run.id == run(1, "demo/a").id
    )  # both are ready, so the earlier one


def test_a_run_waits_while_its_target_is_leased(journal):
    accept(journal, run(1, "demo/a"))
    held = claim(journal)
    accept(journal, run(2, "demo/a"))
    assert journal.claim("cluster", 10, NOW) == []
    journal.settle(held, DONE, NOW)
    assert claim(journal).run.id == run(2, "demo/a").id


def test_an_earlier_run_of_the_other_pool_goes_first_on_its_target(journal):
    slow = playbook("slow", step("post", pool="slow"))
    accept(journal, run(1, "demo/a", slow))
    accept(journal, run(2, "demo/a"), run(3))
    assert targets(journal.claim("cluster", 10, NOW)) == ["demo/pod-3"]
    held = claim(journal, pool="slow")
    assert journal.claim("cluster", 10, NOW) == []
    journal.settle(held, DONE, NOW)
    assert targets(journal.claim("cluster", 10, NOW)) == ["demo/a"]


def test_a_lease_lasts_for_the_timeout_and_a_margin_and_then_fences_the_claim(journal):
    accept(journal, run(1))
    lost = claim(journal)
    assert journal.next_due("cluster") == NOW + LEASE
    assert journal.claim("cluster", 10, NOW + LEASE - 0.1) == []
    again = claim(journal, NOW + LEASE)
    assert (lost.interrupted, again.interrupted, again.attempt) == (False, True, 2)
    assert again.began == NOW
    assert journal.settle(lost, DONE, NOW + LEASE) is None
    assert not journal.keep(lost, {"uid": "u"})
    assert journal.find(lost.run.id).outcome is None
    assert journal.settle(again, DONE, NOW + LEASE) == "done"


def test_an_expired_claim_writes_no_attempt_state(journal):
    accept(journal, run(1, "demo/a"), run(2, "demo/a"))
    lost = claim(journal)
    journal.claim("slow", 10, NOW + LEASE)
    assert not journal.keep(lost, {"sent": ["mark"]})
    # no other attempt has started since, so the outcome counts
    assert journal.settle(lost, DONE, NOW + LEASE) == "done"


def test_a_settled_claim_cannot_be_settled_again(journal):
    accept(journal, run(1, of=playbook("two", step("a"), step("b"))))
    first = claim(journal)
    assert journal.settle(first, DONE, NOW) == "next"
    assert journal.settle(first, FAILED, NOW) is None
    second = claim(journal)
    assert (second.attempt, second.position) == (first.attempt, 1)
    assert journal.settle(first, FAILED, NOW) is None  # the same attempt number, but another claim
    assert not journal.keep(first, {"uid": "u"})
    assert journal.settle(second, DONE, NOW) == "done"


def test_attempts_and_answers_are_counted_separately(journal):
    accept(journal, run(1))
    for answered in (False, True, True, False):
        now = journal.next_due("cluster")
        journal.settle(claim(journal, now), Outcome("failed", "no", 9.0, answered), now)
    last = claim(journal, journal.next_due("cluster"))
    assert (last.attempt, last.answers, last.began) == (5, 2, NOW)


def test_each_step_starts_with_its_own_counters(journal):
    accept(journal, run(1, of=playbook("two", step("a"), step("b", pool="slow"))))
    journal.settle(claim(journal), Outcome("failed", "no", 1.0, answered=True), NOW)
    journal.settle(claim(journal, NOW + 1), DONE, NOW + 2)
    assert journal.next_due("cluster") is None
    second = claim(journal, NOW + 3, "slow")
    assert (second.attempt, second.answers, second.began) == (1, 0, NOW + 3)
    assert second.results == (StepResult("a", "done", "labelled", attempts=2),)


def test_after_a_failed_step_the_finally_steps_run_and_the_outcome_is_failed(journal):
    steps = step("a"), step("b"), step("tell", phase="finally", pool="slow")
    accept(journal, run(1, of=playbook("stops", *steps)))
    assert journal.settle(claim(journal), FAILED, NOW) == "next"
    finally_ = claim(journal, pool="slow")
    assert [(r.step, r.state) for r in finally_.results] == [("a", "failed"), ("b", "skipped")]
    assert journal.settle(finally_, DONE, NOW) == "failed"
    record = journal.find(finally_.run.id)
    assert (record.outcome, record.due_at, record.position) == ("failed", None, None)
    assert [r.state for r in record.results] == ["failed", "skipped", "done"]


def test_next_due_ignores_runs_that_wait_behind_another_run(journal):
    assert journal.next_due("cluster") is None
    accept(journal, run(1, "demo/a"), run(2, "demo/a"))
    assert journal.next_due("cluster") == NOW
    assert journal.next_due("slow") is None
    held = claim(journal, NOW + 1)
    assert journal.next_due("cluster") == NOW + 1 + LEASE
    journal.settle(held, Outcome("failed", "", 500.0), NOW + 2)
    claim(journal, NOW + 2)
    assert journal.counts() == {"waiting": 1, "running": 1, "held": 0}


def test_every_method_of_a_closed_journal_fails(journal):
    accept(journal, run(1))
    held = claim(journal)
    journal.close()
    journal.close()
    calls = (
        lambda: accept(journal, run(2)),
        lambda: journal.known([run(1).id]),
        lambda: journal.claim("cluster", 1, NOW),
        lambda: journal.keep(held, {}),
        lambda: journal.settle(held, DONE, NOW),
        lambda: journal.find(run(1).id),
        lambda: journal.save_offset("f", 1),
        journal.throttle_windows,
        journal.budget_windows,
        journal.counts,
        journal.last_set,
    )
    for call in calls:
        with pytest.raises(JournalError, match="closed"):
            call()
    assert journal.write_error() == "the journal is closed"
