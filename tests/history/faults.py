"""The fault driver: one fault after the other. A seed chooses them."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import psycopg
from tests.history.journal_observer import is_leasing
from tests.history.records import Fault

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.history.deployment import Database, Replica
    from tests.history.gate import Gates

SHORTEST, LONGEST = 3.5, 6.0
"""Seconds of a pause or a partition: longer than a replica counts as live."""
CLAIM_WITHIN = 2.0
"""Seconds to wait until the replica has claimed a run."""
REPLICA_FAULTS = ("kill", "pause", "partition")


class FaultDriver:
    """Injects one fault after the other, and heals each of them. faults: what it did, with times.

    kinds: of the faults. Each comes once before one of them comes again. calm: the shortest time between two
    faults, in seconds; the longest is twice as long.
    """

    def __init__(
        self,
        chance: random.Random,
        targets: tuple[Database, Sequence[Replica], Gates],
        kinds: Sequence[str],
        calm: float,
    ) -> None:
        self.faults: list[Fault] = []
        self._chance, self._never = chance, threading.Event()
        self._database, self._replicas, self._gates = targets
        self._kinds, self._calm = kinds, calm
        self._todo: list[str] = []

    def run(self, end: float) -> None:
        """Inject each fault at least once. end: the monotonic time after which no other fault begins then."""
        while True:
            self._never.wait(self._chance.uniform(self._calm, 2 * self._calm))
            if time.monotonic() > end and len(self.faults) >= len(self._kinds):
                return
            kind = self._next()
            if kind == "fail-over":
                self._fail_over()
            else:
                self._harm(kind, self._chance.choice(self._replicas))

    def _next(self) -> str:
        if not self._todo:
            self._todo = self._chance.sample(self._kinds, len(self._kinds))
        return self._todo.pop()

    def _fail_over(self) -> None:
        """Kill the primary and promote the standby. Then make a new standby."""
        began = time.time()
        self._database.fail_over()
        self.faults.append(Fault("fail-over", "", began, time.time()))
        self._database.add_standby()

    def _harm(self, kind: str, replica: Replica) -> None:
        """Kill, stop or cut off a replica that has a claim."""
        process = replica.process
        self._wait_for_claim(process)
        began = time.time()
        if kind == "kill":
            replica.kill()
            self._never.wait(self._chance.uniform(0, SHORTEST))
            replica.start()
        elif kind == "pause":
            replica.pause()
            self._never.wait(self._chance.uniform(SHORTEST, LONGEST))
            replica.resume()
        else:
            self._gates.shut(replica.name)
            self._never.wait(self._chance.uniform(SHORTEST, LONGEST))
            self._gates.open(replica.name)
        self.faults.append(Fault(kind, process, began, time.time()))

    def _wait_for_claim(self, process: str) -> None:
        """Wait up to CLAIM_WITHIN until a replica has claimed a run, so that the fault meets an attempt."""
        end = time.monotonic() + CLAIM_WITHIN
        with contextlib.suppress(psycopg.Error), self._database.connect() as connection:
            while time.monotonic() < end and not is_leasing(connection, process):
                self._never.wait(0.02)
