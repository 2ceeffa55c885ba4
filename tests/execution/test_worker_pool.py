"""The worker pool: parallel targets, retries, stop, and failures of the journal."""

from __future__ import annotations

import json
import sys
import threading

import pytest
from engine.cluster.api import CallRecorder
from engine.cluster.simulated import AssumedCluster
from engine.execution import worker_pool
from engine.execution.attempt import Clients
from engine.execution.guardrails import GuardrailChecker
from engine.execution.worker_pool import Capacity, WorkerPool, _JournalStore
from engine.execution.worker_threads import WorkerThreads
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.errors import JournalError, PermanentError, TemporaryError, UnwritableError
from engine.outbound.api import Answer, RequestRecorder
from engine.telemetry.events import Observers
from tests.support.engine import PATIENCE
from tests.support.intake import NOW, SHELL, alert, intake_of, take
from tests.support.journals import over
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
    """An external server. Each request waits at the gate, then gets the next answer.

    inside: the bodies of the requests that are under way. seen: of all, in order.
    """

    def __init__(self):
        self.inside, self.seen, self.answers = [], [], []
        self.open = threading.Event()
        self.open.set()
        self._changed = threading.Condition()

    def request(self, method, url, headers, body, auth=None):
        del method, url, headers, auth
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
        """Wait until exactly these requests are in progress."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: sorted(self.inside) == sorted(bodies), PATIENCE
            ), self.inside


class Engine:
    """A worker pool with a journal in a file, and a clock that the test sets."""

    def __init__(self, tmp_path, *texts):
        self.journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
        self.now, self.ops, self.ends, self.over = NOW, Ops(), [], []
        self._changed = threading.Condition()
        self.intake = intake_of(self.journal, *texts or (TELL,))
        self.workers = self._workers(self.journal)

    def _workers(self, journal):
        return WorkerPool(
            journal,
            self.clients,
            GuardrailChecker,
            Observers(self._note),
            capacity=Capacity({"cluster": 2, "slow": 3}),
            now=lambda: self.now,
            on_no_effect=lambda run: self.over.append(run.id),
        )

    def clients(self, claim):
        """The clients of an attempt."""
        cluster = CallRecorder(AssumedCluster(claim.run.event))
        return Clients(cluster, RequestRecorder(self.ops, None), dry=False)

    def through(self, journal):
        """Use another journal that wraps this one."""
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
        """Accept an event on a pod, and return its runs."""
        fields = {"k8s.ns.name": "demo", "k8s.pod.name": pod}
        sent = alert(number, rule=SHELL, output_fields=fields)
        taken = take(self.intake, json.dumps(sent).encode())
        taken.written.result(PATIENCE)
        self.workers.wake()
        return taken.runs

    def wait_for(self, *became):
        """Wait until the attempts have exactly these results, in order."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.ends) >= len(became), PATIENCE)
        assert [moment.became for moment in self.ends] == list(became)

    def wait_until(self, is_reached):
        """Wait until a condition on the ends of attempts holds."""
        with self._changed:
            assert self._changed.wait_for(is_reached, PATIENCE), self.ends

    def later(self, seconds):
        self.now += seconds
        self.workers.wake()


def test_accepted_run_is_executed(tmp_path):
    with Engine(tmp_path) as engine:
        (run,) = engine.accept()
        engine.wait_for("done")
        assert engine.journal.find(run).outcome == "done"
        assert engine.ops.seen == ["tell nginx"]


def test_run_accepted_before_the_start_is_executed(tmp_path):
    engine = Engine(tmp_path)
    engine.accept(1, "a")
    engine.accept(2, "b")
    with engine:
        engine.wait_for("done", "done")


def test_targets_run_in_parallel_and_the_runs_of_one_target_in_sequence(tmp_path):
    with Engine(tmp_path, TELL, OTHER) as engine:
        engine.ops.open.clear()
        engine.accept(1, "a")
        engine.ops.wait_for("tell a")
        engine.accept(2, "b")  # claims again: tell-too on a is not claimed
        engine.ops.wait_for("tell a", "tell b")
        engine.ops.open.set()
        engine.wait_for("done", "done", "done", "done")
        assert sorted(engine.ops.seen) == ["tell a", "tell b", "tell-too a", "tell-too b"]
        assert engine.ops.seen.index("tell a") < engine.ops.seen.index("tell-too a")


def test_attempts_in_progress_are_limited_by_the_pool_size(tmp_path):
    with Engine(tmp_path) as engine:
        engine.ops.open.clear()
        for number, pod in enumerate("abcde"):
            engine.accept(number, pod)
        engine.ops.wait_for("tell a", "tell b", "tell c")
        assert engine.journal.counts() == {"waiting": 2, "running": 3, "held": 0}
        engine.ops.open.set()
        engine.wait_for(*["done"] * 5)


def test_outcomes_waiting_for_the_disk_delay_attempts_only_past_a_limit(tmp_path, monkeypatch):
    with Engine(tmp_path) as engine:
        begin_settle, written, ends = engine.journal.begin_settle, threading.Event(), []
        changed = threading.Condition()

        def late(*given):
            with changed:
                ends.append(given)
                changed.notify_all()

            def wait():
                written.wait(PATIENCE)
                return begin_settle(*given)()

            return wait

        monkeypatch.setattr(engine.journal, "begin_settle", late)
        for number, pod in enumerate("abcdefgh"):
            engine.accept(number, pod)
        with changed:
            assert changed.wait_for(lambda: len(ends) == 6, PATIENCE)  # twice the pool size
        assert engine.journal.counts()["running"] == 6
        assert len(engine.ops.seen) == 6
        written.set()
        engine.wait_for(*["done"] * 8)


def test_full_slow_pool_does_not_delay_cluster_steps(tmp_path):
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


def test_cluster_steps_are_limited_by_available_slots(tmp_path):
    label = TELL.replace("http.request", "pod.label").replace(
        'url: "https://ops.example.com/", body: "%playbook %k8s.pod.name"', "labels: {a: b}"
    )
    asked, is_full, gate = [], threading.Event(), threading.Event()

    def available_slots(in_progress):
        asked.append(in_progress)
        if in_progress:
            is_full.set()
        return 1 - in_progress

    with Engine(tmp_path, label) as engine:
        clients, engine.workers._available_slots = engine.workers._clients, available_slots
        engine.workers._clients = lambda claim: clients(claim) if gate.wait(PATIENCE) else None
        for number, pod in enumerate("abcde"):
            engine.accept(number, pod)
        assert is_full.wait(PATIENCE)  # the dispatcher has asked again during the first attempt
        gate.set()
        engine.wait_for(*["done"] * 5)
    assert set(asked) == {0, 1}


def test_temporary_error_is_retried_when_due(tmp_path):
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


def test_stop_waits_for_attempts_in_progress_and_starts_no_more(tmp_path):
    with Engine(tmp_path) as engine:
        engine.ops.open.clear()
        for number, pod in enumerate("abcd"):
            engine.accept(number, pod)
        engine.ops.wait_for("tell a", "tell b", "tell c")
        ended = []
        stopping = threading.Thread(target=lambda: ended.append(engine.workers.stop()))
        stopping.start()
        engine.workers._dispatcher.join(PATIENCE)  # ends as soon as the stop began
        assert not ended
        engine.ops.open.set()
        stopping.join(PATIENCE)
        assert ended == [True]
        assert engine.journal.counts() == {"waiting": 1, "running": 0, "held": 0}
        assert over(engine.journal) == 3


def test_stop_waits_at_most_the_grace_period(tmp_path):
    with Engine(tmp_path) as engine:
        engine.ops.open.clear()
        (run,) = engine.accept()
        engine.ops.wait_for("tell nginx")
        assert engine.workers.stop(0.01) is False
        assert (
            engine.journal.find(run).outcome is None
        )  # its lease expires, and it is attempted again


def test_only_runs_without_effect_are_reported(tmp_path):
    with Engine(tmp_path) as engine:
        engine.accept(1, "a")
        engine.wait_for("done")
        engine.ops.answers = [PermanentError("no")]
        (failed,) = engine.accept(2, "b")
        engine.wait_for("done", "failed")
        engine.workers.stop()
        assert engine.over == [failed]


def test_failed_run_does_not_count_in_the_throttle(tmp_path):
    with Engine(tmp_path, TELL.replace("  match:", "  throttle: {once: 1h}\n  match:")) as engine:
        engine.workers._settler._on_no_effect = lambda run: engine.intake.release_throttle_slot(
            run.id
        )
        engine.ops.answers = [PermanentError("no")]
        engine.accept(1)
        engine.wait_for("failed")
        engine.workers.stop()
        taken = take(engine.intake, json.dumps(alert(2)).encode())
        assert taken.results == {"run": 1}


class Failing:
    """A journal whose method of that name fails a few times before it works."""

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


@pytest.mark.parametrize("name", ["begin_settle", "claim", "next_due"])
def test_temporary_journal_failure_loses_nothing(tmp_path, monkeypatch, name):
    monkeypatch.setattr(worker_pool, "POLL_INTERVAL", 0.01)
    engine = Engine(tmp_path)
    failing = Failing(engine.journal, name)
    with engine.through(failing):
        (run,) = engine.accept()
        engine.wait_for("done")
        assert failing.passed.wait(PATIENCE)
        assert engine.journal.find(run).outcome == "done"
        assert engine.ops.seen == ["tell nginx"]


@pytest.mark.parametrize("at", ["begin", "wait"])
@pytest.mark.parametrize("error", [JournalError("a bad row"), UnwritableError("a bad value")])
def test_an_outcome_that_the_journal_never_accepts_does_not_stop_the_others(tmp_path, error, at):
    with Engine(tmp_path) as engine:
        begin_settle, bad = engine.journal.begin_settle, []

        def refusing(claim, *given):
            if claim.run.id != bad[0]:
                return begin_settle(claim, *given)

            def wait():
                raise error

            return wait if at == "wait" else wait()

        engine.journal.begin_settle = refusing
        engine.ops.open.clear()
        bad += engine.accept(0, "a")
        for number in range(1, 10):  # more than the outcomes of the pool that can wait for the disk
            engine.accept(number, f"pod-{number}")
        engine.ops.open.set()
        engine.wait_until(lambda: [it.became for it in engine.ends].count("done") == 9)
        assert engine.workers.ended() is None
        engine.workers.stop()
        assert {it.became for it in engine.ends if it.claim.run.id == bad[0]} == {"unwritten"}


def test_no_exception_ends_a_thread_of_the_pool():
    threads, done = WorkerThreads(1, "test"), threading.Event()
    threads.start()
    threads.run(sys.exit)
    threads.run(done.set)
    assert done.wait(PATIENCE)
    threads.stop(wait=True)


def test_unwritable_answer_is_dropped_and_the_run_is_kept(tmp_path):
    deep = []
    for _ in range(5000):
        deep = [deep]
    with Engine(tmp_path) as engine:
        engine.ops.answers = [Answer(200, deep)]
        (run,) = engine.accept()
        engine.wait_for("done")
        (result,) = engine.journal.find(run).results
        assert (result.state, result.answer) == ("done", None)


def test_broken_audit_pipe_does_not_stop_the_pool(tmp_path):
    def broken(_):
        raise BrokenPipeError

    with Engine(tmp_path) as engine:
        engine.workers._settler._observers = Observers(broken, engine._note)
        engine.ops.answers = [PermanentError("no")]
        (run,) = engine.accept()
        engine.wait_for("failed")
        engine.workers.stop()
        assert engine.over == [run]


@pytest.mark.parametrize(
    ("error", "raised"), [(JournalError, TemporaryError), (UnwritableError, PermanentError)]
)
def test_an_attempt_says_why_the_journal_did_not_take_its_state(error, raised):
    class Failing:
        def fail(self, *_):
            raise error("disk full")

        undo_times = keep = add_undo_intent = fail

    store = _JournalStore(Failing())
    for call in (store.undo_times, lambda key: store.keep(key, {}),
                 lambda key: store.add_undo_intent(key, (), None, {})):  # fmt: skip
        with pytest.raises(raised, match="disk full"):
            call("key")
