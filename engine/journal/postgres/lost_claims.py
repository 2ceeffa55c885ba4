"""Find claims whose answer was lost, and release them.

A transaction can commit although its connection breaks before the answer. Its runs are then leased by a live
process that does not know it, so they would wait until their leases end. After a failed claim, the leased runs
of this process are compared with those that it has handed out. A run that was not handed out has not begun.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from engine.journal.postgres import claims

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.journal.postgres.connection import Connection
    from engine.model.run import Claim

CHECK_FOR = 30.0
"""Seconds after a failed claim in which its transaction can still commit, besides those in which the database
does not answer. Longer than STALL_TIMEOUT."""
CHECK_INTERVAL = 0.25
"""Seconds between two checks."""

_RELEASE = """
UPDATE runs SET state = CASE WHEN undoes IS NULL THEN 'queued' ELSE 'waiting' END, due_at = %s,
  -- the first attempt has not begun; a later one keeps what is known of the attempt before it
  leased = attempt > 1, attempt = attempt - 1, began = CASE WHEN attempt > 1 THEN began END
FROM unnest(%b::text[], %b::bigint[]) AS given (id, fence)
WHERE runs.id = given.id AND runs.fence = given.fence AND runs.state = 'leased' AND runs.replica = %s
"""


class ClaimLedger:
    """The claims that this process has handed out and that were not settled. Thread-safe."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()
        self._calls = 0
        self._failed = self._checked = float("-inf")

    @contextlib.contextmanager
    def claiming(self) -> Iterator[None]:
        """Note that a claim is in progress, and whether it failed."""
        with self._lock:
            self._calls += 1
        try:
            yield
        except BaseException:
            self._failed = time.monotonic()
            raise
        finally:
            with self._lock:
                self._calls -= 1

    def postpone(self) -> None:
        """Note that the database does not answer. A transaction of a failed claim can commit when it does."""
        now = time.monotonic()
        if now - self._failed < CHECK_FOR:
            self._failed = now

    def hand_out(self, handed: Sequence[Claim]) -> None:
        """Note claims. Called while they are in progress."""
        self._held |= {claim.undo or claim.run.id: claim.fence for claim in handed}

    def settled(self, claim: Claim) -> None:
        """Forget a claim."""
        if self._held.get(key := claim.undo or claim.run.id) == claim.fence:
            self._held.pop(key, None)

    @contextlib.contextmanager
    def checking(self) -> Iterator[bool]:
        """Say whether to look for lost claims now. No claim begins until the block ends."""
        with self._lock:
            now = time.monotonic()
            due = now - self._failed < CHECK_FOR and now - self._checked >= CHECK_INTERVAL
            yield due and not self._calls
            if due and not self._calls:
                self._checked = time.monotonic()

    def release_lost(self, connection: Connection, replica: int, now: float) -> int:
        """Release the runs that are leased by this process and were not handed out. Return their number."""
        leased = connection.execute(
            "SELECT id, fence, target FROM runs WHERE replica = %s AND state = 'leased'", (replica,)
        ).fetchall()
        lost: list[Any] = [row for row in leased if self._held.get(row["id"]) != row["fence"]]
        if not lost:
            return 0
        targets = [row["target"] for row in lost]
        claims.lock_targets(connection, targets)
        ids, fences = [row["id"] for row in lost], [row["fence"] for row in lost]
        released = connection.execute(_RELEASE, (now, ids, fences, replica))
        claims.update_heads(connection, targets)
        return released.rowcount
