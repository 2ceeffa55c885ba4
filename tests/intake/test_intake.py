"""From bodies to runs on disk: duplicates, throttles, and what a failing disk may not lose."""

from __future__ import annotations

import contextlib
import json

import pytest
from engine.intake.body import TooManyEventsError
from engine.journal.sqlite.journal import SqliteJournal
from engine.model import event
from engine.model.errors import EventError, JournalError
from hypothesis import given
from hypothesis import strategies as st
from tests.support.intake import (
    FALCO,
    NOW,
    ONCE,
    PLAYBOOK,
    SIDEKICK,
    THIRD,
    InstantJournal,
    ManualJournal,
    alert,
    intake_of,
    take,
    take_together,
)
from tests.support.playbooks import playbook_from_snapshot


def body(*alerts):
    return json.dumps(list(alerts)).encode()


def runs(intake, *alerts):
    return take(intake, body(*alerts)).runs


def test_a_run_is_written_before_anything_is_answered():
    disk = ManualJournal()
    taken = take(intake_of(disk), body(FALCO))
    assert not taken.written.done()
    disk.write()
    assert taken.written.done()
    assert disk.runs == taken.runs


def test_what_matches_nothing_has_nothing_to_wait_for():
    taken = take(intake_of(ManualJournal()), body(alert(rule="Another rule")))
    assert (taken.accepted, taken.runs, taken.written) == (1, [], None)


def test_falco_and_falcosidekick_tell_the_same_event():
    intake = intake_of(InstantJournal())
    first, second = take(intake, body(FALCO)), take(intake, body(SIDEKICK))
    assert (first.duplicates, second.duplicates) == (0, 1)
    assert second.runs == first.runs


def test_an_event_without_a_time_is_never_a_duplicate():
    intake = intake_of(InstantJournal())
    untimed = {"rule": FALCO["rule"]}
    assert runs(intake, untimed) != runs(intake, untimed)


def test_an_event_twice_in_one_body_runs_once():
    disk = InstantJournal()
    taken = take(intake_of(disk), body(FALCO, FALCO))
    assert (taken.accepted, taken.duplicates, len(disk.runs)) == (2, 1, 1)


def test_a_duplicate_is_told_for_each_playbook():
    disk = InstantJournal()
    first = runs(intake_of(disk), FALCO)
    added = PLAYBOOK.replace("mark-shell", "another")
    taken = take(intake_of(disk, PLAYBOOK, added), body(FALCO))
    assert taken.duplicates == 0  # the added playbook has not seen it
    assert set(first) < set(taken.runs)
    assert len(disk.runs) == 2


def test_a_duplicate_is_known_after_a_restart(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    taken = take(intake_of(journal), body(FALCO))
    taken.written.result(10)
    journal.close()
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    again = take(intake_of(journal), body(FALCO))
    again.written.result(10)
    assert (again.duplicates, again.runs) == (1, taken.runs)
    assert journal.counts()["waiting"] == 1
    journal.close()


def test_a_throttle_holds_over_a_restart(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    take(intake_of(journal, ONCE), body(alert(1))).written.result(10)
    journal.close()
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    assert take(intake_of(journal, ONCE), body(alert(2))).runs == []
    journal.close()


def test_a_duplicate_of_what_is_still_being_written_waits_for_it():
    disk = ManualJournal()
    intake = intake_of(disk)
    first, again = take(intake, body(FALCO)), take(intake, body(FALCO))
    assert again.runs == first.runs
    assert not again.written.done()
    disk.write()
    assert again.written.result(0) is None


def test_a_duplicate_of_what_is_not_written_fails_with_it():
    disk = ManualJournal()
    intake = intake_of(disk)
    _, again = take(intake, body(FALCO)), take(intake, body(FALCO))
    disk.fail()
    with pytest.raises(JournalError):
        again.written.result(0)


def test_bodies_start_in_their_order_and_what_one_holds_by_playbook_name():
    disk = ManualJournal()
    of = {"a": "['2', '3']", "z": "['1', '3']"}
    texts = [
        PLAYBOOK.replace("mark-shell", name).replace("[Terminal shell in container]", rules)
        for name, rules in of.items()
    ]
    sent = [body(alert(1, rule="1"), alert(2, rule="2")), body(alert(3, rule="3"))]
    taken, _ = take_together(intake_of(disk, *texts), [body(alert(0, rule="1")), *sent])
    ((accepted, _),) = disk.waiting
    started = [(run.event.rule, run.playbook.name) for run in accepted.runs]
    assert started == [("1", "z"), ("2", "a"), ("1", "z"), ("3", "a"), ("3", "z")]
    named = {run.id: run.playbook.name for run in accepted.runs}
    assert [named[run] for run in taken[1].runs] == ["z", "a"]  # told in the order of the events


class Picky(InstantJournal):
    """One that fails whatever has an event of a rule among it."""

    def accept(self, accepted, now):
        self.closed = any(run.event.rule == "bad" for run in accepted.runs)
        return super().accept(accepted, now)


ANY_RULE = PLAYBOOK.replace("{rules: [Terminal shell in container]}", "{rules: ['*']}")


def test_bodies_that_come_together_are_written_as_one():
    disk = ManualJournal()
    taken, written = take_together(intake_of(disk), [body(alert(1)), body(alert(2), alert(3))])
    ((accepted, _),) = disk.waiting
    assert [run.id for run in accepted.runs] == taken[0].runs + taken[1].runs
    disk.write()
    assert written.done()
    assert [one.error for one in taken] == [None, None]


def test_a_body_that_cannot_be_written_costs_no_other_theirs():
    disk = Picky()
    intake = intake_of(disk, ANY_RULE)
    taken, written = take_together(
        intake, [body(alert(1)), body(alert(2, rule="bad")), body(alert(3))]
    )
    assert written.done()
    assert [type(one.error) for one in taken] == [type(None), JournalError, type(None)]
    assert disk.runs == taken[0].runs + taken[2].runs
    assert take(intake, body(alert(1))).duplicates == 1


def test_a_repeated_body_fails_with_the_first_of_its_group():
    bad = body(alert(2, rule="bad"))
    taken, written = take_together(intake_of(Picky(), ANY_RULE), [body(alert(1)), bad, bad])
    assert written.done()
    assert [one.error is not None for one in taken] == [False, True, True]


def test_what_is_no_event_costs_no_other_theirs():
    disk = InstantJournal()
    taken, _ = take_together(intake_of(disk), [b"{", body(FALCO), body(*map(alert, range(1001)))])
    assert [type(one.error) for one in taken] == [EventError, type(None), TooManyEventsError]
    assert disk.runs == taken[1].runs


def test_a_bug_costs_the_body_alone_in_which_it_shows(monkeypatch):
    def parse(value, **of):
        if value["rule"] == "bad":
            raise ZeroDivisionError
        return event.parse_event(value, **of)

    monkeypatch.setattr("engine.intake.body.parse_event", parse)
    disk = InstantJournal()
    taken, _ = take_together(intake_of(disk), [body(alert(rule="bad")), body(FALCO)])
    assert [type(one.error) for one in taken] == [ZeroDivisionError, type(None)]
    assert disk.runs == taken[1].runs


def test_what_was_not_written_is_new_when_it_comes_again():
    disk = ManualJournal()
    intake = intake_of(disk)
    take(intake, body(FALCO))
    disk.fail()
    again = take(intake, body(FALCO))
    disk.write()
    assert (again.duplicates, again.written.result(0)) == (0, None)
    assert disk.runs == again.runs


def test_a_write_that_fails_at_once_is_new_when_it_comes_again():
    disk = ManualJournal()
    disk.closed = True
    intake = intake_of(disk)
    with pytest.raises(JournalError):
        take(intake, body(FALCO)).written.result(0)
    disk.closed = False
    assert take(intake, body(FALCO)).duplicates == 0


def test_what_was_not_written_has_its_throttle_slot_back():
    disk = ManualJournal()
    intake = intake_of(disk, ONCE)
    assert runs(intake, alert(1))
    disk.fail()
    assert runs(intake, alert(2))
    disk.write()
    assert runs(intake, alert(3)) == []


def test_what_was_not_written_was_not_counted():
    disk = ManualJournal()
    intake = intake_of(disk, THIRD)
    for _ in range(4):
        assert runs(intake, alert(1)) == []
        disk.fail()
    assert [bool(runs(intake, alert(number))) for number in (1, 2, 3)] == [False, False, True]
    disk.write()
    assert len(disk.runs) == 1


def test_a_failed_write_takes_nothing_from_those_that_came_after_it():
    disk = ManualJournal()
    intake = intake_of(disk, THIRD)
    take(intake, body(alert(1)))
    lost = disk.waiting.pop()
    take(intake, body(alert(2)))
    disk.write()
    lost[1].set_exception(JournalError("disk full"))
    assert runs(intake, alert(3))  # counted with the first, which was seen before it was lost


def test_a_journal_that_cannot_be_read_leaves_nothing_behind_in_memory():
    disk = InstantJournal()
    intake = intake_of(disk, ONCE, PLAYBOOK.replace("mark-shell", "another"))
    disk.broken = True
    with pytest.raises(JournalError):
        take(intake, body(FALCO))
    disk.broken = False
    assert len(runs(intake, FALCO)) == len(disk.runs) == 2


def test_a_run_that_came_to_nothing_gives_its_slot_back_on_disk_too():
    disk = ManualJournal()
    intake = intake_of(disk, ONCE)
    take(intake, body(alert(1)))
    run = disk.waiting[0][0].runs[0]
    disk.write()
    intake.release_throttle_slot(run.id)
    assert disk.windows == {}
    assert runs(intake, alert(2))


def test_a_slot_given_back_while_the_disk_fails_is_written_with_the_next_event():
    disk = ManualJournal()
    intake = intake_of(disk, ONCE)
    take(intake, body(alert(1)))
    run = disk.waiting[0][0].runs[0]
    disk.write()
    disk.broken = True
    intake.release_throttle_slot(run.id)
    disk.broken = False
    take(intake, body(alert(2, hostname="w", output_fields={"k8s.pod.name": "other"})))
    assert len(disk.windows) == 1
    disk.write()
    assert len(disk.windows) == 1
    assert "other" in next(iter(disk.windows))


def test_a_slot_is_given_back_after_a_restart_too():
    disk = ManualJournal()
    take(intake_of(disk, ONCE), body(alert(1)))
    run = disk.waiting[0][0].runs[0]
    disk.write()
    intake = intake_of(disk, ONCE)
    intake.release_throttle_slot(run.id)
    assert runs(intake, alert(2))


def test_the_throttles_clock_is_the_receipt_where_the_events_time_is_far_off():
    disk = InstantJournal()
    old = {"time": "2020-01-01T00:00:00Z"}
    assert runs(intake_of(disk, ONCE), alert(**old))
    assert runs(intake_of(disk, ONCE, now=NOW + 599), alert(1, **old, hostname="w")) == []
    assert runs(intake_of(disk, ONCE, now=NOW + 600), alert(2, **old, hostname="v"))


@pytest.mark.parametrize("sent", [b"", b" \n", b"[]", b"{}", b"null", b"7", b'"rule"', b"[[]]"])
def test_what_holds_no_event_is_refused_with_a_sentence(sent):
    with pytest.raises(EventError) as caught:
        take(intake_of(ManualJournal()), sent)
    assert str(caught.value)
    assert caught.value.hint


def test_a_thousand_events_are_taken_and_one_more_is_too_many():
    intake = intake_of(InstantJournal())
    assert take(intake, body(*map(alert, range(1000)))).accepted == 1000
    with pytest.raises(TooManyEventsError):
        take(intake, body(*map(alert, range(1001))))


def test_a_refused_body_plans_nothing_of_itself():
    disk = InstantJournal()
    intake = intake_of(disk)
    with pytest.raises(TooManyEventsError):
        take(intake, body(*map(alert, range(1001))))
    assert disk.runs == []
    assert take(intake, body(alert(0))).duplicates == 0


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_sent_is_taken_or_refused_as_no_event(sent):
    with contextlib.suppress(EventError, TooManyEventsError):
        take(intake_of(InstantJournal()), sent)


@given(st.dictionaries(st.text(), json_values), json_values)
def test_an_event_of_whatever_fields_is_accepted_and_known_again(fields, other):
    intake = intake_of(InstantJournal())
    sent = body(FALCO | {"output_fields": fields, "other": other})
    assert take(intake, sent).runs == take(intake, sent).runs
