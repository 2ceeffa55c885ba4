"""Two replicas of the journal in one process, with the observers of a history but without engines.

A sabotage needs only a few claims in a certain order. The stage makes them, and records what a replica does in
between as an effect.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from engine.journal.postgres.connection import parse_server
from engine.journal.postgres.journal import PostgresJournal
from engine.journal.postgres.liveness import Process
from engine.journal.records import AcceptBatch
from engine.model.errors import JournalError
from tests.history import journal_observer
from tests.history.records import Effect, History, Limits, Sent
from tests.support.journals import DONE, stored_playbook
from tests.support.postgres import shared_server

if TYPE_CHECKING:
    import psycopg
    from engine.journal.protocol import Queue
    from engine.model.run import Claim, Outcome, Run

BUDGETED = "few"
"""Name of the playbook with a budget of one target in each namespace."""


class Stage:
    """Replicas a and b on a database that belongs to the stage alone."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stack = contextlib.ExitStack()
        self._database = url.rpartition("/")[2]
        with self.connect() as connection:
            journal_observer.install(connection)
        self.a, self.b = self._open("a"), self._open("b")
        self.history = History(Limits(few={BUDGETED: 1}))
        self._processes = {id(self.a): "a", id(self.b): "b"}

    def connect(self) -> psycopg.Connection:
        """Connect to the database of the stage."""
        return shared_server().connect(self._database)

    def accept(self, queue: Queue, run: Run) -> None:
        """Accept a run, and acknowledge it if it was accepted."""
        began, number = time.time(), len(self.history.sent)
        rejected = queue.accept(AcceptBatch([run], may_wait=True), began).result()
        runs = () if run.id in rejected else (run.id,)
        rule = run.playbook.name
        self.history.sent.append(Sent(number, rule, run.target, "", began, time.time(), 202, runs))

    def claim(self, journal: PostgresJournal) -> list[Claim]:
        """Claim what can be claimed."""
        return journal.claim("cluster", 9, time.time())

    def act(self, journal: PostgresJournal, claim: Claim) -> None:
        """Send a request."""
        process, began = self._processes[id(journal)], time.time()
        effect = Effect(claim.run.id, "request", claim.run.target, process, began, time.time())
        self.history.effects.append(effect)

    def settle(self, journal: PostgresJournal, claim: Claim, outcome: Outcome = DONE) -> None:
        """End a run."""
        with contextlib.suppress(JournalError):  # a sabotaged journal may refuse it
            journal.settle(claim, outcome, time.time())

    def finish(self) -> None:
        """Claim, act and settle in turn, until nothing can be claimed."""
        while True:
            found = [(one, claim) for one in (self.a, self.b) for claim in self.claim(one)]
            if not found:
                return
            for one, claim in found:
                self.act(one, claim)
                self.settle(one, claim)

    def recorded(self) -> History:
        """Return the history."""
        with self.connect() as connection:
            self.history.queue = journal_observer.read_queue(connection)
            self.history.rows = journal_observer.read_rows(connection)
        return self.history

    def close(self) -> None:
        """Close both replicas."""
        self._stack.close()

    def _open(self, name: str) -> PostgresJournal:
        server = parse_server(journal_observer.with_process(self.url, name))
        journal = PostgresJournal(server, Process(name, "worker", "1"), stored_playbook)
        self._stack.callback(journal.close)
        return journal
