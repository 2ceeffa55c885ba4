"""Undo intents, for every backend."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from engine.cluster.api import NETWORK_POLICY, POD
from engine.journal.records import AcceptBatch, Decision, Pause, RunFilter
from engine.model.calls import ObjectChange
from engine.model.errors import PlaybookError
from engine.model.playbook import Match, Playbook
from engine.model.run import Outcome
from tests.support import journals
from tests.support.journals import DONE, LEASE, NOW, accept, claim, over, playbook, run, step

LABEL = ObjectChange(POD, "demo", "web", "u1", ("metadata", "labels", "seen"), "true", None)
POLICY = ObjectChange(NETWORK_POLICY, "demo", "tiercel-1")
UNDONE = Outcome("undone", "seen of pod web removed")


def held(journal, number=1, *, until=None, changes=(LABEL,), of=None, target="demo/web"):
    """Finish a run whose first step has an undo intent for these changes. Return its claim."""
    accept(journal, run(number, target, of))
    taken = claim(journal)
    assert journal.add_undo_intent(taken, changes, until, {"uid": "u1"})
    journal.settle(taken, DONE, NOW)
    return taken


def test_a_step_is_undone_at_its_time_by_a_separate_claim(journal):
    first = held(journal, until=NOW + 60, changes=(POLICY, LABEL))
    assert journal.find(first.run.id).undo == {"mark": NOW + 60}
    assert journal.next_due("cluster") == NOW + 60
    assert journal.claim("cluster", 9, NOW + 59) == []
    undo = claim(journal, NOW + 60)
    assert (undo.run, undo.step.name) == (first.run, "mark")
    assert undo.undo
    assert undo.changes == (POLICY, LABEL)
    assert journal.settle(undo, UNDONE, NOW + 60) == "undone"
    record = journal.find(first.run.id)
    assert [(r.state, r.message) for r in record.results] == [("undone", UNDONE.message)]
    assert (record.outcome, record.undo) == ("done", {})
    assert journal.undo_times(LABEL.key) == []
    assert journal.next_due("cluster") is None


def test_an_outcome_that_comes_after_the_undo_of_its_step_is_late(journal):
    """Its claim has ended, and no other one has begun. It would replace the result that the undo has written."""
    accept(journal, run(1))
    first = claim(journal)
    assert journal.add_undo_intent(first, (LABEL,), NOW + 3, {})
    undo = claim(journal, NOW + LEASE)
    assert undo.undo
    assert journal.settle(undo, UNDONE, NOW + LEASE) == "undone"
    assert journal.settle(first, DONE, NOW + LEASE) is None
    again = claim(journal, NOW + LEASE)
    assert (again.run, again.attempt, again.interrupted) == (first.run, 2, True)
    assert journal.settle(again, DONE, NOW + LEASE) == "done"


def test_a_step_without_an_undo_time_is_undone_on_request(journal):
    first = held(journal)
    assert journal.next_due("cluster") is None
    assert journal.undo(first.run.id, Decision("undo", "alice", NOW + 5)) == ["mark"]
    assert claim(journal, NOW + 5).undo
    assert journal.undo("0" * 32, Decision("undo", "alice", NOW)) == []


def test_a_run_without_undo_intents_cannot_be_undone(journal):
    accept(journal, run(1))
    journal.settle(claim(journal), DONE, NOW)
    assert journal.undo(run(1).id, Decision("undo", "alice", NOW)) == []


def test_undos_are_not_listed_or_counted_as_runs(journal):
    first = held(journal, until=NOW + 60)
    assert journal.counts() == {"waiting": 0, "running": 0, "held": 0}
    assert over(journal) == 1
    assert [r.run.id for r in journal.runs(RunFilter())] == [first.run.id]
    claim(journal, NOW + 60)
    assert journal.counts() == {"waiting": 0, "running": 0, "held": 0}
    assert over(journal) == 1
    assert [r.run.id for r in journal.runs(RunFilter(state="running"))] == []


def test_undo_intents_of_several_runs_keep_the_original_value(journal):
    first = held(journal, 1, until=NOW + 60)
    second = held(journal, 2, until=NOW + 90, changes=(replace(LABEL, put="later", before="true"),))
    assert sorted(journal.undo_times(LABEL.key)) == [NOW + 60, NOW + 90]
    one = claim(journal, NOW + 60)
    assert (one.run.id, one.changes[0].put) == (first.run.id, "later")
    assert journal.undo_times(LABEL.key, exclude=one.undo) == [NOW + 90]
    journal.settle(one, UNDONE, NOW + 60)
    other = claim(journal, NOW + 90)
    assert other.run.id == second.run.id
    assert other.changes[0].before is None
    assert other.changes[0].others == ("true",)  # still there if the second step did not act
    assert journal.undo_times(LABEL.key, exclude=other.undo) == []


def test_the_time_of_an_undo_on_request_is_none(journal):
    held(journal)
    assert journal.undo_times(LABEL.key) == [None]


def test_an_undo_waits_for_the_leased_run_of_its_target_and_goes_before_ready_runs(journal):
    held(journal, until=NOW + 60)
    accept(journal, run(2, "demo/web"), run(3, "demo/web"), now=NOW + 50)
    flying = claim(journal, NOW + 59)
    assert journal.claim("cluster", 9, NOW + 61) == []
    assert journal.next_due("cluster") == NOW + 59 + LEASE
    journal.settle(flying, DONE, NOW + 62)
    undo = claim(journal, NOW + 62)
    assert undo.undo
    journal.settle(undo, UNDONE, NOW + 63)
    assert claim(journal, NOW + 63).run.id in (run(2).id, run(3).id)


def test_undos_of_one_target_run_one_at_a_time(journal):
    held(journal, 1, until=NOW + 60)
    held(journal, 2, until=NOW + 60, changes=(POLICY,))
    one = claim(journal, NOW + 60)
    journal.settle(one, UNDONE, NOW + 60)
    assert claim(journal, NOW + 60).run.id != one.run.id


def test_an_interrupted_undo_is_claimed_again_and_the_late_claim_is_fenced(journal):
    held(journal, until=NOW + 60)
    late = claim(journal, NOW + 60)
    again = claim(journal, NOW + 60 + LEASE)
    assert (again.interrupted, again.attempt) == (True, 2)
    assert journal.settle(late, UNDONE, NOW + 100) is None
    assert journal.settle(again, UNDONE, NOW + 100) == "undone"


def test_an_undo_is_retried_and_after_a_failure_waits_for_a_request(journal):
    first = held(journal, until=NOW + 60)
    wait = Outcome("waiting", "500", retry_in=5.0)
    assert journal.settle(claim(journal, NOW + 60), wait, NOW + 60) == "waiting"
    assert journal.next_due("cluster") == NOW + 65
    failed = Outcome("failed", "missing right")
    assert journal.settle(claim(journal, NOW + 65), failed, NOW + 65) == "failed"
    record = journal.find(first.run.id)
    assert record.results[0].state == "done"
    assert "not undone: missing right" in record.results[0].message
    assert record.undo == {"mark": None}
    assert journal.undo_times(LABEL.key) == [NOW + 60]
    assert journal.undo(first.run.id, Decision("undo", "alice", NOW + 99)) == ["mark"]
    assert journal.settle(claim(journal, NOW + 99), UNDONE, NOW + 99) == "undone"


@pytest.mark.parametrize("which", ["p", None])
def test_a_pause_does_not_stop_an_undo(journal, which):
    held(journal, until=NOW + 60)
    accept(journal, run(2, "demo/web"), run(3, "demo/other"))
    journal.pause(which, Pause("alice", NOW))
    assert journal.next_due("cluster") == NOW + 60
    undo = claim(journal, NOW + 60)
    assert undo.undo
    journal.resume(None)
    assert claim(journal, NOW + 60).run.id == run(3).id
    journal.settle(undo, UNDONE, NOW + 60)
    assert claim(journal, NOW + 60).run.id == run(2).id


def test_only_the_newest_claim_adds_an_undo_intent(journal):
    accept(journal, run(1))
    late = claim(journal)
    claim(journal, NOW + LEASE)
    assert not journal.add_undo_intent(late, (LABEL,), NOW + 60, {})
    assert journal.undo_times(LABEL.key) == []


def test_a_second_attempt_replaces_the_undo_intent_and_keeps_the_original_value(journal):
    accept(journal, run(1))
    journal.add_undo_intent(claim(journal), (LABEL,), NOW + 60, {})
    again = claim(journal, NOW + LEASE)
    assert journal.add_undo_intent(again, (replace(LABEL, before="true"),), NOW + 90, {})
    journal.settle(again, DONE, NOW + LEASE)
    assert journal.undo_times(LABEL.key) == [NOW + 90]
    assert claim(journal, NOW + 90).changes == (LABEL,)


def test_a_second_attempt_can_change_another_object(journal):
    accept(journal, run(1))
    journal.add_undo_intent(claim(journal), (LABEL,), NOW + 60, {})
    again = claim(journal, NOW + LEASE)
    assert journal.add_undo_intent(again, (POLICY,), NOW + 90, {})
    journal.settle(again, DONE, NOW + LEASE)
    assert claim(journal, NOW + 90).changes == (POLICY,)


def test_a_step_that_is_repeated_renews_its_undo(journal):
    first = held(journal, until=NOW + 60)
    waits = Outcome("waiting", "500", retry_in=5.0)
    assert journal.settle(claim(journal, NOW + 60), waits, NOW + 60) == "waiting"
    assert journal.retry(first.run.id, 0, Decision("retry", "alice", NOW + 61))
    again = claim(journal, NOW + 61)
    later = replace(LABEL, put="later", before="true")
    assert journal.add_undo_intent(again, (later,), NOW + 200, {})
    journal.settle(again, DONE, NOW + 62)
    assert journal.claim("cluster", 9, NOW + 199) == []
    undo = claim(journal, NOW + 200)
    assert (undo.undo is not None, undo.attempt, undo.interrupted) == (True, 1, False)
    assert (undo.changes[0].put, undo.changes[0].before) == ("later", None)


def test_undo_intents_survive_a_restart(opened, tmp_path):
    journal = opened(tmp_path)
    held(journal, until=NOW + 60)
    claim(journal, NOW + 60)
    journal.close()
    journal = opened(tmp_path)
    undo = claim(journal, NOW + 61)
    assert (undo.changes, undo.interrupted) == ((LABEL,), True)
    journal.close()


def test_a_scheduled_undo_survives_the_deletion_of_its_run(journal):
    first = held(journal, until=NOW + 999)
    assert journal.delete_runs(NOW + 500) == 1
    assert journal.strip_runs(NOW + 500) == 0
    assert journal.find(first.run.id) is None
    undo = claim(journal, NOW + 999)
    assert (undo.run.id, undo.changes) == (first.run.id, (LABEL,))
    assert journal.settle(undo, UNDONE, NOW + 999) == "undone"


def test_an_undo_on_request_is_deleted_with_its_run(journal):
    first = held(journal)
    journal.delete_runs(NOW + 500)
    assert journal.undo_times(LABEL.key) == []
    assert journal.undo(first.run.id, Decision("undo", "alice", NOW + 600)) == []


def test_changes_found_in_the_cluster_are_adopted_once(journal):
    found = run(7, "demo/web")
    assert journal.adopt(found, "mark", (POLICY, LABEL), NOW + 60, now=NOW)
    assert not journal.adopt(found, "mark", (POLICY, LABEL), NOW + 60, now=NOW)
    record = journal.find(found.id)
    assert (record.outcome, record.undo) == ("done", {"mark": NOW + 60})
    assert journal.claim("cluster", 9, NOW + 59) == []
    assert claim(journal, NOW + 60).changes == (POLICY, LABEL)


def test_adoption_adds_only_the_undo_intent_to_an_existing_run(journal):
    of = playbook("p", step("one"), step("two"))
    accept(journal, run(1, of=of))
    journal.settle(claim(journal), DONE, NOW)
    journal.settle(claim(journal), DONE, NOW)
    before = journal.find(run(1, of=of).id)
    assert journal.adopt(run(1, of=of), "two", (POLICY,), NOW + 60, now=NOW)
    after = journal.find(run(1, of=of).id)
    assert after == replace(before, undo={"two": NOW + 60})


def test_an_adopted_run_is_not_accepted_again(journal):
    journal.adopt(run(7), "mark", (POLICY,), NOW + 60, now=NOW)
    journal.accept(AcceptBatch([run(7)]), NOW).result()
    assert journal.claim("cluster", 9, NOW) == []


def test_what_is_in_force_names_its_runs_and_why_an_undo_waits(journal):
    first = held(journal, 1, until=NOW + 60)
    second = held(journal, 2, changes=(POLICY, replace(LABEL, put="later")))
    found = {(one.run, one.change.path): one for one in journal.in_force()}
    assert found.keys() == {
        (first.run.id, LABEL.path), (second.run.id, ()), (second.run.id, LABEL.path),
    }  # fmt: skip
    one = found[first.run.id, LABEL.path]
    assert (one.playbook, one.step, one.until, one.next_attempt) == (
        "p", "mark", NOW + 60, NOW + 60,
    )  # fmt: skip
    assert (one.change.put, one.change.before, one.received) == ("later", None, NOW)
    assert one.state == "done"
    assert (found[second.run.id, ()].until, found[second.run.id, ()].next_attempt) == (None, None)
    waits = Outcome("waiting", "missing right", retry_in=5.0)
    assert journal.settle(claim(journal, NOW + 60), waits, NOW + 60) == "waiting"
    (one,) = [it for it in journal.in_force() if it.run == first.run.id]
    assert (one.until, one.next_attempt, one.attempts, one.message) == (
        NOW + 60, NOW + 65, 1, "missing right",
    )  # fmt: skip
    journal.settle(claim(journal, NOW + 65), UNDONE, NOW + 65)
    assert {it.run for it in journal.in_force()} == {second.run.id}


def test_what_is_in_force_shows_a_step_that_failed_or_has_not_ended(journal):
    accept(journal, run(1))
    taken = claim(journal)
    journal.add_undo_intent(taken, (LABEL,), NOW + 60, {})
    assert [one.state for one in journal.in_force()] == ["running"]
    journal.settle(taken, Outcome("failed", "forbidden"), NOW)
    assert [one.state for one in journal.in_force()] == ["failed"]
    journal.delete_runs(NOW + 30)
    assert [one.state for one in journal.in_force()] == [""]


def test_an_undo_does_not_need_the_actions_of_its_playbook(opened, tmp_path, monkeypatch):
    spec = {"actions": [{"action": "acme.quarantine"}, {"action": "pod.label", "name": "mark"}]}
    snapshot = msgspec.json.encode({"spec": {**spec, "runAs": "responder"}})
    of = Playbook("p", Match(), (step("x"), step("mark")), snapshot=snapshot, digest="d")
    monkeypatch.setattr(journals, "stored_playbook", lambda _: of)
    journal = opened(tmp_path)
    accept(journal, run(1, of=of))
    journal.settle(claim(journal), DONE, NOW)
    held = claim(journal)
    assert journal.add_undo_intent(held, (LABEL,), NOW + 60, {})
    journal.settle(held, DONE, NOW)
    journal.close()

    def unknown_action(_):
        raise PlaybookError([])

    monkeypatch.setattr(journals, "stored_playbook", unknown_action)
    journal = opened(tmp_path)
    undo = claim(journal, NOW + 60)
    assert (undo.step.name, undo.step.action, undo.changes) == ("mark", "pod.label", (LABEL,))
    assert undo.run.playbook.run_as == "responder"
    assert [one.step for one in journal.in_force()] == ["mark"]
    assert journal.settle(undo, UNDONE, NOW + 60) == "undone"
    journal.close()
