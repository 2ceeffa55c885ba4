"""Maintenance: deferred records are written, old runs deleted, and a full journal rejects minor events."""

from __future__ import annotations

import json

import pytest
from engine.intake.deferred_records import DeferredRecords
from engine.intake.event_recorder import EventRecorder
from engine.intake.redaction import RedactError, Redaction
from engine.journal.records import DeadLetter, DroppedRuns
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.errors import JournalError
from engine.preview.event_log import EventLog, open_event_file
from engine.runtime.maintenance import IDENTITY_RETENTION, Maintenance
from engine.telemetry.fault_log import FaultLog
from tests.support.engine import PATIENCE
from tests.support.intake import FALCO, NOW, ONCE, PLAYBOOK, InstantJournal, alert, intake_of, take
from tests.support.playbooks import playbook_from_snapshot


class RecordingJournal:
    """A journal that records its maintenance calls. full: fill ratio. broken: whether writes fail."""

    def __init__(self):
        self.saved, self.deleted, self.stripped = [], [], []
        self.full, self.broken = 0.1, False

    def save_dropped(self, dead, drops):
        if self.broken:
            raise JournalError("disk full")
        self.saved.append((list(dead), list(drops)))

    def delete_runs(self, before):
        self.deleted.append(before)
        return 0

    def strip_runs(self, before):
        self.stripped.append(before)
        return 0

    def write_error(self):
        return "disk full" if self.broken else None

    def fill_ratio(self):
        return self.full


def new_maintenance(retention=30 * 86_400.0, records=None):
    journal = RecordingJournal()
    return journal, Maintenance(
        journal, records or DeferredRecords(), retention, lambda: NOW, FaultLog("journal")
    )


def test_deferred_records_are_written_once():
    records = DeferredRecords()
    journal, maintenance = new_maintenance(records=records)
    records.count_dropped_run("p", "throttle", "k", NOW)
    records.count_dropped_run("p", "throttle", "k", NOW + 1)
    records.add_dead_letter(DeadLetter(NOW, "http", "no JSON", b"x"))
    maintenance.run_round()
    maintenance.run_round()
    drops = [DroppedRuns("p", "throttle", "k", 2, NOW, NOW + 1)]
    assert journal.saved == [([DeadLetter(NOW, "http", "no JSON", b"x")], drops)]


def test_records_of_a_failed_write_are_written_later():
    records = DeferredRecords()
    journal, maintenance = new_maintenance(records=records)
    records.count_dropped_run("p", "throttle", "k", NOW)
    journal.broken = True
    maintenance.run_round()
    records.count_dropped_run("p", "throttle", "k", NOW + 1)
    journal.broken = False
    maintenance.run_round()
    assert journal.saved == [([], [DroppedRuns("p", "throttle", "k", 2, NOW, NOW + 1)])]


def test_a_task_that_fails_does_not_stop_the_others_and_is_logged_once(capsys):
    records, done = DeferredRecords(), []
    journal, maintenance = new_maintenance(records=records)
    records.count_dropped_run("p", "throttle", "k", NOW)

    def fail():
        raise JournalError("no such table: pauses")

    maintenance.add_task("end pauses", fail)
    maintenance.add_task("read pauses", lambda: done.append("read"))
    journal.broken = True
    after(3, maintenance)
    assert (done, len(journal.deleted)) == (["read"] * 3, 1)
    said = capsys.readouterr().out
    assert said.count("maintenance_failed") == 2
    assert "end pauses" in said
    assert "save dropped" in said


def test_runs_are_kept_for_the_retention_and_their_ids_for_a_week():
    journal, maintenance = new_maintenance(retention=2 * 86_400.0)
    maintenance.run_round()
    assert journal.deleted == [NOW - IDENTITY_RETENTION]
    assert journal.stripped == [NOW - 2 * 86_400.0]
    journal, maintenance = new_maintenance(retention=30 * 86_400.0)
    maintenance.run_round()
    assert (journal.deleted, journal.stripped) == ([NOW - 30 * 86_400.0], [])


@pytest.mark.parametrize(("fill", "min_priority"), [(0.89, None), (0.9, 5), (0.95, 4), (0.99, 2)])
def test_a_fuller_journal_accepts_only_more_severe_events(fill, min_priority):
    journal, maintenance = new_maintenance()
    journal.full = fill
    maintenance.run_round()
    assert maintenance.min_priority() == min_priority
    assert bool(journal.stripped) == (fill >= 0.9)  # content is deleted before its retention ends


def after(rounds, maintenance):
    for _ in range(rounds):
        maintenance.run_round()
    return maintenance.min_priority()


def test_a_fuller_journal_is_checked_more_often():
    journal, maintenance = new_maintenance()
    maintenance.run_round()
    journal.full = 0.6
    assert after(10, maintenance) is None
    journal.full = 0.96
    assert after(1, maintenance) == 4
    journal.full = 0.4
    assert after(1, maintenance) is None


def test_a_nearly_full_journal_is_pruned_more_often():
    journal, maintenance = new_maintenance()
    after(60, maintenance)
    assert len(journal.deleted) == 1
    journal.full = 0.95
    after(60, maintenance)
    assert 5 <= len(journal.deleted) <= 15


def test_a_nearly_full_journal_accepts_severe_events_and_counts_the_others():
    records = DeferredRecords()
    intake = intake_of(InstantJournal(), min_priority=lambda: 4, deferred_records=records)
    assert take(intake, json.dumps(FALCO | {"priority": "Critical"}).encode()).runs
    taken = take(intake, json.dumps(FALCO | {"priority": "Notice"}).encode())
    assert (taken.accepted, taken.runs, taken.results) == (1, [], {"shed": 1})
    assert intake.recent.all()[-1].result == "shed"
    assert take(intake, json.dumps(FALCO | {"priority": None}).encode()).runs == []
    (drop,) = records.drain()[1]
    assert (drop.playbook, drop.reason, drop.count) == ("mark-shell", "shed: journal full", 2)


def test_many_records_are_written_in_slices_and_only_failed_slices_again():
    records = DeferredRecords()
    for number in range(2_500):
        records.count_dropped_run("p", "throttle", str(number), NOW)
    journal, maintenance = new_maintenance(records=records)

    def save(dead, drops):
        journal.saved.append((dead, drops))
        journal.broken = len(journal.saved) == 2
        if journal.broken:
            raise JournalError("disk full")

    journal.save_dropped = save
    maintenance.run_round()
    assert [len(drops) for _, drops in journal.saved] == [1_000, 1_000]
    maintenance.run_round()
    assert [len(drops) for _, drops in journal.saved[2:]] == [1_000, 500]
    assert (
        len({drop.key for _, drops in [journal.saved[0], *journal.saved[2:]] for drop in drops})
        == 2_500
    )


def test_runs_dropped_by_a_throttle_are_counted_by_window():
    records = DeferredRecords()
    intake = intake_of(InstantJournal(), ONCE, deferred_records=records)
    for number in range(4):
        take(intake, json.dumps(alert(number)).encode())
    (drop,) = records.drain()[1]
    assert (drop.playbook, drop.reason, drop.count) == ("mark-shell", "throttle", 3)
    assert "nginx" in drop.key


def test_the_number_of_deferred_records_is_limited():
    records = DeferredRecords()
    for number in range(30_000):
        records.count_dropped_run("p", "throttle", str(number), NOW)
        records.add_dead_letter(DeadLetter(NOW, "http", "e", b""))
    dead, drops = records.drain()
    assert (len(dead), len(drops)) == (1_000, 10_000)


def test_a_body_that_is_not_an_event_is_kept_as_a_truncated_dead_letter():
    records = DeferredRecords()
    intake = intake_of(InstantJournal(), deferred_records=records)
    with pytest.raises(ValueError, match="not JSON"):
        take(intake, b"x" * 100_000)
    take(intake, b"{}\n" + json.dumps(FALCO).encode())
    first, second = records.drain()[0]
    assert (first.source, len(first.body)) == ("http", 16_384)
    assert (second.body, "rule" in second.error) == (b"{}", True)


def test_replay_reads_the_recorded_events_and_the_file_size_is_limited(tmp_path):
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


def test_events_are_accepted_while_the_record_file_cannot_be_written(tmp_path):
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


def test_redacted_values_are_matched_but_never_stored_or_shown(tmp_path):
    on = '  conditions: [{field: proc.cmdline, regex: "token=canary"}]\n  match:'
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    record = EventRecorder(tmp_path / "events")
    records = DeferredRecords(record)
    try:
        intake = intake_of(
            journal,
            PLAYBOOK.replace("  match:", on),
            redaction=Redaction(REDACT),
            deferred_records=records,
        )
        taken = take(intake, json.dumps(TOLD).encode())
        taken.written.result(PATIENCE)
        run = journal.find(taken.runs[0]).run
        assert run.event.fields["proc.cmdline"] == "curl -H ***"
        assert SECRET not in json.dumps(run.event.alert)
        assert (
            take(intake, json.dumps(TOLD).encode()).duplicates == 1
        )  # the id is computed before redaction
        take(intake, json.dumps(TOLD | {"rule": "another"}).encode())
        with pytest.raises(ValueError, match="not JSON"):
            take(intake, f"{{token={SECRET} ".encode())
        record.flush()
        journal.save_dropped(*records.drain())
        told = [*intake.recent.all(), *journal.dead_letters(9), (tmp_path / "events").read_text()]
        assert SECRET not in repr(told)
    finally:
        journal.close()
    assert SECRET.encode() not in (tmp_path / "j.db").read_bytes()


@pytest.mark.parametrize("rule", ["", "x", "=y", "x=", "x=("])
def test_an_invalid_redaction_rule_is_rejected(rule):
    with pytest.raises(RedactError):
        Redaction([rule])
