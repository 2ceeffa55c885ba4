"""A full journal refuses new runs and can finish those that it has, for every backend with a maximum size."""

from __future__ import annotations

import pytest
from engine.cluster.api import POD
from engine.journal.records import AcceptBatch, Decision, Pause, RunFilter
from engine.model.calls import ObjectChange
from engine.model.errors import JournalError
from engine.model.run import Notice, Outcome, Run, run_id
from tests.support.journals import DONE, JOURNALS_WITH_QUOTA, NOW, accept, event, playbook, step

MAX_BYTES = 3 << 18


@pytest.fixture(params=JOURNALS_WITH_QUOTA.values(), ids=JOURNALS_WITH_QUOTA)
def opened(request):
    return request.param


@pytest.fixture
def journal(opened, tmp_path):
    journal = opened(tmp_path, max_bytes=MAX_BYTES)
    yield journal
    journal.close()


def large(number, size):
    """Return a run with an event of about ``size`` bytes, on one of fifty pods."""
    of, pod = playbook(), f"nginx-{number % 50}"
    fields = {"k8s.ns.name": "demo", "k8s.pod.name": pod}
    came = event(number, output="x" * size, output_fields=fields)
    return Run(run_id(str(number), of.name), of, came, NOW, f"demo/{pod}")


def fill(journal, size=1_000, first=0):
    """Accept runs until the journal is full. Return their ids. Measure it on refusal, as maintenance does."""
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


def finish_all(journal, outcome=DONE, now=NOW):
    done = []
    while claims := journal.claim("cluster", 16, now):
        for claim in claims:
            assert journal.settle(claim, outcome, now) == outcome.state
            done.append(claim.run.id)
    return done


@pytest.mark.parametrize("size", [1, 1_000, 10_000])
def test_a_full_journal_can_finish_all_its_runs(journal, size):
    accepted = fill(journal, size)
    assert sorted(finish_all(journal)) == sorted(accepted)


def test_a_journal_is_full_only_when_most_of_its_size_is_in_use_or_reserved(opened, tmp_path):
    max_bytes = 3 << 19  # large enough that the empty tables do not matter
    journal = opened(tmp_path, max_bytes=max_bytes)
    try:
        assert len(fill(journal)) > max_bytes // 6_000
        assert 0.9 < journal.fill_ratio() <= 1
    finally:
        journal.close()


def test_all_runs_finish_although_each_is_retried(journal):
    accepted = fill(journal)
    assert all(journal.find(one) for one in accepted[:1])  # moves all runs to the target queues
    refused = Outcome("waiting", "API server: " + "connection refused " * 10, retry_in=60.0)
    while claims := journal.claim("cluster", 16, NOW):
        for claim in claims:
            assert journal.settle(claim, refused, NOW) == "waiting"
    assert sorted(finish_all(journal, now=NOW + 60)) == sorted(accepted)


def test_all_runs_are_undone_although_each_has_an_undo_intent(journal):
    accepted = fill(journal)
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
    accepted = fill(journal, size)
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
    assert sorted(finish_all(journal, now=NOW + 3600)) == sorted(accepted)


def test_a_full_journal_reports_it_and_refuses_new_runs(journal):
    fill(journal)
    assert "full" in journal.write_error()
    with pytest.raises(JournalError, match="full"):
        journal.accept(AcceptBatch([large(10**6, 100_000)]), NOW).result()
    journal.accept(AcceptBatch(), NOW).result()  # an empty batch always fits
    journal.pause("p", Pause("alice", NOW))
    assert list(journal.paused()) == ["p"]


def test_a_full_journal_accepts_again_after_runs_were_deleted(journal):
    accepted = fill(journal)
    finish_all(journal)
    while journal.delete_runs(NOW + 1):
        pass
    assert journal.fill_ratio() < 0.5
    assert journal.write_error() is None
    assert len(fill(journal, first=10**5)) == pytest.approx(len(accepted), rel=0.1)


def test_results_larger_than_the_reserve_stop_a_full_journal_until_runs_are_stripped(journal):
    accepted = fill(journal)
    with pytest.raises(JournalError):
        finish_all(journal, Outcome("done", "x" * 20_000))
    done = [one.run.id for one in journal.runs(RunFilter(state="done", limit=10_000))]
    assert 0 < len(done) < len(accepted)
    assert journal.strip_runs(NOW + 1)
    rest = finish_all(journal, now=NOW + 60)
    assert {*rest, *done} == {*accepted}


def test_a_full_journal_is_still_full_after_a_restart(opened, tmp_path):
    journal = opened(tmp_path, max_bytes=MAX_BYTES)
    try:
        accepted = fill(journal)
    finally:
        journal.close()
    journal = opened(tmp_path, max_bytes=MAX_BYTES)
    try:
        assert "full" in journal.write_error()
        with pytest.raises(JournalError, match="full"):
            accept(journal, large(10**6, 100_000))
        accept(journal, large(10**7, 1))  # a small run still fits
        assert len(finish_all(journal)) == len(accepted) + 1
    finally:
        journal.close()
