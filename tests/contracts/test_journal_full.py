"""A journal at its cap, asked of every one: it refuses what is new, so that what it has can be worked off."""

from __future__ import annotations

import pytest
from engine.cluster.api import POD
from engine.journal.protocol import AcceptBatch, Decision, Pause, RunFilter
from engine.model.calls import ObjectChange
from engine.model.errors import JournalError
from engine.model.run import Notice, Outcome, Run, run_id
from tests.support.journals import DONE, NOW, accept, event, playbook, step

MOST = 3 << 19


@pytest.fixture
def journal(opened, tmp_path):
    journal = opened(tmp_path, max_bytes=MOST)
    yield journal
    journal.close()


def large(number, size):
    """A run whose event has so many bytes, on one of fifty pods."""
    of, pod = playbook(), f"nginx-{number % 50}"
    fields = {"k8s.ns.name": "demo", "k8s.pod.name": pod}
    came = event(number, output="x" * size, output_fields=fields)
    return Run(run_id(str(number), of.name), of, came, NOW, f"demo/{pod}")


def until_it_refuses(journal, size=1_000, first=0):
    """Accept, looking at how full it is as whoever keeps house does; what was accepted."""
    accepted = []
    while True:
        one = large(first + len(accepted), size)
        try:
            accept(journal, one)
        except JournalError:
            journal.fill_ratio()
            if journal.write_error() is not None:
                return accepted
        else:
            accepted.append(one.id)


def worked_off(journal, outcome=DONE, now=NOW):
    done = []
    while claims := journal.claim("cluster", 16, now):
        for claim in claims:
            assert journal.settle(claim, outcome, now) == outcome.state
            done.append(claim.run.id)
    return done


@pytest.mark.parametrize("size", [1, 1_000, 10_000])
def test_all_that_a_full_journal_has_accepted_is_done(journal, size):
    accepted = until_it_refuses(journal, size)
    assert sorted(worked_off(journal)) == sorted(accepted)


def test_it_takes_a_good_part_of_what_it_may_have_before_it_is_full(journal):
    accepted = until_it_refuses(journal)
    assert len(accepted) > MOST // 6_000
    assert 0.9 < journal.fill_ratio() <= 1


def test_all_is_done_although_each_run_is_tried_again_and_waits_first(journal):
    accepted = until_it_refuses(journal)
    assert all(journal.find(one) for one in accepted[:1])  # all of it enters the lanes
    refused = Outcome("waiting", "API server: " + "connection refused " * 10, retry_in=60.0)
    while claims := journal.claim("cluster", 16, NOW):
        for claim in claims:
            assert journal.settle(claim, refused, NOW) == "waiting"
    assert sorted(worked_off(journal, now=NOW + 60)) == sorted(accepted)


def test_all_is_undone_although_each_run_changes_something(journal):
    accepted = until_it_refuses(journal)
    undone = 0
    while claims := journal.claim("cluster", 16, NOW):
        for claim in claims:
            if claim.undo:
                assert journal.settle(claim, Outcome("undone", "q removed"), NOW) == "undone"
                undone += 1
                continue
            change = ObjectChange(
                POD, "demo", "web", claim.run.id, ("metadata", "labels", "q"), "true"
            )
            assert journal.add_undo_intent(claim, [change], None, {"uid": claim.run.id})
            assert journal.settle(claim, DONE, NOW) == "done"
            assert journal.undo(claim.run.id, Decision("undo", "alice", NOW)) == ["mark"]
    assert undone == len(accepted)


@pytest.mark.parametrize("size", [1_000, 20_000])
def test_all_runs_finish_although_each_is_held_and_notifies(journal, size):
    accepted = until_it_refuses(journal, size)
    tell = playbook("tell", step("post", effect="notify", pool="slow"))
    while claims := journal.claim("cluster", 16, NOW):
        for claim in claims:
            id_ = run_id(claim.run.id, "held")
            notify = Run(id_, tell, claim.run.event, NOW, id_, claim.run.trace)
            about = {"run": claim.run.id, "step": "mark", "reason": "over the budget " * 4}
            attempt_state = {"held": ["mark", NOW]}
            assert journal.keep(claim, attempt_state, Notice(notify, {"about": about}))
            held = Outcome("held", "over the budget " * 4, retry_in=3600.0)
            assert journal.settle(claim, held, NOW) == "waiting"
    notified = journal.claim("slow", 10_000, NOW)
    assert len(notified) == len(accepted)
    assert all(claim.attempt_state["about"]["step"] == "mark" for claim in notified)
    assert all(journal.settle(claim, DONE, NOW) == "done" for claim in notified)
    assert sorted(worked_off(journal, now=NOW + 3600)) == sorted(accepted)


def test_while_it_is_full_it_says_so_and_refuses_all_that_is_new(journal):
    until_it_refuses(journal)
    assert "full" in journal.write_error()
    with pytest.raises(JournalError, match="full"):
        journal.accept(AcceptBatch([large(10**6, 100_000)]), NOW).result()
    journal.accept(AcceptBatch(), NOW).result()  # nothing is no more than it has
    journal.pause("p", Pause("alice", NOW))
    assert list(journal.paused()) == ["p"]


def test_once_what_is_over_is_pruned_it_takes_more(journal):
    accepted = until_it_refuses(journal)
    worked_off(journal)
    while journal.delete_runs(NOW + 1):
        pass
    assert journal.fill_ratio() < 0.5
    assert journal.write_error() is None
    assert len(until_it_refuses(journal, first=10**5)) == pytest.approx(len(accepted), rel=0.1)


def test_steps_that_say_more_than_was_reckoned_with_stop_it_until_it_is_pruned(journal):
    accepted = until_it_refuses(journal)
    with pytest.raises(JournalError):
        worked_off(journal, Outcome("done", "x" * 20_000))
    done = [one.run.id for one in journal.runs(RunFilter(state="done", limit=10_000))]
    assert 0 < len(done) < len(accepted)
    assert journal.strip_runs(NOW + 1)
    rest = worked_off(journal, now=NOW + 60)
    assert {*rest, *done} == {*accepted}


def test_a_full_journal_is_full_when_it_is_opened_again(opened, tmp_path):
    journal = opened(tmp_path, max_bytes=MOST)
    try:
        accepted = until_it_refuses(journal)
    finally:
        journal.close()
    journal = opened(tmp_path, max_bytes=MOST)
    try:
        assert "full" in journal.write_error()
        with pytest.raises(JournalError, match="full"):
            accept(journal, large(10**6, 100_000))
        accept(journal, large(10**7, 1))  # what little has room is taken
        assert len(worked_off(journal)) == len(accepted) + 1
    finally:
        journal.close()
