"""The shared journal: one PostgreSQL database, used by several replicas of the engine.

Each method is a transaction on a connection of its own; accepted batches share those of the writer thread.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from engine.journal.base import BaseJournal, failed_accept
from engine.journal.hydrate import Hydrator
from engine.journal.postgres import (
    accept,
    claims,
    forwarding,
    operator_commands,
    queries,
    retention,
    saved_state,
    undo_intents,
    windows,
)
from engine.journal.postgres.checked_server import CheckedServer, create_partitions
from engine.journal.postgres.connection import Connection, Connections, index_key, sentence
from engine.journal.postgres.liveness import RENEW_INTERVAL, Liveness
from engine.journal.postgres.lost_claims import ClaimLedger
from engine.journal.postgres.old_ids import OldIds
from engine.journal.postgres.writer import AcceptWriter, SettlementWriter
from engine.journal.records import AcceptBatch, ForwardedRuns, Pause, Replica
from engine.journal.statements import Statements
from engine.model import json_codec
from engine.model.errors import JournalError, JournalUnavailableError
from engine.model.playbook import ALL_PLAYBOOKS
from engine.model.throttle_window import release, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from concurrent.futures import Future

    from engine.journal.postgres.connection import Server
    from engine.journal.postgres.liveness import Process
    from engine.journal.settlements import ClaimKey, Settlement
    from engine.journal.undo_rules import UndoIntent
    from engine.model.playbook import Playbook, Pool
    from engine.model.run import Claim, Notice, Outcome

T = TypeVar("T")
_STATEMENTS: Statements[Connection] = Statements(
    operator_commands, undo_intents, queries, saved_state, retention
)
MAX_BYTES = 1 << 40
"""Size of the tables at which the fill ratio is 1. The size of the server's disk is not known."""
ID_KEY = "journal id"
"""Key of the id of the journal in the table ``offsets``."""
_QUEUES_SECONDS = 60.0
"""Seconds that a change of all target queues may take longer than another one. 100,000 of them took 6 s."""
_MAX_DELETIONS = 20
"""Transactions of one ``delete_runs`` that delete rows of one kind. A call a minute keeps up with accepts."""


class PostgresJournal(BaseJournal["Connection"]):
    """A journal in a PostgreSQL database. See engine.journal.protocol for its methods.

    Args:
        server: the database.
        process: this process, for its liveness row.
        playbook_from_snapshot: compiles a stored playbook. Raises PlaybookError if this engine cannot read it.
        lease_margin: seconds that a lease lasts beyond the timeout of its step.
        exact_retention: delete single runs that are too old, instead of whole days.
        may_wait: open the journal also if the server does not answer. Each method fails until it does. The
            server is then checked before the first use.

    Attributes:
        shared: True.
        name: the server and the database, for messages.

    Raises JournalError if the database cannot be used; JournalUnavailableError if it does not answer.
    """

    shared = True

    def __init__(
        self,
        server: Server,
        process: Process,
        playbook_from_snapshot: Callable[[bytes], Playbook],
        lease_margin: float = 10.0,
        *,
        exact_retention: bool = False,
        may_wait: bool = False,
    ) -> None:
        self._lease_margin, self._exact_retention = lease_margin, exact_retention
        self.name, self._server = server.name, CheckedServer(server)
        open_connection = self._server.connect
        try:
            self._server.check()
            self._liveness = Liveness(open_connection, process)
        except JournalError as error:
            raise JournalError(f"cannot open the journal {server.name}: {error}") from error
        except (psycopg.Error, OSError) as error:
            if not may_wait:
                raise JournalUnavailableError(
                    f"cannot open the journal {server.name}: {sentence(error)}"
                ) from error
            self._liveness = Liveness(open_connection, process, may_wait=True)
        self._connections = Connections(open_connection)
        self._writer = AcceptWriter(open_connection)
        self._settlements = SettlementWriter(open_connection, "journal settlements")
        self._ledger = ClaimLedger()
        self._old_ids = OldIds()
        self._statements = _STATEMENTS
        self._hydrator = Hydrator(queries.RunLookups(self._connections), playbook_from_snapshot)
        self._stopping = threading.Event()
        self._closing = threading.Lock()
        self._watchdog = threading.Thread(target=self._watch, name="journal watchdog", daemon=True)
        self._watchdog.start()

    # Replicas

    @property
    def is_open(self) -> bool:
        """Whether the server has answered, and can be used."""
        return self._server.is_ready

    @property
    def warning(self) -> str | None:
        """A sentence about a setting of the server, or None."""
        return self._server.warning

    def now(self) -> float:
        """Return the time of the database's clock, in epoch seconds."""
        return self._liveness.clock.now()

    @property
    def claim_identity(self) -> int:
        """The identity under which this process claims now. A process that counted as dead gets another one."""
        return self._liveness.id

    def may_act(self, identity: int) -> bool:
        """Return whether this process may call the cluster for a claim of this identity."""
        return self._liveness.is_live(identity)

    def live_replicas(self) -> int:
        """Return the number of live replicas, this one included, as of the last second."""
        return self._liveness.replicas

    def on_free(self, wake: Callable[[], None]) -> None:
        """Call a function when claims of another process have become free, or this one may claim again."""
        self._liveness.on_free = wake

    def set_digest(self, digest: str) -> None:
        """Publish the digest of the playbooks in force."""
        self._liveness.set_digest(digest)

    def id(self) -> str:
        """Return the id of this journal. The first call of all replicas makes it."""
        made = json_codec.encode_json(secrets.token_hex(8))
        self._write(
            lambda c: c.execute(
                "INSERT INTO offsets VALUES (%s, %s) ON CONFLICT DO NOTHING", (ID_KEY, made)
            )
        )
        return str(self.offset(ID_KEY))

    def replicas(self) -> list[Replica]:
        """Return the replicas, by name."""
        rows = self._connections.rows(
            "SELECT DISTINCT ON (name) name, version, digest, extract(epoch FROM started)::float8 AS started,"
            " greatest(0, extract(epoch FROM clock_timestamp() - seen))::float8 AS age FROM replicas"
            " ORDER BY name, process, started"
        )
        return [Replica(**row) for row in rows]

    # Queue

    def accept(self, accepted: AcceptBatch, now: float) -> Future[Mapping[str, str]]:
        """See Queue.accept. The batch is encoded in the thread of the caller."""
        try:
            batch = accept.encode_batch(accepted, now)
            if accepted.throttle_windows:
                json_codec.encode_json(dict(accepted.throttle_windows))
        except JournalError as error:
            return failed_accept(error)
        return self._writer.submit(batch)  # type: ignore[return-value]

    def forward(self, forwarded: ForwardedRuns) -> Mapping[str, str]:
        """Accept the runs of a spool that are not in the journal yet, each once, and keep the dead letters.

        Return the runs that do not act, as of an accept. Raises JournalError if the journal cannot store one of
        the runs; JournalUnavailableError otherwise.
        """
        now = self.now()
        return self._write(lambda c: forwarding.forward(c, forwarded, now))

    def release_throttle(self, run: str) -> None:
        """See Queue.release_throttle."""
        self._prepare_history()

        def work(connection: Connection) -> None:
            row = connection.execute(
                "SELECT throttle FROM all_runs WHERE id = %s AND throttle IS NOT NULL", (run,)
            ).fetchone()
            if row is None:
                return
            key = row["throttle"]
            window = windows.lock(connection, "throttle_windows", [key]).get(key)
            if window and run in runs_of(window):
                windows.write(connection, "throttle_windows", {key: release(window, run)})

        self._write(work)

    def known(self, ids: Collection[str]) -> set[str]:
        """See Queue.known."""
        rows = self._connections.rows("SELECT id FROM run_ids WHERE id = ANY(%s::uuid[])", [*ids])
        return {row["id"].hex for row in rows}

    def claim(self, pool: Pool, limit: int, now: float) -> list[Claim]:
        """See Queue.claim. A run whose row cannot be read ends as failed.

        A process that was stopped would claim under an identity that counts as dead: another one would take the
        runs over as interrupted, although they have never begun.
        """
        replica = self._liveness.id
        if not self._liveness.is_live(replica):
            self._ledger.postpone()
            raise JournalUnavailableError(
                "the journal cannot be written: this process has not renewed its liveness row in time"
                f"{self._liveness.why_late()}"
            )
        with self._ledger.checking() as check:
            if check:
                self._write(lambda c: self._ledger.release_lost(c, replica, now))
        with self._ledger.claiming():
            rows = self._connections.call(
                "SELECT * FROM claim_runs(%s, %s, %s, %s, %s)",
                pool, max(0, limit), now, self._lease_margin, replica,
            )  # fmt: skip
            found = [replace(claim, replica=replica) for claim in self._claims(rows, now)]
            self._ledger.hand_out(found)
        return found

    def begin_settle(self, claim: Claim, outcome: Outcome, now: float) -> Callable[[], str | None]:
        """See Queue.begin_settle."""
        written = super().begin_settle(claim, outcome, now)

        def wait() -> str | None:
            answer = written()
            self._ledger.settled(claim)
            return answer

        return wait

    def keep(
        self, claim: Claim, attempt_state: Mapping[str, Any], notice: Notice | None = None
    ) -> bool:
        """See Queue.keep."""
        json_codec.encode_json(attempt_state)
        key = self._key(claim)
        notice_state = json_codec.encode_json(notice.attempt_state) if notice else b""

        def work(connection: Connection) -> bool:
            if not claims.merge_attempt_state(connection, key, attempt_state):
                return False
            if notice:
                states = {notice.run.id: notice_state}
                batch = accept.encode_batch(AcceptBatch([notice.run]), notice.run.received, states)
                accept.write_batch(connection, batch)
            return True

        return self._write(work)

    def next_due(self, pool: Pool) -> float | None:
        """See Queue.next_due. Moves a part of the accepted runs. If more are left, one of them may be due."""
        more = claims.move_arrived_runs(self._connections)
        due = queries.next_due(self._connections, pool)
        if not more:
            return due
        now = self.now()
        return now if due is None else min(due, now)

    # OperatorCommands

    def pause(self, playbook: str | None, pause: Pause) -> None:
        """See OperatorCommands.pause. Changes the queue of each target whose next run is of the playbook."""
        name = ALL_PLAYBOOKS if playbook is None else playbook
        self._change_queues(lambda c: operator_commands.pause(c, name, pause))

    def resume(self, playbook: str | None) -> None:
        """See OperatorCommands.resume."""
        self._change_queues(lambda c: operator_commands.resume(c, playbook))

    def end_pauses(self, now: float) -> list[str]:
        """See OperatorCommands.end_pauses."""
        return self._change_queues(lambda c: operator_commands.end_pauses(c, now))

    def _change_queues(self, work: Callable[[Connection], T]) -> T:
        """Run a transaction that changes all target queues: after a flood, there are many."""
        result: T = self._connections.run(work, longer=_QUEUES_SECONDS)
        return result

    # State

    def save_throttle_windows(self, changes: Mapping[str, Any]) -> None:
        """See State.save_throttle_windows."""
        self._write(lambda c: windows.write(c, "throttle_windows", changes))

    def save_offset(self, key: str, offset: Any) -> None:
        """See State.save_offset."""
        value = json_codec.encode_json(offset)
        self._write(
            lambda c: c.execute(
                "INSERT INTO offsets VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (index_key(key), value),
            )
        )

    # BudgetStore

    def budget_windows(self) -> Mapping[str, Any]:
        """See BudgetStore.budget_windows."""
        return self._read(lambda c: saved_state.windows(c, "budget_windows"))

    def update_budgets(
        self,
        keys: Collection[str],
        decide: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], T]],
        now: float,
    ) -> T:
        """See BudgetStore.update_budgets. The rows are locked in the order of their keys."""
        del now  # old windows are deleted with the old runs

        def work(connection: Connection) -> T:
            changes, result = decide(windows.lock(connection, "budget_windows", keys))
            windows.write(connection, "budget_windows", changes)
            return result

        return self._write(work)

    # Maintenance

    def delete_runs(self, before: float) -> int:
        """See Maintenance.delete_runs. Drops whole days."""
        exact = self._exact_retention
        over = min(self.now(), before)
        self._prepare_history()  # so that retention sees every run
        self._write(lambda c: retention.delete_old_records(c, before))
        _repeat(lambda: self._write(lambda c: retention.delete_unused_rows(c, over)))
        _repeat(lambda: self._old_ids.delete(self._write, before))
        with self._connections.session() as connection:
            retention.drop_days(connection, before)
        return self._write(lambda c: retention.delete_runs(c, before, exact=exact))

    def strip_runs(self, before: float) -> int:
        """See Maintenance.strip_runs. Drops whole days. The ids of their runs stay."""
        if self._exact_retention:
            return super().strip_runs(before)
        with self._connections.session() as connection:
            retention.drop_days(connection, before)
        return 0

    def fill_ratio(self) -> float:
        """See Maintenance.fill_ratio. Also creates the partitions of the next days."""
        with self._connections.session() as connection:
            create_partitions(connection)
            row = connection.execute(
                "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::float8 AS size FROM pg_class"
                " WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
            ).fetchone()
        return min(1.0, float(row["size"]) / MAX_BYTES) if row else 0.0

    def write_error(self) -> str | None:
        """See Maintenance.write_error."""
        return self._writer.probe()

    def close(self) -> None:
        """See Maintenance.close. The claims of this process are free on return."""
        with self._closing:
            self._writer.close()
            self._settlements.close()
            self._liveness.close()
            self._connections.close()
            self._stopping.set()  # last, because a server that does not answer would stop each of these
            self._watchdog.join()

    def _watch(self) -> None:
        """Abort the transactions that get no answer, so that their callers fail instead of hanging."""
        while not self._stopping.wait(RENEW_INTERVAL):
            self._writer.end_stalled()
            self._settlements.end_stalled()
            self._connections.end_stalled()
            self._liveness.end_stalled()

    def _write(self, work: Callable[[Connection], T]) -> T:
        result: T = self._connections.run(work)
        return result

    def _read(self, query: Callable[[Connection], T]) -> T:
        with self._connections.session() as connection:
            return query(connection)

    def _prepare_history(self) -> None:
        """Move the runs that are accepted now to the target queues. Others can arrive without an end meanwhile.

        If the journal cannot be written, readers see it as it is.
        """
        with contextlib.suppress(JournalError):
            found = before = queries.arrived(self._connections)
            while found and before and found[0] <= before[1]:
                claims.move_arrived_runs(self._connections, wait=True)
                found = queries.arrived(self._connections)

    def _begin_settle(self, settlement: Settlement) -> Callable[[], bool]:
        return self._settlements.submit(settlement).result

    def _add_undo_intent(
        self, key: ClaimKey, intent: UndoIntent, attempt_state: Mapping[str, Any], now: float
    ) -> bool:
        return self._write(lambda c: undo_intents.add(c, key, intent, attempt_state, now))

    def _queue_key(self, target: str) -> str:
        return index_key(target)


def _repeat(delete: Callable[[], int]) -> None:
    """Delete rows until none is left, or until the next call of ``delete_runs``."""
    for _ in range(_MAX_DELETIONS):
        if not delete():
            return
