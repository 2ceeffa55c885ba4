"""From bodies to runs on disk: duplicates, throttles, batches, and the rollback after a failed write."""

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
from tests.support.engine import PATIENCE
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
    """Submit alerts as one body, and return the ids of its runs."""
    return take(intake, body(*alerts)).runs


def test_a_run_is_written_before_anything_is_answered():
    disk = ManualJournal()
    taken = take(intake_of(disk), body(FALCO))
    assert not taken.written.done()
    disk.write()
    assert taken.written.done()
    assert disk.runs == taken.runs


def test_an_event_that_matches_no_playbook_waits_for_no_write():
    taken = take(intake_of(ManualJournal()), body(alert(rule="Another rule")))
    assert (taken.accepted, taken.runs, taken.written) == (1, [], None)


def test_an_event_from_falco_and_from_falcosidekick_is_the_same_event():
    intake = intake_of(InstantJournal())
    first, second = take(intake, body(FALCO)), take(intake, body(SIDEKICK))
    assert (first.duplicates, second.duplicates) == (0, 1)
    assert second.runs == first.runs


def test_an_event_without_a_time_is_never_a_duplicate():
    intake = intake_of(InstantJournal())
    untimed = {"rule": FALCO["rule"]}
    assert runs(intake, untimed) != runs(intake, untimed)


def test_an_event_that_is_twice_in_one_body_starts_one_run():
    disk = InstantJournal()
    taken = take(intake_of(disk), body(FALCO, FALCO))
    assert (taken.accepted, taken.duplicates, len(disk.runs)) == (2, 1, 1)


def test_an_event_is_a_duplicate_only_for_playbooks_that_planned_it():
    disk = InstantJournal()
    first = runs(intake_of(disk), FALCO)
    added = PLAYBOOK.replace("mark-shell", "another")
    taken = take(intake_of(disk, PLAYBOOK, added), body(FALCO))
    assert taken.duplicates == 0  # not planned by the added playbook before
    assert set(first) < set(taken.runs)
    assert len(disk.runs) == 2


def test_a_duplicate_is_recognized_after_a_restart(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    taken = take(intake_of(journal), body(FALCO))
    taken.written.result(PATIENCE)
    journal.close()
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    again = take(intake_of(journal), body(FALCO))
    again.written.result(PATIENCE)
    assert (again.duplicates, again.runs) == (1, taken.runs)
    assert journal.counts()["waiting"] == 1
    journal.close()


def test_a_throttle_window_survives_a_restart(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    take(intake_of(journal, ONCE), body(alert(1))).written.result(PATIENCE)
    journal.close()
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    assert take(intake_of(journal, ONCE), body(alert(2))).runs == []
    journal.close()


def test_a_duplicate_waits_for_the_write_of_the_first_event():
    disk = ManualJournal()
    intake = intake_of(disk)
    first, again = take(intake, body(FALCO)), take(intake, body(FALCO))
    assert again.runs == first.runs
    assert not again.written.done()
    disk.write()
    assert again.written.result(0) is None


def test_a_duplicate_fails_if_the_write_of_the_first_event_fails():
    disk = ManualJournal()
    intake = intake_of(disk)
    _, again = take(intake, body(FALCO)), take(intake, body(FALCO))
    disk.fail()
    with pytest.raises(JournalError):
        again.written.result(0)


class ThrottlingJournal(ManualJournal):
    """A shared journal that throttles every run."""

    shared = True

    def write(self):
        for accepted, future in self._taken():
            future.set_result({run.id: "throttle" for run in accepted.runs})


def test_a_duplicate_of_a_run_that_the_journal_throttles_names_no_run():
    disk = ThrottlingJournal()
    intake = intake_of(disk, ONCE)
    first, again = take(intake, body(FALCO)), take(intake, body(FALCO))
    disk.write()
    assert (first.written.result(0), again.written.result(0)) == (None, None)
    assert (first.runs, again.runs) == ([], [])


def test_runs_start_in_the_order_of_bodies_and_within_a_body_of_playbook_names():
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
    assert [named[run] for run in taken[1].runs] == ["z", "a"]  # in the order of the events


class RejectingJournal(InstantJournal):
    """A journal that refuses each transaction with an event of the rule ``bad``."""

    def accept(self, accepted, now):
        self.closed = any(run.event.rule == "bad" for run in accepted.runs)
        return super().accept(accepted, now)


ANY_RULE = PLAYBOOK.replace("{rules: [Terminal shell in container]}", "{rules: ['*']}")


def test_bodies_that_arrive_together_are_written_in_one_transaction():
    disk = ManualJournal()
    taken, written = take_together(intake_of(disk), [body(alert(1)), body(alert(2), alert(3))])
    ((accepted, _),) = disk.waiting
    assert [run.id for run in accepted.runs] == taken[0].runs + taken[1].runs
    disk.write()
    assert written.done()
    assert [one.error for one in taken] == [None, None]


def test_a_body_that_cannot_be_written_does_not_affect_the_others():
    disk = RejectingJournal()
    intake = intake_of(disk, ANY_RULE)
    taken, written = take_together(
        intake, [body(alert(1)), body(alert(2, rule="bad")), body(alert(3))]
    )
    assert written.done()
    assert [type(one.error) for one in taken] == [type(None), JournalError, type(None)]
    assert disk.runs == taken[0].runs + taken[2].runs
    assert take(intake, body(alert(1))).duplicates == 1


def test_a_repeated_body_fails_with_the_first_one_of_its_batch():
    bad = body(alert(2, rule="bad"))
    taken, written = take_together(
        intake_of(RejectingJournal(), ANY_RULE), [body(alert(1)), bad, bad]
    )
    assert written.done()
    assert [one.error is not None for one in taken] == [False, True, True]


def test_a_body_that_is_not_an_event_does_not_affect_the_others():
    disk = InstantJournal()
    taken, _ = take_together(intake_of(disk), [b"{", body(FALCO), body(*map(alert, range(1001)))])
    assert [type(one.error) for one in taken] == [EventError, type(None), TooManyEventsError]
    assert disk.runs == taken[1].runs


def test_a_bug_affects_only_the_body_that_triggers_it(monkeypatch):
    def parse(value, **of):
        if value["rule"] == "bad":
            raise ZeroDivisionError
        return event.parse_event(value, **of)

    monkeypatch.setattr("engine.intake.body.parse_event", parse)
    disk = InstantJournal()
    taken, _ = take_together(intake_of(disk), [body(alert(rule="bad")), body(FALCO)])
    assert [type(one.error) for one in taken] == [ZeroDivisionError, type(None)]
    assert disk.runs == taken[1].runs


def test_an_event_is_not_a_duplicate_if_its_first_write_failed():
    disk = ManualJournal()
    intake = intake_of(disk)
    take(intake, body(FALCO))
    disk.fail()
    again = take(intake, body(FALCO))
    disk.write()
    assert (again.duplicates, again.written.result(0)) == (0, None)
    assert disk.runs == again.runs


def test_an_event_is_not_a_duplicate_if_its_first_write_failed_at_once():
    disk = ManualJournal()
    disk.closed = True
    intake = intake_of(disk)
    with pytest.raises(JournalError):
        take(intake, body(FALCO)).written.result(0)
    disk.closed = False
    assert take(intake, body(FALCO)).duplicates == 0


def test_a_failed_write_returns_the_throttle_slot():
    disk = ManualJournal()
    intake = intake_of(disk, ONCE)
    assert runs(intake, alert(1))
    disk.fail()
    assert runs(intake, alert(2))
    disk.write()
    assert runs(intake, alert(3)) == []


def test_a_failed_write_is_not_counted_by_the_throttle():
    disk = ManualJournal()
    intake = intake_of(disk, THIRD)
    for _ in range(4):
        assert runs(intake, alert(1)) == []
        disk.fail()
    assert [bool(runs(intake, alert(number))) for number in (1, 2, 3)] == [False, False, True]
    disk.write()
    assert len(disk.runs) == 1


def test_a_failed_write_does_not_roll_back_later_changes_of_a_window():
    disk = ManualJournal()
    intake = intake_of(disk, THIRD)
    take(intake, body(alert(1)))
    lost = disk.waiting.pop()
    take(intake, body(alert(2)))
    disk.write()
    lost[1].set_exception(JournalError("disk full"))
    assert runs(intake, alert(3))  # the first event was counted before its write failed


def test_a_plan_that_fails_because_the_journal_cannot_be_read_leaves_no_state():
    disk = InstantJournal()
    intake = intake_of(disk, ONCE, PLAYBOOK.replace("mark-shell", "another"))
    disk.broken = True
    with pytest.raises(JournalError):
        take(intake, body(FALCO))
    disk.broken = False
    assert len(runs(intake, FALCO)) == len(disk.runs) == 2


def test_a_run_that_did_nothing_returns_its_slot_in_memory_and_on_disk():
    disk = ManualJournal()
    intake = intake_of(disk, ONCE)
    take(intake, body(alert(1)))
    run = disk.waiting[0][0].runs[0]
    disk.write()
    intake.release_throttle_slot(run.id)
    assert disk.windows == {}
    assert runs(intake, alert(2))


def test_a_slot_that_is_released_while_the_disk_fails_is_written_with_the_next_event():
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


def test_a_slot_can_be_released_after_a_restart():
    disk = ManualJournal()
    take(intake_of(disk, ONCE), body(alert(1)))
    run = disk.waiting[0][0].runs[0]
    disk.write()
    intake = intake_of(disk, ONCE)
    intake.release_throttle_slot(run.id)
    assert runs(intake, alert(2))


def test_a_throttle_uses_the_time_of_receipt_if_the_events_time_is_far_off():
    disk = InstantJournal()
    old = {"time": "2020-01-01T00:00:00Z"}
    assert runs(intake_of(disk, ONCE), alert(**old))
    assert runs(intake_of(disk, ONCE, now=NOW + 599), alert(1, **old, hostname="w")) == []
    assert runs(intake_of(disk, ONCE, now=NOW + 600), alert(2, **old, hostname="v"))


@pytest.mark.parametrize("sent", [b"", b" \n", b"[]", b"{}", b"null", b"7", b'"rule"', b"[[]]"])
def test_a_body_without_an_event_is_refused_with_a_message_and_a_hint(sent):
    with pytest.raises(EventError) as caught:
        take(intake_of(ManualJournal()), sent)
    assert str(caught.value)
    assert caught.value.hint


def test_a_body_has_at_most_1000_events():
    intake = intake_of(InstantJournal())
    assert take(intake, body(*map(alert, range(1000)))).accepted == 1000
    with pytest.raises(TooManyEventsError):
        take(intake, body(*map(alert, range(1001))))


def test_a_refused_body_plans_none_of_its_events():
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
def test_every_body_is_accepted_or_refused_as_not_an_event(sent):
    with contextlib.suppress(EventError, TooManyEventsError):
        take(intake_of(InstantJournal()), sent)


@given(st.dictionaries(st.text(), json_values), json_values)
def test_an_event_with_any_fields_is_accepted_and_recognized_again(fields, other):
    intake = intake_of(InstantJournal())
    sent = body(FALCO | {"output_fields": fields, "other": other})
    assert take(intake, sent).runs == take(intake, sent).runs
