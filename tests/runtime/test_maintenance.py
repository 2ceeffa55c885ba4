"""Keeping house: notes reach the journal, what is old goes, a nearly full journal sheds the least severe."""

from __future__ import annotations

import json

import pytest
from engine.intake.deferred_records import DeferredRecords
from engine.intake.event_recorder import EventRecorder
from engine.intake.redaction import RedactError, Redaction
from engine.journal.protocol import DeadLetter, DroppedRuns
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.errors import JournalError
from engine.preview.event_log import EventLog, open_event_file
from engine.runtime.maintenance import IDENTITIES, Maintenance
from engine.telemetry.fault_log import FaultLog
from tests.support.intake import FALCO, NOW, ONCE, PLAYBOOK, InstantJournal, alert, intake_of, take
from tests.support.playbooks import playbook_from_snapshot


class Kept:
    """A journal's upkeep: what was asked of it; full and broken as the test says."""

    def __init__(self):
        self.noted, self.forgot, self.stripped = [], [], []
        self.full, self.broken = 0.1, False

    def save_dropped(self, dead, drops):
        if self.broken:
            raise JournalError("disk full")
        self.noted.append((list(dead), list(drops)))

    def delete_runs(self, before):
        self.forgot.append(before)
        return 0

    def strip_runs(self, before):
        self.stripped.append(before)
        return 0

    def write_error(self):
        return "disk full" if self.broken else None

    def fill_ratio(self):
        return self.full


def upkeep(retention=30 * 86_400.0, notes=None):
    journal = Kept()
    return journal, Maintenance(
        journal, notes or DeferredRecords(), retention, lambda: NOW, FaultLog("journal")
    )


def test_notes_are_written_and_none_twice():
    notes = DeferredRecords()
    journal, house = upkeep(notes=notes)
    notes.count_dropped_run("p", "throttle", "k", NOW)
    notes.count_dropped_run("p", "throttle", "k", NOW + 1)
    notes.add_dead_letter(DeadLetter(NOW, "http", "no JSON", b"x"))
    house.round()
    house.round()
    drops = [DroppedRuns("p", "throttle", "k", 2, NOW, NOW + 1)]
    assert journal.noted == [([DeadLetter(NOW, "http", "no JSON", b"x")], drops)]


def test_what_could_not_be_written_is_written_later():
    notes = DeferredRecords()
    journal, house = upkeep(notes=notes)
    notes.count_dropped_run("p", "throttle", "k", NOW)
    journal.broken = True
    house.round()
    notes.count_dropped_run("p", "throttle", "k", NOW + 1)
    journal.broken = False
    house.round()
    assert journal.noted == [([], [DroppedRuns("p", "throttle", "k", 2, NOW, NOW + 1)])]


def test_runs_are_kept_as_long_as_told_and_their_identities_for_a_week():
    journal, house = upkeep(retention=2 * 86_400.0)
    house.round()
    assert journal.forgot == [NOW - IDENTITIES]
    assert journal.stripped == [NOW - 2 * 86_400.0]
    journal, house = upkeep(retention=30 * 86_400.0)
    house.round()
    assert (journal.forgot, journal.stripped) == ([NOW - 30 * 86_400.0], [])


@pytest.mark.parametrize(("fill", "least"), [(0.89, None), (0.9, 5), (0.95, 4), (0.99, 2)])
def test_the_fuller_the_journal_the_more_severe_an_event_must_be(fill, least):
    journal, house = upkeep()
    journal.full = fill
    house.round()
    assert house.least() == least
    assert bool(journal.stripped) == (fill >= 0.9)  # bodies go before their time


def after(rounds, house):
    for _ in range(rounds):
        house.round()
    return house.least()


def test_a_journal_that_fills_is_looked_at_more_often_the_fuller_it_is():
    journal, house = upkeep()
    house.round()
    journal.full = 0.6
    assert after(10, house) is None
    journal.full = 0.96
    assert after(1, house) == 4
    journal.full = 0.4
    assert after(1, house) is None


def test_a_nearly_full_journal_is_pruned_more_often():
    journal, house = upkeep()
    after(60, house)
    assert len(journal.forgot) == 1
    journal.full = 0.95
    after(60, house)
    assert 5 <= len(journal.forgot) <= 15


def test_a_nearly_full_journal_takes_what_is_severe_and_counts_the_rest():
    notes = DeferredRecords()
    intake = intake_of(InstantJournal(), min_priority=lambda: 4, deferred_records=notes)
    assert take(intake, json.dumps(FALCO | {"priority": "Critical"}).encode()).runs
    taken = take(intake, json.dumps(FALCO | {"priority": "Notice"}).encode())
    assert (taken.accepted, taken.runs, taken.results) == (1, [], {"shed": 1})
    assert intake.recent.all()[-1].result == "shed"
    assert take(intake, json.dumps(FALCO | {"priority": None}).encode()).runs == []
    (drop,) = notes.drain()[1]
    assert (drop.playbook, drop.reason, drop.count) == ("mark-shell", "shed: journal full", 2)


def test_many_notes_are_written_in_slices_and_only_those_that_failed_are_taken_again():
    notes = DeferredRecords()
    for number in range(2_500):
        notes.count_dropped_run("p", "throttle", str(number), NOW)
    journal, house = upkeep(notes=notes)

    def note(dead, drops):
        journal.noted.append((dead, drops))
        journal.broken = len(journal.noted) == 2
        if journal.broken:
            raise JournalError("disk full")

    journal.save_dropped = note
    house.round()
    assert [len(drops) for _, drops in journal.noted] == [1_000, 1_000]
    house.round()
    assert [len(drops) for _, drops in journal.noted[2:]] == [1_000, 500]
    assert (
        len({drop.key for _, drops in [journal.noted[0], *journal.noted[2:]] for drop in drops})
        == 2_500
    )


def test_what_a_throttle_drops_is_counted_by_its_window():
    notes = DeferredRecords()
    intake = intake_of(InstantJournal(), ONCE, deferred_records=notes)
    for number in range(4):
        take(intake, json.dumps(alert(number)).encode())
    (drop,) = notes.drain()[1]
    assert (drop.playbook, drop.reason, drop.count) == ("mark-shell", "throttle", 3)
    assert "nginx" in drop.key


def test_notes_are_bounded_however_many_keys_and_bodies_come():
    notes = DeferredRecords()
    for number in range(30_000):
        notes.count_dropped_run("p", "throttle", str(number), NOW)
        notes.add_dead_letter(DeadLetter(NOW, "http", "e", b""))
    dead, drops = notes.drain()
    assert (len(dead), len(drops)) == (1_000, 10_000)


def test_what_is_no_event_is_buried_with_its_beginning():
    notes = DeferredRecords()
    intake = intake_of(InstantJournal(), deferred_records=notes)
    with pytest.raises(ValueError, match="not JSON"):
        take(intake, b"x" * 100_000)
    take(intake, b"{}\n" + json.dumps(FALCO).encode())
    first, second = notes.drain()[0]
    assert (first.source, len(first.body)) == ("http", 16_384)
    assert (second.body, "rule" in second.error) == (b"{}", True)


def test_the_record_is_what_replay_reads_and_its_file_is_bounded(tmp_path):
    record = EventRecorder(tmp_path / "events.ndjson", max_bytes=6_000)
    intake = intake_of(InstantJournal(), deferred_records=DeferredRecords(record))
    for number in range(20):
        take(intake, json.dumps(alert(number, rule="matches nothing")).encode())
        record.flush()
    old, new = tmp_path / "events.ndjson.1", tmp_path / "events.ndjson"
    assert old.stat().st_size + new.stat().st_size <= 12_000
    assert oct(new.stat().st_mode)[-3:] == "600"
    with new.open("rb") as file, open_event_file(file) as source:
        recording = EventLog(source)
        events = [event for _, event in recording]
    assert recording.unreadable == 0
    assert events[-1].time_ns % 1_000_000_000 == 19


def test_a_record_that_cannot_be_written_stops_nothing(tmp_path):
    record = EventRecorder(tmp_path / "none" / "events.ndjson")
    intake = intake_of(InstantJournal(), deferred_records=DeferredRecords(record))
    assert take(intake, json.dumps(FALCO).encode()).runs
    record.flush()
    (tmp_path / "none").mkdir()
    take(intake, json.dumps(alert(1)).encode())
    record.flush()
    assert len((tmp_path / "none/events.ndjson").read_text().splitlines()) == 1


SECRET = "canary-7fa3"
TOLD = FALCO | {
    "output": f"ran curl -H token={SECRET}",
    "output_fields": FALCO["output_fields"]
    | {"proc.cmdline": f"curl -H token={SECRET}", "x": [SECRET]},
}
REDACT = ["proc.cmdline=token=\\S+", "x=.*"]


def test_what_is_redacted_is_matched_and_then_kept_and_shown_nowhere(tmp_path):
    on = '  conditions: [{field: proc.cmdline, regex: "token=canary"}]\n  match:'
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    record = EventRecorder(tmp_path / "events")
    notes = DeferredRecords(record)
    try:
        intake = intake_of(
            journal,
            PLAYBOOK.replace("  match:", on),
            redaction=Redaction(REDACT),
            deferred_records=notes,
        )
        taken = take(intake, json.dumps(TOLD).encode())
        taken.written.result(10)
        run = journal.find(taken.runs[0]).run
        assert run.event.fields["proc.cmdline"] == "curl -H ***"
        assert SECRET not in json.dumps(run.event.alert)
        assert take(intake, json.dumps(TOLD).encode()).duplicates == 1  # its identity is as it came
        take(intake, json.dumps(TOLD | {"rule": "another"}).encode())
        with pytest.raises(ValueError, match="not JSON"):
            take(intake, f"{{token={SECRET} ".encode())
        record.flush()
        journal.save_dropped(*notes.drain())
        told = [*intake.recent.all(), *journal.dead_letters(9), (tmp_path / "events").read_text()]
        assert SECRET not in repr(told)
    finally:
        journal.close()
    assert SECRET.encode() not in (tmp_path / "j.db").read_bytes()


@pytest.mark.parametrize("rule", ["", "x", "=y", "x=", "x=("])
def test_a_rule_that_cannot_be_is_refused(rule):
    with pytest.raises(RedactError):
        Redaction([rule])
