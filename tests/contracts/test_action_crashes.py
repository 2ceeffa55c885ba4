"""Every action that writes to the cluster, with an engine that dies at each of its calls.

The journal is a real one and is opened again after each crash. Only the API server is in memory. A crash is an
exception that nothing catches: before a call is sent, or after it took effect but before its answer arrived.
"""

from __future__ import annotations

import pytest
import yaml
from engine.cluster.api import CallRecorder
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.journal.records import AcceptBatch, Decision
from engine.journal.sqlite.journal import SqliteJournal
from engine.language.folder import Files
from engine.model.run import Run, run_id
from engine.outbound.api import RequestRecorder
from tests.contracts.test_actions import ACTIONS, NOW, alert, audited, left, world
from tests.support.fakes import FakeHttpClient
from tests.support.playbooks import new_loader, playbook_from_snapshot

WRITING = [
    a
    for a in ACTIONS
    if "cluster" in a.acts_with and a.effect in ("mark", "disrupt") and a.repeatable
]
RUN = run_id("event", "p")


class Killed(BaseException):
    """SIGKILL. The engine does not catch it."""


class Engine:
    """An engine over one journal file. It dies at the call number ``at``, counted over its restarts."""

    def __init__(self, folder, server):
        self.folder, self.server, self.now = folder, server, NOW
        self.at, self.sent, self.after = 0, 0, False
        self._answer = server.request
        server.request = self._request
        self.journal = self._open()

    def _open(self):
        return SqliteJournal(self.folder / "journal.db", playbook_from_snapshot)

    def _request(self, method, *rest):
        if method == "GET":
            return self._answer(method, *rest)
        self.sent += 1
        if self.sent == self.at and not self.after:
            raise Killed
        response = self._answer(method, *rest)
        if self.sent == self.at:
            raise Killed
        return response

    def work(self):
        """Attempt what is due until nothing is, and restart after a crash. Return the number of calls."""
        before = self.sent
        while True:
            try:
                if not self._work_until_idle():
                    return self.sent - before
            except Killed:
                self.at = 0
                self.journal.close()
                self.journal = self._open()

    def _work_until_idle(self):
        pools = ("cluster", "slow")
        claims = [one for pool in pools for one in self.journal.claim(pool, 1, self.now)]
        for claim in claims:
            cluster = self.server.cluster
            clients = Clients(
                CallRecorder(cluster, cluster), RequestRecorder(FakeHttpClient()), dry=False
            )
            outcome = attempt(claim, clients, GuardrailChecker(), self.now, self.journal)
            assert self.journal.settle(claim, outcome, self.now)
        dues = [self.journal.next_due(pool) for pool in pools]
        due = min((one for one in dues if one is not None), default=None)
        if not claims and due is not None:
            self.server.let_go()  # the kubelets remove the evicted pods meanwhile
            self.now = max(self.now, due)
        return claims or due is not None

    def kill_at(self, call, *, after):
        self.at, self.after = self.sent + call, after


def playbook(action):
    spec = {
        "match": {"everything": True},
        "throttle": {"once": "1m"},
        "actions": [{"action": action.name, "with": dict(action.example)}],
    }
    head = {"apiVersion": "tiercel.dev/v1", "kind": "Playbook", "metadata": {"name": "p"}}
    text = yaml.safe_dump({**head, "spec": spec}).encode()
    return new_loader().load(Files("", {"p.yaml": text})).playbooks[0]


def story(folder, action, of, *, kill=0, kill_undo=0, after=False):
    """Run the step and its undo. Return the world after each of them, the message, and the numbers of calls."""
    folder.mkdir()
    server = world()
    engine = Engine(folder, server)
    event = audited() if "resource" in action.acts_with else alert()
    engine.journal.accept(AcceptBatch([Run(RUN, of, event, NOW, "demo/web-0")]), NOW).result()
    engine.kill_at(kill, after=after)
    calls = engine.work()
    done = server.state()
    record = engine.journal.find(RUN)
    undos = 0
    if action.undoable:
        engine.kill_at(kill_undo, after=after)
        assert engine.journal.undo(RUN, Decision("undo", "alice", engine.now)) == [action.name]
        undos = engine.work()
        assert engine.journal.find(RUN).results[0].state == "undone"
        assert engine.journal.in_force() == []
    engine.journal.close()
    return done, left(action, server), record.outcome, (calls, undos)


@pytest.mark.parametrize("action", WRITING, ids=lambda action: action.name)
def test_the_result_is_the_same_after_a_crash_at_any_call(action, tmp_path):
    of = playbook(action)
    before = left(action, world())
    done, undone, outcome, (calls, undos) = story(tmp_path / "0", action, of)
    assert (outcome, calls > 0) == ("done", True)
    assert undone == before or not action.undoable
    for after in (False, True):
        for call in range(1, max(calls, undos) + 1):
            folder = tmp_path / f"{call}-{after}"
            again = story(folder, action, of, kill=call, kill_undo=call, after=after)
            assert again[:3] == (done, undone, "done"), (call, after)
