"""Runs of a live engine wait while a dry run uses the journal, and undos keep their time."""

from __future__ import annotations

import pytest
from engine.cluster.api import POD
from engine.journal.records import Decision
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.calls import ObjectChange
from engine.model.run import Outcome
from tests.support.journals import LEASE, NOW, accept, run, stored_playbook

DONE, PLANNED = Outcome("done", ""), Outcome("planned", "")
LABEL = ObjectChange(POD, "demo", "web", "u", ("metadata", "labels", "a"), "b")


def claim(journal, now=NOW):
    return journal.claim("cluster", 10, now)


@pytest.fixture
def start(tmp_path):
    """Close the open journal and open the file again, for a live engine or a dry run."""
    opened = []

    def start(*, dry=False):
        for one in opened:
            one.close()
        opened.append(SqliteJournal(tmp_path / "j.db", stored_playbook, LEASE, dry_run=dry))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_runs_of_a_live_engine_wait_until_the_dry_run_is_over(start):
    live, dry = (run(number, target="demo/web") for number in (1, 2))
    accept(start(), live)
    journal = start(dry=True)
    assert (journal.postponed_runs, journal.throttle_windows()) == (1, {})
    accept(journal, dry)  # on the same target, and not held up by what is before it
    (claimed,) = claim(journal, NOW + 1e6)
    assert claimed.run.id == dry.id
    assert journal.settle(claimed, PLANNED, NOW) == "planned"
    assert claim(journal, NOW + 1e8) == []
    assert journal.counts()["waiting"] == 1
    journal = start(dry=True)  # it was restarted
    assert (journal.postponed_runs, claim(journal, NOW + 1e8)) == (1, [])
    journal = start()
    (claimed,) = claim(journal)
    assert claimed.run.id == live.id


def test_an_attempt_that_was_running_before_a_dry_run_is_interrupted_after_it(start):
    journal = start()
    accept(journal, run(1))
    assert len(claim(journal)) == 1
    assert claim(start(dry=True), NOW + 1e6) == []
    (again,) = claim(start())
    assert again.interrupted


def test_the_unfinished_runs_of_a_dry_run_continue_in_the_next_live_engine(start):
    accept(start(dry=True), run(1))
    assert len(claim(start(dry=True))) == 1
    assert len(claim(start(), NOW + 1000)) == 1


def test_an_approval_given_during_a_dry_run_counts_after_it(start):
    journal = start()
    accept(journal, run(1))
    (claimed,) = claim(journal)
    journal.keep(claimed, {"held": [claimed.step.name, NOW]})
    assert journal.settle(claimed, Outcome("held", "", retry_in=60.0), NOW) == "waiting"
    journal = start(dry=True)
    assert journal.counts()["held"] == 1
    assert journal.decide(claimed.run.id, Decision("approve", "ada", NOW))
    assert claim(journal, NOW + 1e6) == []
    (again,) = claim(start())
    assert again.attempt_state["verdict"] == [claimed.step.name, "approve", "ada", ""]


def test_an_undo_that_is_due_during_a_dry_run_starts_after_it(start):
    journal = start()
    accept(journal, run(1, target="demo/web"))
    (claimed,) = claim(journal)
    assert journal.add_undo_intent(claimed, [LABEL], NOW + 60, {})
    journal.settle(claimed, DONE, NOW)
    journal = start(dry=True)
    assert claim(journal, NOW + 100) == []
    assert journal.next_due("cluster") is None  # so that no worker polls
    (undoing,) = claim(start(), NOW + 101)
    assert undoing.undo
