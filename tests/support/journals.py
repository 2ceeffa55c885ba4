"""Playbooks, events, runs and journals for the tests of journals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal.records import AcceptBatch, RunFilter
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.event import parse_event
from engine.model.playbook import Match, Playbook, Step
from engine.model.run import Outcome, Run, run_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.journal.postgres.journal import PostgresJournal
    from engine.journal.protocol import Journal
    from engine.model.event import Event

NOW = 1_772_359_200.0
"""2026-03-01T10:00:00Z, the time of receipt."""

LEASE = 40.0
"""Seconds of a lease: the default step timeout of 30, and a margin of 10."""

_thawed: dict[bytes, Playbook] = {}


def stored_playbook(snapshot: bytes) -> Playbook:
    return _thawed[bytes(snapshot)]


def step(name: str = "mark", **of: Any) -> Step:
    return Step(name, "mark", {}, **of)


def playbook(name: str = "p", *steps: Step) -> Playbook:
    steps = steps or (step(),)
    snapshot = f"{name} {steps}".encode()
    made = Playbook(name, Match(), steps, snapshot=snapshot, digest=snapshot.hex())
    return _thawed.setdefault(snapshot, made)


def event(number: int = 0, **alert: Any) -> Event:
    second = f"2026-03-01T10:00:00.{number:09d}Z"
    return parse_event({"rule": "Terminal shell", "time": second, "hostname": "worker-1"} | alert)


def run(number: int, target: str | None = None, of: Playbook | None = None) -> Run:
    """Return the run of that number. Its default target is unique."""
    of = of or playbook()
    target = target or f"demo/pod-{number}"
    return Run(run_id(str(number), of.name), of, event(number), NOW, target)


def open_sqlite(folder: Path, **of: Any) -> Journal:
    return SqliteJournal(folder / "journal.db", stored_playbook, **of)


def open_postgres(folder: Path) -> Journal:
    from engine.journal.postgres.connection import parse_server  # noqa: PLC0415 - only where it is used
    from engine.journal.postgres.journal import PostgresJournal  # noqa: PLC0415 - the same
    from engine.journal.postgres.liveness import Process  # noqa: PLC0415 - the same
    from tests.support.postgres import database_of, shared_server  # noqa: PLC0415 - starts the server

    url = database_of(folder)

    class Vacuumed(PostgresJournal):
        """Gives the space of deleted rows back at once, as autovacuum does later."""

        def fill_ratio(self) -> float:
            with shared_server().connect(url.rpartition("/")[2]) as owner:
                owner.execute("VACUUM events_other, history_other, runs, arrived, targets")
            return super().fill_ratio()

    process = Process("test", "engine", "1")
    return Vacuumed(parse_server(url), process, stored_playbook, exact_retention=True)


def open_replica(url: str, name: str) -> PostgresJournal:
    """Open the journal of a database as the worker of a replica."""
    from engine.journal.postgres.connection import parse_server  # noqa: PLC0415 - only where it is used
    from engine.journal.postgres.journal import PostgresJournal  # noqa: PLC0415 - the same
    from engine.journal.postgres.liveness import Process  # noqa: PLC0415 - the same

    return PostgresJournal(parse_server(url), Process(name, "worker", "1"), stored_playbook)


JOURNALS: dict[str, Callable[..., Journal]] = {
    "sqlite": open_sqlite,
    "postgres": open_postgres,
}
"""Functions that open the journal in a folder, and create it if needed."""

JOURNALS_WITH_QUOTA: dict[str, Callable[..., Journal]] = {"sqlite": open_sqlite}
"""The journals with a maximum size. max_bytes: the size."""


DONE = Outcome("done", "labelled")
FAILED = Outcome("failed", "no such label")


def accept(journal, *runs, windows=None, now=NOW):
    return journal.accept(AcceptBatch(runs, windows or {}), now).result()


def over(journal):
    """Return the number of runs that are over."""
    return sum(one.outcome is not None for one in journal.runs(RunFilter(limit=10_000)))


def claim(journal, now=NOW, pool="cluster"):
    (only,) = journal.claim(pool, 10, now)
    return only
