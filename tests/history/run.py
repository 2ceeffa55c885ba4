"""Run several replicas under load and faults, and return what the observers recorded."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.history import journal_observer
from tests.history.api_server import RecordingServer
from tests.history.chance import seeded, split
from tests.history.deployment import Database, Replica
from tests.history.faults import REPLICA_FAULTS, FaultDriver
from tests.history.gate import Gates
from tests.history.load import Load
from tests.history.playbooks import LIMITS, playbooks
from tests.history.records import History
from tests.support.engine import PATIENCE, wait_until
from tests.support.postgres import scratch

if TYPE_CHECKING:
    from pathlib import Path

OVER_WITHIN = 2 * PATIENCE
"""Seconds until the runs must be over after the load has ended."""


@dataclass(frozen=True, slots=True)
class Size:
    """seconds: of the load. rate: events per second. fail_over_every: seconds. seed: of load and faults."""

    seconds: float
    fail_over_every: float
    replicas: int
    rate: float
    seed: int


def record(folder: Path, size: Size) -> History:
    """Run the replicas. Return the history, when all runs are over or after OVER_WITHIN."""
    chance = seeded(size.seed)
    with contextlib.ExitStack() as stack:
        database = Database(scratch())
        stack.callback(database.close)
        server = stack.enter_context(RecordingServer(split(chance)))
        gates = stack.enter_context(Gates())
        files = playbooks(server.address)
        replicas = [
            Replica(
                folder / f"replica-{number}", database, gates, server, files, spools=number == 0
            )
            for number in range(size.replicas)
        ]
        for replica in replicas:
            stack.callback(replica.close)
            replica.start()
        urls = lambda: {replica.name: replica.url for replica in replicas}  # noqa: E731
        load = Load(split(chance), urls, server.add_pod, size.rate)
        targets = database, replicas, gates
        of_replicas = FaultDriver(split(chance), targets, REPLICA_FAULTS, calm=1.0)
        of_primary = FaultDriver(
            split(chance), targets, ["fail-over"], calm=size.fail_over_every / 1.5
        )
        end = time.monotonic() + size.seconds
        load.start()
        try:
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(of_replicas.run, end)
                # PostgreSQL ends with the thread that started it (see tests.support.postgres)
                of_primary.run(end)
                running.result()
        finally:
            load.stop()
        _wait_until_over(database, replicas)
        return _collect((database, replicas), server, load, [of_replicas, of_primary])


def _wait_until_over(database: Database, replicas: list[Replica]) -> None:
    """Wait until all runs and undos are over. The checker names those that are not."""
    with database.connect() as connection:

        def are_over() -> bool:
            spooled = sum(replica.spooled() for replica in replicas)  # first: it is forwarded next
            return not spooled and not journal_observer.unfinished(connection)

        with contextlib.suppress(AssertionError):
            wait_until(are_over, seconds=OVER_WITHIN)


def _collect(
    deployed: tuple[Database, list[Replica]],
    server: RecordingServer,
    load: Load,
    drivers: list[FaultDriver],
) -> History:
    assert not server.faults, server.faults
    database, replicas = deployed
    with database.connect() as connection:
        return History(
            replace(LIMITS, spooling=frozenset(one.name for one in replicas if one.spools)),
            sent=load.sent,
            effects=server.effects,
            queue=journal_observer.read_queue(connection),
            rows=journal_observer.read_rows(connection),
            faults=[fault for driver in drivers for fault in driver.faults],
            undo_intents=journal_observer.read_undo_intents(connection),
            left=server.left(),
        )
