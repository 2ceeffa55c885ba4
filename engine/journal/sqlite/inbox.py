"""What was accepted, from its acceptance until it is in the lanes.

A run among ``runs`` stands in four indexes, at places that its digests choose: each is a page to be written
before a sender is answered. So what is accepted is only appended, its runs beside its body, and enters
the lanes when somebody asks for it: a claim that finds too few, a reader. In a flood the disk takes
half as many bytes before the answer, and what cannot be worked off yet costs nothing yet.
"""

from __future__ import annotations

from array import array
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from engine.journal.sqlite import retention
from engine.journal.sqlite.bloom_filter import brief
from engine.journal.sqlite.inbox_rows import decoded
from engine.journal.sqlite.scheduler import in_slices, places, refresh
from engine.model.run import run_outcome

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from engine.journal.sqlite.inbox_rows import Entry, InboxBatch
    from engine.journal.sqlite.quota import Quota

SLICE = 200
"""Runs that enter at once, and those of their last row (some 6 ms), so that no accept waits for thousands."""
LOOKS = 16
"""Writes between two looks how much waits."""
BEHIND = 300_000
"""Events whose runs may wait to enter; past that accepts take some along, for a restart reads them all."""
_RUNS = (
    "INSERT INTO runs (id, playbook, digest, blob, event, target, namespace, received, position,"
    " pool, timeout, due_at, outcome, results, settled, state) VALUES "
)

_BEHIND = (
    "SELECT (SELECT event FROM arrived ORDER BY id DESC LIMIT 1)"
    " - (SELECT event FROM arrived ORDER BY id LIMIT 1)"
)
_FIRST = (
    "SELECT received FROM arrived JOIN events ON events.id = arrived.event"
    " WHERE arrived.id = (SELECT min(id) FROM arrived)"
)
_FIRST_SLOW = _FIRST.replace("arrived)", "arrived INDEXED BY arrived_slow WHERE slow)")


_Came = tuple[int, "array[int]"]
"""The number of a body's first event, and the ids of its runs: plain values, which no collector looks at."""


class Inbox:
    """The statements, each a function of the connection that writes, and the ids that may wait to enter.

    room: of the file; what it has not is refused.

    The ids, as ``brief`` numbers, change in the writer's thread, once a commit says that it is so; anybody
    may ask for them. An id stays among them for a while after it has entered, by whichever process.
    """

    def __init__(self, room: Quota) -> None:
        self.ids: set[int] = set()
        self._room = room
        self._order: deque[_Came] = deque()
        self._came: list[_Came] = []
        self._least = 0
        self._writes = 0
        self._kept: set[str] = set()
        self._new: set[str] = set()

    def remember(self, connection: sqlite3.Connection) -> None:
        """Know the ids and the playbooks that the file has from before."""
        self._kept = {row["digest"] for row in connection.execute("SELECT digest FROM snapshots")}
        for row in connection.execute("SELECT event, runs FROM arrived ORDER BY id"):
            ids = (brief(one.id) for one in decoded(row["runs"]))
            self._came.append((row["event"], array("Q", ids)))
        self.ended(True)

    def ended(self, committed: bool) -> None:  # noqa: FBT001 - what a writer tells
        """What was written since the last time is on disk, or none of it."""
        self._room.ended(committed)
        came, self._came = self._came, []
        new, self._new = self._new, set()
        if not committed:
            return
        self._kept |= new
        self._order += came
        for _, ids in came:
            self.ids.update(ids)
        while self._order and self._order[0][0] < self._least:
            self.ids.difference_update(self._order.popleft()[1])

    def write(self, connection: sqlite3.Connection, bodies: Sequence[InboxBatch]) -> None:
        """Append what some bodies came to.

        In as few statements as can be: at each the interpreter's lock is given away, and got back behind the
        thread that answers. Raises JournalError where the room is not there.
        """
        need = sum(body.need for body in bodies)
        self._room.take(need)
        try:
            new = self._keep(connection, bodies)
            waiting: list[tuple[int, bytes, int, int]] = []
            came: list[_Came] = []
            for event, body in zip(insert_events(connection, bodies), bodies, strict=True):
                waiting += [(event, *row) for row in body.rows]
                came.append((event, body.ids))
            insert(connection, "INSERT INTO arrived (event, runs, many, slow) VALUES ", waiting)
        except (
            BaseException
        ):  # what comes to nothing leaves nothing here: each is tried alone after that
            self._room.take(-need)
            raise
        self._came += came
        self._new |= new
        self._writes += 1
        if self._writes % LOOKS == 0:
            self.look(connection)
            self._help(connection, 2 * LOOKS * sum(len(body.ids) for body in bodies))

    def _keep(self, connection: sqlite3.Connection, bodies: Sequence[InboxBatch]) -> set[str]:
        """Write the playbooks that runs are made again of, where that was not done yet; their digests."""
        new = {
            digest: snapshot
            for body in bodies
            for digest, snapshot in body.snapshots.items()
            if digest not in self._kept
        }
        keep_snapshots(connection, new)
        return set(new)

    def look(self, connection: sqlite3.Connection) -> None:
        """See what has entered meanwhile, by whichever process."""
        self._least = least(connection) or _past(connection)

    def _help(self, connection: sqlite3.Connection, most: int) -> None:
        """Let some enter where too many wait."""
        (behind,) = connection.execute(_BEHIND).fetchone()
        if behind is not None and behind > BEHIND:
            self.enter(connection, most)

    def enter(self, connection: sqlite3.Connection, most: int = SLICE) -> bool:
        """Let some enter the lanes, the first ones first; whether there may be more."""
        given, runs, last = [], 0, 0
        for row in connection.execute("SELECT id, event, runs, many FROM arrived ORDER BY id"):
            given.append((row["event"], row["runs"]))
            runs, last = runs + row["many"], row["id"]
            if runs >= most:
                break
        if given:
            insert_runs(connection, given)
            connection.execute("DELETE FROM arrived WHERE id <= ?", (last,))
        return runs >= most


def first(connection: sqlite3.Connection, pool: str | None = None) -> float | None:
    """When the first of what waits was received; None where nothing does that may be of the pool."""
    row = connection.execute(_FIRST_SLOW if pool == "slow" else _FIRST).fetchone()
    return float(row["received"]) if row else None


def least(connection: sqlite3.Connection) -> int | None:
    """The number of the first event of the first body that waits."""
    row = connection.execute("SELECT event FROM arrived ORDER BY id LIMIT 1").fetchone()
    return int(row["event"]) if row else None


def _past(connection: sqlite3.Connection) -> int:
    """A number past that of every event."""
    (last,) = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM events").fetchone()
    return int(last)


def count(connection: sqlite3.Connection) -> int:
    """How many runs wait to enter."""
    (many,) = connection.execute("SELECT coalesce(sum(many), 0) FROM arrived").fetchone()
    return int(many)


def keep_snapshots(connection: sqlite3.Connection, snapshots: Mapping[str, bytes]) -> None:
    """Write playbooks, by digest."""
    insert(connection, "INSERT OR IGNORE INTO snapshots VALUES ", [*snapshots.items()])


def insert_events(connection: sqlite3.Connection, bodies: Sequence[InboxBatch]) -> Iterator[int]:
    """Write events; the number of each body's first."""
    events = [event for body in bodies for event in body.bodies]
    last = insert(connection, "INSERT INTO events (body, received) VALUES ", events)
    return accumulate((len(body.bodies) for body in bodies[:-1]), initial=last - len(events) + 1)


def insert_runs(connection: sqlite3.Connection, given: Sequence[tuple[int, bytes]]) -> None:
    """Put runs into the lanes, but for those that are there. given: the body's first event, its Entries."""
    entries = [(event, entry) for event, runs in given for entry in decoded(runs)]
    known = _known(connection, [entry.id for _, entry in entries])
    made: dict[str, tuple[Any, ...]] = {}
    again = set()
    for event, entry in entries:
        if entry.id in known or entry.id in made:
            again.add(event + entry.event)
        else:
            made[entry.id] = _row(entry, event + entry.event)
    insert(connection, _RUNS, [*made.values()])
    retention.let_go(connection, again)
    refresh(connection, *{entry.target for _, entry in entries})


def insert_at_once(connection: sqlite3.Connection, arrival: InboxBatch, facts: bytes) -> None:
    """Put one run into the lanes with facts of its own, without a wait among what was accepted."""
    keep_snapshots(connection, arrival.snapshots)
    (event,) = insert_events(connection, [arrival])
    insert_runs(connection, [(event, arrival.rows[0][0])])
    (entry,) = decoded(arrival.rows[0][0])
    connection.execute("UPDATE runs SET facts = ? WHERE id = ?", (facts, entry.id))


def _known(connection: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Which of these runs are in the lanes."""
    found: set[str] = set()
    for some in in_slices(ids):
        marks = ", ".join("?" * len(some))
        known = connection.execute(f"SELECT id FROM runs WHERE id IN ({marks})", some)  # noqa: S608 - marks
        found |= {row["id"] for row in known}
    return found


def _row(entry: Entry, event: int) -> tuple[Any, ...]:
    """The values of a run; one without steps is over."""
    row = (
        entry.id, entry.playbook, entry.digest, entry.blob, event, entry.target, entry.namespace,
        entry.received,
    )  # fmt: skip
    if entry.pool is None:
        return (*row, None, None, None, None, run_outcome(()), b"[]", entry.due_at, None)
    return (*row, 0, entry.pool, entry.timeout, entry.due_at, None, b"[]", None, "queued")


def insert(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """Insert rows in as few statements as can be; the number of the last, which those before go up to."""
    last = 0
    for some in in_slices(rows):
        given = [value for row in some for value in row]
        cursor = connection.execute(statement + places(len(some), len(some[0])), given)
        last = cursor.lastrowid or 0
    return last
