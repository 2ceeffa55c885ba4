"""Runs worked off: side by side, one at a time on a target, again when due, and nothing lost."""

from __future__ import annotations

import json
import threading

import pytest
from engine.cluster.api import CallRecorder
from engine.cluster.simulated import AssumedCluster
from engine.execution import worker_pool
from engine.execution.attempt import Clients
from engine.execution.guardrails import Guard
from engine.execution.worker_pool import WorkerPool, _JournalStore
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.errors import JournalError, PermanentError, TemporaryError
from engine.outbound.api import Answer, RequestRecorder
from engine.telemetry.events import Observers
from tests.support.engine import PATIENCE
from tests.support.intake import NOW, SHELL, alert, intake_of, take
from tests.support.playbooks import playbook_from_snapshot

TELL = """
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: tell}
spec:
  match: {rules: [Terminal shell in container]}
  actions:
    - {action: http.request, with: {url: "https://ops.example.com/", body: "%playbook %k8s.pod.name"}}
"""
OTHER = TELL.replace("{name: tell}", "{name: tell-too}")


class Ops:
    """Somebody else's server: each request waits at the gate, then gets the next answer.

    inside: the bodies of the requests that are under way. seen: of all, in order.
    """

    def __init__(self):
        self.inside, self.seen, self.answers = [], [], []
        self.open = threading.Event()
        self.open.set()
        self._changed = threading.Condition()

    def request(self, method, url, headers, body):
        del method, url, headers
        with self._changed:
            self.inside.append(body)
            self.seen.append(body)
            answer = self.answers.pop(0) if self.answers else Answer(200)
            self._changed.notify_all()
        assert self.open.wait(PATIENCE)
        with self._changed:
            self.inside.remove(body)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait_for(self, *bodies):
        """Wait until just these requests are under way."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: sorted(self.inside) == sorted(bodies), PATIENCE
            ), self.inside


class Engine:
    """Workers over a journal in a file, with a clock that the test moves."""

    def __init__(self, tmp_path, *texts):
        self.journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
        self.now, self.ops, self.ends, self.over = NOW, Ops(), [], []
        self._changed = threading.Condition()
        self.intake = intake_of(self.journal, *texts or (TELL,))
        self.workers = self._workers(self.journal)

    def _workers(self, journal):
        return WorkerPool(
            journal,
            lambda claim: Clients(
                CallRecorder(AssumedCluster(claim.run.event)),
                RequestRecorder(self.ops, None),
                dry=False,
            ),
            Guard,
            Observers(self._note),
            sizes={"cluster": 2, "slow": 3},
            now=lambda: self.now,
            on_no_effect=lambda run: self.over.append(run.id),
        )

    def through(self, journal):
        """Work through another journal in front of this one."""
        self.workers = self._workers(journal)
        return self

    def _note(self, moment):
        with self._changed:
            self.ends.append(moment)
            self._changed.notify_all()

    def __enter__(self):
        self.workers.start()
        return self

    def __exit__(self, *_):
        self.ops.open.set()
        self.workers.stop()
        self.journal.close()

    def accept(self, number=0, pod="nginx"):
        """Accept an event on a pod; its runs."""
        fields = {"k8s.ns.name": "demo", "k8s.pod.name": pod}
        sent = alert(number, rule=SHELL, output_fields=fields)
        taken = take(self.intake, json.dumps(sent).encode())
        taken.written.result(PATIENCE)
        self.workers.wake()
        return taken.runs

    def wait_for(self, *became):
        """Wait until the attempts have come to just this, in order."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.ends) >= len(became), PATIENCE)
        assert [moment.became for moment in self.ends] == list(became)

    def later(self, seconds):
        self.now += seconds
        self.workers.wake()


def test_what_was_accepted_is_worked_off(tmp_path):
    with Engine(tmp_path) as engine:
        (run,) = engine.accept()
        engine.wait_for("done")
        assert engine.journal.find(run).outcome == "done"
        assert engine.ops.seen == ["tell nginx"]


def test_what_was_accepted_before_the_start_is_worked_off_too(tmp_path):
    engine = Engine(tmp_path)
    engine.accept(1, "a")
    engine.accept(2, "b")
    with engine:
        engine.wait_for("done", "done")


def test_different_targets_go_side_by_side_and_one_target_one_thing_at_a_time(tmp_path):
    with Engine(tmp_path, TELL, OTHER) as engine:
        engine.ops.open.clear()
        engine.accept(1, "a")
        engine.ops.wait_for("tell a")
        engine.accept(2, "b")  # the journal was asked again, and tell-too on a was passed over
        engine.ops.wait_for("tell a", "tell b")
        engine.ops.open.set()
        engine.wait_for("done", "done", "done", "done")
        assert sorted(engine.ops.seen) == ["tell a", "tell b", "tell-too a", "tell-too b"]
        assert engine.ops.seen.index("tell a") < engine.ops.seen.index("tell-too a")


def test_no_more_than_the_pool_holds_are_under_way(tmp_path):
    with Engine(tmp_path) as engine:
        engine.ops.open.clear()
        for number, pod in enumerate("abcde"):
            engine.accept(number, pod)
        engine.ops.wait_for("tell a", "tell b", "tell c")
        assert engine.journal.counts() == {"waiting": 2, "running": 3, "held": 0, "over": 0}
        engine.ops.open.set()
        engine.wait_for(*["done"] * 5)


def test_ends_that_wait_for_the_disk_hold_up_no_attempt_until_they_are_many(tmp_path, monkeypatch):
    with Engine(tmp_path) as engine:
        settle, written, ends = engine.journal.settle, threading.Event(), []
        changed = threading.Condition()

        def late(*given):
            with changed:
                ends.append(given)
                changed.notify_all()
            written.wait(PATIENCE)
            return settle(*given)

        monkeypatch.setattr(engine.journal, "settle", late)
        for number, pod in enumerate("abcdefgh"):
            engine.accept(number, pod)
        with changed:
            assert changed.wait_for(lambda: len(ends) == 6, PATIENCE)  # twice what may be under way
        assert engine.journal.counts()["running"] == 6
        assert len(engine.ops.seen) == 6
        written.set()
        engine.wait_for(*["done"] * 8)


def test_a_slow_pool_that_is_full_holds_up_no_cluster_step(tmp_path):
    gone = """
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: gone}
spec:
  match: {rules: [Terminal shell in container], hostnames: [lost]}
  actions: [{action: pod.label, with: {labels: {a: b}}}]
"""
    with Engine(tmp_path, TELL, gone) as engine:
        engine.ops.open.clear()
        for number, pod in enumerate("abc"):
            engine.accept(number, pod)
        engine.ops.wait_for("tell a", "tell b", "tell c")
        sent = {"rule": SHELL, "hostname": "lost", "time": "2026-03-01T10:00:00Z"}
        take(engine.intake, json.dumps(sent).encode()).written.result(PATIENCE)
        engine.workers.wake()
        engine.wait_for("skipped")
        engine.ops.open.set()
        engine.wait_for("skipped", *["done"] * 4)


def test_no_more_cluster_steps_begin_than_find_room_and_all_come_to_their_end(tmp_path):
    label = TELL.replace("http.request", "pod.label").replace(
        'url: "https://ops.example.com/", body: "%playbook %k8s.pod.name"', "labels: {a: b}"
    )
    told, gate = [], threading.Event()

    def room(under_way):
        told.append(under_way)
        return 1 - under_way

    with Engine(tmp_path, label) as engine:
        clients, engine.workers._available_slots = engine.workers._clients, room
        engine.workers._clients = lambda claim: clients(claim) if gate.wait(PATIENCE) else None
        for number, pod in enumerate("abcde"):
            engine.accept(number, pod)
        gate.set()
        engine.wait_for(*["done"] * 5)
    assert set(told) == {0, 1}


def test_a_temporary_error_is_tried_again_when_it_is_due_and_not_before(tmp_path):
    with Engine(tmp_path) as engine:
        engine.ops.answers = [TemporaryError("busy", again=60.0)]
        (run,) = engine.accept(1, "a")
        engine.wait_for("waiting")
        engine.later(59.0)
        engine.accept(2, "b")
        engine.wait_for("waiting", "done")
        assert engine.journal.find(run).due_at == NOW + 60
        engine.later(1.0)
        engine.wait_for("waiting", "done", "done")
        assert engine.journal.find(run).results[0].attempts == 2


def test_stopping_waits_for_what_is_under_way_and_starts_nothing_more(tmp_path):
    with Engine(tmp_path) as engine:
        engine.ops.open.clear()
        for number, pod in enumerate("abcd"):
            engine.accept(number, pod)
        engine.ops.wait_for("tell a", "tell b", "tell c")
        ended = []
        stopping = threading.Thread(target=lambda: ended.append(engine.workers.stop()))
        stopping.start()
        assert not ended
        engine.ops.open.set()
        stopping.join(PATIENCE)
        assert ended == [True]
        assert engine.journal.counts() == {"waiting": 1, "running": 0, "held": 0, "over": 3}


def test_stopping_waits_no_longer_than_it_is_told(tmp_path):
    with Engine(tmp_path) as engine:
        engine.ops.open.clear()
        (run,) = engine.accept()
        engine.ops.wait_for("tell nginx")
        assert engine.workers.stop(0.01) is False
        assert engine.journal.find(run).outcome is None  # its lease runs out: it is made again


def test_a_run_that_did_nothing_is_told_of_and_one_that_did_is_not(tmp_path):
    with Engine(tmp_path) as engine:
        engine.accept(1, "a")
        engine.wait_for("done")
        engine.ops.answers = [PermanentError("no")]
        (failed,) = engine.accept(2, "b")
        engine.wait_for("done", "failed")
        engine.workers.stop()
        assert engine.over == [failed]


def test_a_throttled_playbook_whose_run_failed_acts_on_the_next_event(tmp_path):
    with Engine(tmp_path, TELL.replace("  match:", "  throttle: {once: 1h}\n  match:")) as engine:
        engine.workers._on_no_effect = lambda run: engine.intake.release_throttle_slot(run.id)
        engine.ops.answers = [PermanentError("no")]
        engine.accept(1)
        engine.wait_for("failed")
        engine.workers.stop()
        taken = take(engine.intake, json.dumps(alert(2)).encode())
        assert taken.results == {"run": 1}


class Failing:
    """A journal whose calls of one name fail a few times before they pass."""

    def __init__(self, journal, name, times=3):
        self._journal, self._name, self._left = journal, name, times
        self.passed = threading.Event()

    def __getattr__(self, name):
        call = getattr(self._journal, name)
        if name != self._name:
            return call

        def failing(*given):
            if self._left:
                self._left -= 1
                raise JournalError("disk full")
            self.passed.set()
            return call(*given)

        return failing


@pytest.mark.parametrize("name", ["settle", "claim", "next_due"])
def test_a_journal_that_fails_for_a_while_loses_nothing(tmp_path, monkeypatch, name):
    monkeypatch.setattr(worker_pool, "POLL_INTERVAL", 0.01)
    engine = Engine(tmp_path)
    failing = Failing(engine.journal, name)
    with engine.through(failing):
        (run,) = engine.accept()
        engine.wait_for("done")
        assert failing.passed.wait(PATIENCE)
        assert engine.journal.find(run).outcome == "done"
        assert engine.ops.seen == ["tell nginx"]


def test_an_answer_that_no_journal_can_hold_costs_the_answer_and_not_the_run(tmp_path):
    deep = []
    for _ in range(5000):
        deep = [deep]
    with Engine(tmp_path) as engine:
        engine.ops.answers = [Answer(200, deep)]
        (run,) = engine.accept()
        engine.wait_for("done")
        (result,) = engine.journal.find(run).results
        assert (result.state, result.answer) == ("done", None)


def test_an_audit_whose_pipe_is_broken_stops_nothing(tmp_path):
    def broken(_):
        raise BrokenPipeError

    with Engine(tmp_path) as engine:
        engine.workers._observers = Observers(broken, engine._note)
        engine.ops.answers = [PermanentError("no")]
        (run,) = engine.accept()
        engine.wait_for("failed")
        engine.workers.stop()
        assert engine.over == [run]


def test_a_journal_that_cannot_be_read_is_waited_for():
    class Unread:
        def undo_times(self, *_):
            raise JournalError("closed")

    with pytest.raises(TemporaryError, match="closed"):
        _JournalStore(Unread()).undo_times("key")
