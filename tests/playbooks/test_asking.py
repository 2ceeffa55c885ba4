"""The shipped playbooks that ask a person: one message for each question, and one about the result."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine.actions.registry import load_actions
from engine.cluster.api import CallRecorder
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.journal.records import AcceptBatch, Decision
from engine.journal.sqlite.journal import SqliteJournal
from engine.language.folder import read_files
from engine.language.loader import Loader
from engine.model.run import Run
from engine.outbound.api import RequestRecorder
from tests.contracts.test_actions import NOW, alert, world
from tests.support.fakes import FakeHttpClient
from tests.support.playbooks import playbook_from_snapshot

LIBRARY = Path(__file__).parents[2] / "playbooks"
RUN = "0" * 32


@pytest.fixture(scope="module")
def library():
    return Loader(load_actions()).load(read_files([LIBRARY])).usable()


class Engine:
    """A journal with one run, and the Slack messages that it sent."""

    def __init__(self, file, playbook, guardrails):
        self.journal = SqliteJournal(file, playbook_from_snapshot)
        self.checker, self.http = GuardrailChecker(guardrails), FakeHttpClient()
        self.server = world()
        run = Run(RUN, playbook, alert(), NOW, "demo/web-0")
        self.journal.accept(AcceptBatch([run]), NOW).result()

    def work(self):
        """Attempt what is due until nothing is. Return the texts of the messages."""
        self.http.sent.clear()
        while claims := [
            c for pool in ("cluster", "slow") for c in self.journal.claim(pool, 1, NOW)
        ]:
            for claim in claims:
                cluster = self.server.cluster
                clients = Clients(
                    CallRecorder(cluster, cluster), RequestRecorder(self.http), dry=False
                )
                outcome = attempt(claim, clients, self.checker, NOW, self.journal)
                self.journal.settle(claim, outcome, NOW)
        return [sent[0]["text"] for sent in self.http.sent if isinstance(sent[0], dict)]


def test_each_question_is_one_message_and_an_approval_is_reported(library, tmp_path):
    asking = [
        one
        for one in library.playbooks
        if any(step.action == "approval.wait" for step in one.steps)
    ]
    for number, playbook in enumerate(asking):
        for verdict, told in (("approve", 1), ("deny", 0)):
            engine = Engine(tmp_path / f"{number}-{verdict}.db", playbook, library.guardrails)
            (question,) = engine.work()
            assert f"tiercel approve {RUN}" in question
            assert playbook.name in question
            assert engine.journal.decide(RUN, Decision(verdict, "ada", NOW))
            said = engine.work()
            assert len(said) == told, said
            assert all("Approved: " in text for text in said)
            engine.journal.close()
    assert len(asking) == 6
