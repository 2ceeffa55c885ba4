"""``onHeld``: each held step notifies people once, also after a crash."""

from __future__ import annotations

import pytest
from engine.cluster.api import CallRecorder
from engine.execution.attempt import Clients, attempt
from engine.execution.budgets import BudgetLedger, Charge
from engine.execution.guardrails import GuardrailChecker
from engine.journal.records import AcceptBatch, Decision, RunFilter
from engine.journal.sqlite.journal import SqliteJournal
from engine.language.folder import Files
from engine.model.run import Run
from engine.outbound.api import RequestRecorder
from tests.contracts.test_actions import NOW, alert, world
from tests.language.test_loader import files, playbook
from tests.support.fakes import FakeHttpClient
from tests.support.playbooks import new_loader, playbook_from_snapshot

TEXT = "%held.step of %playbook waits until %held.until: %held.reason. tiercel approve %run.id"
SLACK = {"action": "slack.post", "with": {"webhook": {"fromSecret": "s"}, "text": TEXT}}
RUN = "0" * 32


def guardrails(**spec):
    return {**playbook("rails", "Guardrails"), "spec": spec}


def load(*on_held):
    budget = {"effect": "disrupt", "limit": 1, "per": "10m", "scope": "cluster"}
    rails = guardrails(budgets=[budget], holdFor="1h", onHeld=list(on_held))
    book = playbook("kill", actions=[{"action": "pod.delete", "name": "delete"}])
    return new_loader().load(Files("", files(p=book, rails=rails)))


class Engine:
    """A journal, and attempts at its claims. Another target uses up the budget."""

    def __init__(self, file, *on_held):
        found = load(*on_held)
        assert not found.errors
        self.rails, self.http = found.guardrails, FakeHttpClient()
        self.journal = SqliteJournal(file, playbook_from_snapshot)
        run = Run(RUN, found.playbooks[0], alert(), NOW, "demo/web-0")
        self.journal.accept(AcceptBatch([run]), NOW).result()

    def claim(self, pool, now):
        return self.journal.claim(pool, 9, now)

    def attempt(self, claim, now):
        ledger = BudgetLedger()
        ledger.charge(self.rails, Charge("disrupt", "pod.delete", "p", "another"), now)
        cluster = world().cluster
        clients = Clients(CallRecorder(cluster, cluster), RequestRecorder(self.http), dry=False)
        return attempt(
            claim, clients, GuardrailChecker(self.rails, ledger=ledger), now, self.journal
        )

    def runs(self):
        return len(self.journal.runs(RunFilter()))


@pytest.fixture
def started(tmp_path):
    engines = []

    def start(*on_held):
        engines.append(Engine(tmp_path / "j.db", *on_held))
        return engines[-1]

    yield start
    for one in engines:
        one.journal.close()


def test_held_step_notifies_once_also_after_a_crash(started):
    engine = started(SLACK)
    (lost,) = engine.claim("cluster", NOW)
    assert engine.attempt(lost, NOW).state == "held"  # then the process dies
    (again,) = engine.claim("cluster", NOW + 100)
    held = engine.attempt(again, NOW + 100)
    assert engine.journal.settle(again, held, NOW + 100) == "waiting"
    assert engine.runs() == 2
    (notice,) = engine.claim("slow", NOW + 100)
    done = engine.attempt(notice, NOW + 100)
    assert engine.journal.settle(notice, done, NOW + 100) == "done"
    ((message, _, _),) = engine.http.sent
    assert message["text"] == (
        "delete of kill waits until 2026-03-01T11:00:01Z: the budget of 1 target per 10m and "
        f"cluster is used up (disrupt). tiercel approve {RUN}"
    )


def test_step_that_is_held_again_after_a_retry_notifies_again(started):
    engine = started(SLACK)
    for number in (1, 2):
        (claim,) = engine.claim("cluster", NOW)
        engine.journal.settle(claim, engine.attempt(claim, NOW), NOW)
        assert engine.runs() == 1 + number
        assert engine.journal.decide(RUN, Decision("deny", "ada", NOW))
        (claim,) = engine.claim("cluster", NOW)
        assert engine.journal.settle(claim, engine.attempt(claim, NOW), NOW) == "refused"
        assert engine.runs() == 1 + number
        assert engine.journal.retry(RUN, 0, Decision("retry", "ada", NOW))


def test_failed_channel_does_not_stop_the_others(started):
    refused = {"action": "http.request", "with": {"url": "https://a.example/%held.step"}}
    engine = started(refused, SLACK)
    (claim,) = engine.claim("cluster", NOW)
    engine.attempt(claim, NOW)
    (notice,) = engine.claim("slow", NOW)
    assert [step.on_failure for step in notice.run.steps] == ["continue", "continue"]


def test_without_on_held_nothing_is_sent(started):
    engine = started()
    (claim,) = engine.claim("cluster", NOW)
    assert engine.attempt(claim, NOW).state == "held"
    assert engine.runs() == 1


@pytest.mark.parametrize(
    ("step", "code", "said"),
    [
        ({"action": "pod.delete"}, "bad-value", "the effect of pod.delete is disrupt"),
        ({"action": "kubernetes.event", "with": {"message": "a"}}, "bad-value", "is mark"),
        ({"action": "slack.pots"}, "unknown-action", "slack.pots"),
        (
            {"action": "slack.post", "with": {"webhook": "https://a.example", "text": "a"}},
            "literal-secret",
            "webhook",
        ),
        ({"with": {}}, "missing-key", "action"),
        (
            {**SLACK, "with": {**SLACK["with"], "text": "%held.steps"}},
            "bad-template",
            "`%held.steps` is not a word about the hold",
        ),
    ],
)
def test_on_held_step_that_cannot_notify_is_a_finding(step, code, said):
    (finding,) = load(step).errors
    assert (finding.code, finding.where.file) == (code, "rails.yaml")
    assert said in finding.what


def test_duplicate_step_name_in_on_held_is_a_finding():
    (finding,) = load(SLACK, SLACK).errors
    assert finding.code == "duplicate-name"
