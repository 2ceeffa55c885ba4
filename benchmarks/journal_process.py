"""One replica of benchmarks/replicas.py: a process with a journal on PostgreSQL, or with a bare connection.

    python benchmarks/journal_process.py ROLE '{"dsn": …}'

It prints ``ready``, waits for a line of input, works, and prints its figures as JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import alert
from engine.journal import codec
from engine.journal.postgres.connection import connect, parse_server
from engine.journal.postgres.journal import PostgresJournal
from engine.journal.postgres.liveness import Process
from engine.journal.postgres.writer import AcceptWriter, GroupWriter
from engine.journal.records import AcceptBatch
from engine.model.errors import JournalError
from engine.model.event import parse_event
from engine.model.run import Outcome, Run, run_id
from tests.support.journals import playbook, stored_playbook

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from engine.journal.postgres.connection import Connection
    from engine.model.run import Claim

TARGETS = 1_000
POLL = 0.25
"""Seconds between two claims of an idle replica, as in engine.execution.worker_pool."""


def runs(name: str, count: int, first: int = 0) -> list[Run]:
    """Return runs of one step, each of an event of 1.5 KB, for ``TARGETS`` targets."""
    of, now = playbook("mark"), time.time()
    made = []
    for number in range(first, first + count):
        pod = f"web-{number % TARGETS}"
        event = parse_event(alert(number, **{"k8s.pod.name": pod}))
        made.append(Run(run_id(f"{name} {number}", of.name), of, event, now, f"demo/{pod}"))
    return made


def journal(given: dict[str, Any]) -> PostgresJournal:
    """Open the journal. Any process can read the runs of the others."""
    playbook("mark")
    process = Process(given.get("name", "replica"), "engine", "1")
    return PostgresJournal(parse_server(given["dsn"]), process, stored_playbook)


def go() -> None:
    """Report that everything is prepared, and wait for the start."""
    print("ready", flush=True)
    sys.stdin.readline()


def in_flight(work: Callable[[Run], Future[Any]], made: list[Run], number: int) -> float:
    """Send runs with a number of them in flight. Return the seconds until the last one is written."""
    slots: SimpleQueue[Future[Any] | None] = SimpleQueue()
    for _ in range(number):
        slots.put(None)
    began = time.perf_counter()
    for run in made:
        if done := slots.get():
            assert not done.result()
        work(run).add_done_callback(slots.put)
    for _ in range(number):
        if done := slots.get():
            assert not done.result()
    return time.perf_counter() - began


def accept(given: dict[str, Any]) -> dict[str, Any]:
    """Accept one run per batch, with a number of batches in flight."""
    transactions = 0
    write = AcceptWriter._write  # noqa: SLF001 - counts the transactions

    def counted(writer: AcceptWriter, batches: list[Any]) -> Any:
        nonlocal transactions
        transactions += 1
        return write(writer, batches)

    AcceptWriter._write = counted  # type: ignore[method-assign]  # noqa: SLF001 - the same
    opened = journal(given)
    made = runs(given["name"], given["runs"])
    opened.accept(AcceptBatch([made.pop()]), time.time()).result()
    go()
    transactions = 0
    seconds = in_flight(
        lambda run: opened.accept(AcceptBatch([run]), time.time()), made, given["in_flight"]
    )
    opened.close()
    return {"seconds": seconds, "runs": len(made), "transactions": transactions}


class BareWriter(GroupWriter[tuple[str, bytes], None]):
    """The writer thread of the journal, with the bare insert in place of an accept."""

    def _transact(self, connection: Connection, items: list[tuple[str, bytes]]) -> list[None]:
        insert(connection, items)
        return [None] * len(items)


def insert(connection: Connection, rows: list[tuple[str, bytes]]) -> None:
    """Insert ids and encoded events into a table, in one round trip and one commit."""
    columns = [[*column] for column in zip(*rows, strict=True)]
    connection.execute("INSERT INTO bare SELECT * FROM unnest(%b::text[], %b::bytea[])", columns)


def bare_loop(given: dict[str, Any]) -> dict[str, Any]:
    """Insert the ids and the encoded events of the same runs into one table, in batches of one size."""
    rows = [(run.id, codec.from_event(run.event)) for run in runs(given["name"], given["runs"])]
    size = given["size"]
    batches = [rows[at : at + size] for at in range(0, len(rows), size)]
    with contextlib.closing(connect(parse_server(given["dsn"]))) as connection:
        go()
        began = time.perf_counter()
        for batch in batches:
            insert(connection, batch)
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "runs": len(rows)}


def bare_in_flight(given: dict[str, Any]) -> dict[str, Any]:
    """Insert the same with a number of events in flight, each encoded when it is sent, as an accept is."""
    server = parse_server(given["dsn"])
    writer = BareWriter(lambda: connect(server), "bare writer")
    made = runs(given["name"], given["runs"])
    first = made.pop()
    writer.submit((first.id, codec.from_event(first.event))).result()
    go()
    seconds = in_flight(
        lambda run: writer.submit((run.id, codec.from_event(run.event))), made, given["in_flight"]
    )
    writer.close()
    return {"seconds": seconds, "runs": len(made)}


def claim(given: dict[str, Any]) -> dict[str, Any]:
    """Claim runs until none is left, up to ``limit`` in one call. settle: end each of them in a thread."""
    opened = journal(given)
    workers = ThreadPoolExecutor(given["limit"])

    def settle(one: Claim) -> None:
        assert opened.settle(one, Outcome("done", "labelled"), opened.now()) == "done"

    go()
    claimed, began, last = 0, time.perf_counter(), time.perf_counter()
    while True:
        found = opened.claim("cluster", given["limit"], opened.now())
        if given["settle"]:
            list(workers.map(settle, found))
        claimed += len(found)
        if found:
            last = time.perf_counter()
        elif not opened.counts()["waiting"]:
            break
    # the journal stays open: its claims would become free for a replica that is not done yet
    return {"seconds": last - began, "runs": claimed}


def hold(given: dict[str, Any]) -> dict[str, Any]:
    """Claim one run and print its id. Keep it, until this process is killed."""
    opened = journal(given)
    opened.accept(AcceptBatch(runs(given["name"], 1, given["number"])), opened.now()).result()
    while not (found := opened.claim("cluster", 1, opened.now())):
        time.sleep(POLL)
    print(json.dumps(found[0].run.id), flush=True)
    go()
    return {"runs": 1}


def take_over(given: dict[str, Any]) -> dict[str, Any]:
    """Claim as the worker pool does, and print the id and the time of each claim."""
    opened, woken = journal(given), threading.Event()
    opened.on_free(woken.set)
    go()
    left = given["runs"]
    while left:
        woken.clear()
        found = opened.claim("cluster", 16, opened.now())
        for one in found:
            print(json.dumps([one.run.id, time.monotonic()]), flush=True)
        left -= len(found)
        if not found:
            woken.wait(POLL)
    opened.close()
    return {"runs": given["runs"]}


def commit(given: dict[str, Any]) -> dict[str, Any]:
    """Accept runs one after the other, as senders that repeat, and print the time of each commit."""
    opened = journal(given)
    made = runs(given["name"], given["runs"])
    go()
    for run in made:
        while True:
            try:
                opened.accept(AcceptBatch([run]), opened.now()).result()
            except JournalError:
                time.sleep(0.01)
            else:
                break
        print(json.dumps(time.monotonic()), flush=True)
    return {"runs": len(made)}


ROLES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "accept": accept,
    "bare_loop": bare_loop,
    "bare_in_flight": bare_in_flight,
    "claim": claim,
    "hold": hold,
    "take_over": take_over,
    "commit": commit,
}

if __name__ == "__main__":
    figures = ROLES[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps(figures), flush=True)
