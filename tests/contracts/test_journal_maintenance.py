"""Retention and bounded tables, for every backend."""

from __future__ import annotations

import pytest
from engine.journal.dropped import MAX_DEAD_LETTERS, MAX_DROP_COUNTERS
from engine.journal.records import DeadLetter, DroppedRuns, RunFilter
from engine.model.errors import JournalError
from engine.model.run import Outcome
from tests.support.journals import DONE, NOW, accept, claim, playbook, run


def drop(count=1, at=NOW, playbook="p", key=""):
    return DroppedRuns(playbook, "throttle", key, count, at, at)


def test_dropped_runs_are_counted_per_hour(journal):
    journal.save_dropped([], [drop(2), drop(at=NOW + 5400, playbook="q")])
    journal.save_dropped([], [drop(3, NOW + 60)])
    assert journal.dropped_runs(RunFilter()) == [
        drop(at=NOW + 5400, playbook="q"),
        DroppedRuns("p", "throttle", "", 5, NOW, NOW + 60),
    ]
    assert [d.playbook for d in journal.dropped_runs(RunFilter(playbook="p"))] == ["p"]
    assert [d.playbook for d in journal.dropped_runs(RunFilter(since=NOW + 3600))] == ["q"]


def test_the_oldest_counters_of_dropped_runs_are_deleted(journal):
    drops = [drop(at=NOW + n, key=str(n)) for n in range(MAX_DROP_COUNTERS + 500)]
    for start in range(0, len(drops), 5_000):
        journal.save_dropped([], drops[start : start + 5_000])
    left = journal.dropped_runs(RunFilter(limit=10**6))
    assert len(left) == MAX_DROP_COUNTERS
    assert left[-1].key == "500"


def test_the_oldest_dead_letters_are_deleted(journal):
    journal.save_dropped(
        [DeadLetter(NOW + n, "http", "no JSON", b"%d" % n) for n in range(MAX_DEAD_LETTERS + 5)], []
    )
    letters = journal.dead_letters(10**6)
    assert len(letters) == MAX_DEAD_LETTERS
    assert letters[0] == DeadLetter(
        NOW + MAX_DEAD_LETTERS + 4, "http", "no JSON", b"%d" % (MAX_DEAD_LETTERS + 4)
    )
    assert len(journal.dead_letters(3)) == 3


def over(journal, number, at):
    accept(journal, run(number), now=at)
    journal.settle(claim(journal, at), DONE, at)


def test_only_runs_that_ended_before_the_time_are_deleted(journal):
    over(journal, 1, NOW)
    over(journal, 2, NOW + 100)
    accept(journal, run(3))
    journal.save_dropped([DeadLetter(NOW, "http", "e", b"")], [drop()])
    assert journal.delete_runs(NOW + 50) == 1
    assert journal.known([run(n).id for n in (1, 2, 3)]) == {run(2).id, run(3).id}
    assert journal.find(run(2).id).run == run(2)
    assert (journal.dead_letters(9), journal.dropped_runs(RunFilter())) == ([], [])
    assert journal.delete_runs(NOW + 50) == 0
    assert claim(journal).run == run(3)


def test_a_shared_event_stays_as_long_as_one_of_its_runs(journal):
    a, b = playbook("a"), playbook("b")
    accept(journal, run(1, of=a), run(1, of=b))
    first = claim(journal)
    journal.settle(first, DONE, NOW)
    assert journal.delete_runs(NOW + 1) == 1
    second = claim(journal)
    assert second.run == run(1, of=b)
    journal.settle(second, DONE, NOW)
    assert journal.find(run(1, of=b).id).outcome == "done"


def test_a_stripped_run_is_still_known(journal):
    over(journal, 1, NOW)
    assert (journal.strip_runs(NOW + 1), journal.strip_runs(NOW + 1)) == (1, 0)
    assert journal.known([run(1).id]) == {run(1).id}
    accept(journal, run(1))
    assert journal.claim("cluster", 9, NOW + 9) == []
    assert journal.runs(RunFilter()) == []
    with pytest.raises(JournalError, match="its event is not in the journal"):
        journal.find(run(1).id)


def test_an_unfinished_run_is_never_deleted(journal):
    accept(journal, run(1))
    journal.settle(claim(journal), Outcome("waiting", "busy", retry_in=10.0**9), NOW)
    assert journal.delete_runs(NOW + 10.0**8) == journal.strip_runs(NOW + 10.0**8) == 0


def test_the_fill_ratio_follows_the_stored_runs(journal):
    before = journal.fill_ratio()
    for n in range(200):
        over(journal, n, NOW)
    full = journal.fill_ratio()
    while journal.delete_runs(NOW + 1):
        pass
    assert before < full < 1
    assert journal.fill_ratio() < full
