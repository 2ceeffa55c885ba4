"""The shared journal: one PostgreSQL database, used by several replicas of the engine.

Each method is a transaction on a connection of its own; accepted batches share those of the writer thread.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar

import psycopg

from engine.journal import codec
from engine.journal.codec import UnreadableError
from engine.journal.hydrate import Hydrator
from engine.journal.postgres import (
    accept,
    claims,
    operator_commands,
    queries,
    retention,
    schema,
    undo_intents,
    windows,
)
from engine.journal.postgres.claims import ClaimKey
from engine.journal.postgres.connection import Connections, connect, index_key, sentence
from engine.journal.postgres.liveness import RENEW_INTERVAL, Liveness
from engine.journal.postgres.migrations import MIGRATIONS
from engine.journal.postgres.start_checks import check_server
from engine.journal.postgres.undo_intents import UndoIntent
from engine.journal.postgres.writer import AcceptWriter
from engine.journal.records import MAX_IN_FORCE, AcceptBatch, Pause, Replica, SavedSet
from engine.model import json_codec
from engine.model.errors import JournalError
from engine.model.playbook import ALL_PLAYBOOKS
from engine.model.run import StepResult, advance, run_outcome
from engine.model.throttle_window import release, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from engine.journal.postgres.connection import Connection, Row, Server
    from engine.journal.postgres.liveness import Process
    from engine.journal.records import (
        ChangeInForce,
        DeadLetter,
        Decision,
        DecisionResult,
        DroppedRuns,
        RunFilter,
        RunRecord,
    )
    from engine.model.calls import ObjectChange
    from engine.model.playbook import Playbook, Pool
    from engine.model.run import Claim, Notice, Outcome, Run

T = TypeVar("T")
MAX_BYTES = 1 << 40
"""Size of the tables at which the fill ratio is 1. The size of the server's disk is not known."""
_FULL_CLASS = "53"
"""Class of the errors of PostgreSQL about missing resources."""


class PostgresJournal:
    """A journal in a PostgreSQL database. See engine.journal.protocol for its methods.

    Args:
        server: the database.
        process: this process, for its liveness row.
        playbook_from_snapshot: compiles a stored playbook. Raises PlaybookError if this engine cannot read it.
        lease_margin: seconds that a lease lasts beyond the timeout of its step.
        exact_retention: delete single runs that are too old, instead of whole days.

    Attributes:
        shared: True.
        name: the server and the database, for messages.
        warning: a sentence about a setting of the server, or None.

    Raises JournalError if the database cannot be used.
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
    ) -> None:
        self._lease_margin, self._exact_retention = lease_margin, exact_retention
        open_connection = partial(connect, server)
        self.name = server.name
        try:
            with contextlib.closing(open_connection()) as connection:
                self.warning = check_server(connection)
                schema.migrate(connection, MIGRATIONS)
            self._liveness = Liveness(open_connection, process)
        except (JournalError, psycopg.Error, OSError) as error:
            raise JournalError(
                f"cannot open the journal {server.name}: {sentence(error)}"
            ) from error
        self._connections = Connections(open_connection)
        self._writer = AcceptWriter(open_connection)
        self._hydrator = Hydrator(queries.RunLookups(self._connections), playbook_from_snapshot)
        self._stopping = threading.Event()
        self._closing = threading.Lock()
        self._watchdog = threading.Thread(target=self._watch, name="journal watchdog", daemon=True)
        self._watchdog.start()

    # Replicas

    def now(self) -> float:
        """Return the time of the database's clock, in epoch seconds."""
        return self._liveness.now()

    @property
    def claim_identity(self) -> int:
        """The identity under which this process claims now. A process that was dead gets another one."""
        return self._liveness.id

    def may_act(self, identity: int) -> bool:
        """Return whether this process may call the cluster for a claim of this identity."""
        return self._liveness.is_live(identity)

    def live_replicas(self) -> int:
        """Return the number of live replicas, this one included, as of the last second."""
        return self._liveness.replicas

    def set_digest(self, digest: str) -> None:
        """Publish the digest of the playbooks in force."""
        self._liveness.set_digest(digest)

    def replicas(self) -> list[Replica]:
        """Return the replicas, by name."""
        rows = self._connections.rows(
            "SELECT DISTINCT ON (name) name, version, digest, extract(epoch FROM started)::float8 AS started,"
            " extract(epoch FROM clock_timestamp() - seen)::float8 AS age FROM replicas"
            " ORDER BY name, process, started"
        )
        return [Replica(**row) for row in rows]

    # Queue

    def accept(self, accepted: AcceptBatch, now: float) -> Future[Mapping[str, str]]:
        """See Queue.accept. The batch is encoded in the thread of the caller."""
        try:
            batch = accept.encode_batch(accepted, now)
            json_codec.encode_json(dict(accepted.throttle_windows))
        except JournalError as error:
            failed: Future[Mapping[str, str]] = Future()
            failed.set_exception(error)
            return failed
        return self._writer.submit(batch)  # type: ignore[return-value]

    def release_throttle(self, run: str) -> None:
        """See Queue.release_throttle."""

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

        self._connections.run(work)

    def known(self, ids: Collection[str]) -> set[str]:
        """See Queue.known."""
        rows = self._connections.rows("SELECT id FROM run_ids WHERE id = ANY(%s)", [*ids])
        return {row["id"] for row in rows}

    def claim(self, pool: Pool, limit: int, now: float) -> list[Claim]:
        """See Queue.claim. A run whose row cannot be read ends as failed."""
        replica = self._liveness.id
        rows = self._connections.call(
            "SELECT * FROM claim_runs(%s, %s, %s, %s, %s)",
            pool, max(0, limit), now, self._lease_margin, replica,
        )  # fmt: skip
        claimed = []
        for row in rows:
            try:
                claimed.append(replace(self._hydrator.claim(row, now), replica=replica))
            except UnreadableError as error:
                self._end_unreadable(row, str(error), now)
        return claimed

    def keep(
        self, claim: Claim, attempt_state: Mapping[str, Any], notice: Notice | None = None
    ) -> bool:
        """See Queue.keep."""
        json_codec.encode_json(attempt_state)
        key = _key(claim)
        notice_state = json_codec.encode_json(notice.attempt_state) if notice else b""

        def work(connection: Connection) -> bool:
            stored = connection.execute(
                "SELECT facts FROM runs WHERE id = %s FOR UPDATE", (claim.run.id,), binary=True
            ).fetchone()
            if stored is None:
                return False
            merged = json_codec.encode_json({**codec.decode(stored["facts"]), **attempt_state})
            if not claims.write_attempt_state(connection, key, merged):
                return False
            if notice:
                batch = accept.encode_batch(AcceptBatch([notice.run]), notice.run.received)
                accept.BatchWriter().write(connection, [batch])
                connection.execute(
                    "UPDATE runs SET facts = %s WHERE id = %s", (notice_state, notice.run.id)
                )
            return True

        return bool(self._connections.run(work))

    def settle(self, claim: Claim, outcome: Outcome, now: float) -> str | None:
        """See Queue.settle."""
        key = _key(claim)
        if outcome.retry_in is not None:
            last = json_codec.encode_json(codec.attempted(claim, outcome))
            waits = self._settle(
                "SELECT wait_run(%s, %s, %s, %s, %s, %s, %s) AS done",
                key, now + outcome.retry_in, last, outcome.state == "held", int(outcome.answered),
            )  # fmt: skip
            return "waiting" if waits else None
        if claim.undo:
            result, name = (outcome.state, outcome.message), claim.step.name
            undone = self._connections.run(lambda c: undo_intents.settle(c, key, name, result, now))
            return outcome.state if undone else None
        results, position = advance(claim, outcome)
        raw = codec.from_results(results)
        if position is None:
            over = run_outcome(results)
            return over if self._end(key, over, raw, now) else None
        step = claim.run.steps[position]
        advanced = self._settle(
            "SELECT advance_run(%s, %s, %s, %s, %s, %s, %s, %s) AS done",
            key, now, raw, position, step.pool, step.timeout,
        )  # fmt: skip
        return "next" if advanced else None

    def next_due(self, pool: Pool) -> float | None:
        """See Queue.next_due."""
        while self._connections.call("SELECT move_new_runs() AS more")[0]["more"]:
            pass
        return queries.next_due(self._connections, pool)

    # UndoLog

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        attempt_state: Mapping[str, Any],
    ) -> bool:
        """See UndoLog.add_undo_intent."""
        key = _key(claim)
        intent = UndoIntent(claim.run.id, claim.step.name, claim.position, changes, until)
        now = claim.run.received
        return bool(
            self._connections.run(lambda c: undo_intents.add(c, key, intent, attempt_state, now))
        )

    def undo_times(self, key: str, exclude: str | None = None) -> list[float | None]:
        """See UndoLog.undo_times."""
        with self._connections.transaction(writes=False) as connection:
            return undo_intents.undo_times(connection, key, exclude)

    def adopt(
        self,
        run: Run,
        step: str,
        changes: Sequence[ObjectChange],
        until: float | None,
        *,
        now: float,
    ) -> bool:
        """See UndoLog.adopt."""
        position = [one.name for one in run.steps].index(step)
        intent = UndoIntent(run.id, step, position, changes, until)
        done = StepResult(step, "done", "found in the cluster, and taken over")
        raw = codec.from_results([done])
        return bool(self._connections.run(lambda c: undo_intents.adopt(c, intent, run, raw, now)))

    # OperatorCommands

    def decide(self, run_id: str, decision: Decision, approvals: int = 1) -> DecisionResult | None:
        """See OperatorCommands.decide."""
        result: DecisionResult | None = self._connections.run(
            lambda c: operator_commands.decide(c, run_id, decision, approvals)
        )
        return result

    def retry(self, run_id: str, position: int, decision: Decision) -> bool:
        """See OperatorCommands.retry."""
        record = self.find(run_id)
        if record is None or record.outcome is None or not record.run.steps:
            return False
        again = operator_commands.Retry(
            run_id,
            record.run.target,
            position,
            record.run.steps[position],
            record.results[:position],
        )
        return bool(self._connections.run(lambda c: operator_commands.retry(c, again, decision)))

    def undo(self, run_id: str, decision: Decision) -> list[str]:
        """See OperatorCommands.undo."""
        record = self.find(run_id)
        if record is None:
            return []

        def work(connection: Connection) -> list[str]:
            positions = undo_intents.make_due(connection, run_id, decision.at)
            steps = [record.run.steps[position].name for position in positions]
            if steps:
                with_steps = replace(decision, step=", ".join(steps))
                operator_commands.add_decision(connection, run_id, with_steps)
            return steps

        steps: list[str] = self._connections.run(work)
        return steps

    def pause(self, playbook: str | None, pause: Pause) -> None:
        """See OperatorCommands.pause."""
        name = ALL_PLAYBOOKS if playbook is None else playbook
        self._connections.run(lambda c: operator_commands.pause(c, name, pause))

    def resume(self, playbook: str | None) -> None:
        """See OperatorCommands.resume."""
        self._connections.run(lambda c: operator_commands.resume(c, playbook))

    def end_pauses(self, now: float) -> list[str]:
        """See OperatorCommands.end_pauses."""
        ended: list[str] = self._connections.run(lambda c: operator_commands.end_pauses(c, now))
        return ended

    # History

    def find(self, run_id: str) -> RunRecord | None:
        """See History.find. Raises UnreadableError if this engine cannot read the run."""
        row = queries.find(self._connections, run_id)
        return None if row is None else self._hydrator.record(row)

    def find_ids(self, prefix: str) -> list[str]:
        """See History.find_ids."""
        rows = self._connections.rows(
            "SELECT id FROM all_runs WHERE id >= %s AND id < %s AND undoes IS NULL LIMIT 3",
            prefix,
            prefix + "g",
        )
        return [row["id"] for row in rows]

    def counts(self) -> dict[str, int]:
        """See History.counts."""
        return queries.counts(self._connections)

    def runs(self, wanted: RunFilter) -> list[RunRecord]:
        """See History.runs. Leaves out the runs that this engine cannot read."""
        records = []
        for row in queries.select_runs(self._connections, wanted):
            with contextlib.suppress(UnreadableError):
                records.append(self._hydrator.record(row))
        return records

    def in_force(self) -> list[ChangeInForce]:
        """See History.in_force."""
        found = self._connections.rows(
            "SELECT runs.*, undo_intents.change, undo_intents.until, of.results AS ended FROM undo_intents"
            " JOIN runs ON runs.id = undo_intents.undo LEFT JOIN all_runs AS of ON of.id = runs.undoes"
            " ORDER BY runs.seq, undo_intents.place LIMIT %s",
            MAX_IN_FORCE,
        )
        return [self._hydrator.change_in_force(row) for row in found]

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """See History.dead_letters."""
        return retention.dead_letters(self._connections, limit)

    def dropped_runs(self, wanted: RunFilter) -> list[DroppedRuns]:
        """See History.dropped_runs."""
        return retention.dropped_runs(
            self._connections, wanted.playbook, wanted.since, wanted.limit
        )

    # State

    def throttle_windows(self) -> dict[str, Any]:
        """See State.throttle_windows."""
        with self._connections.transaction(writes=False) as connection:
            return windows.load(connection, "throttle_windows")

    def save_throttle_windows(self, changes: Mapping[str, Any]) -> None:
        """See State.save_throttle_windows."""
        self._connections.run(lambda c: windows.write(c, "throttle_windows", changes))

    def offset(self, key: str) -> Any:
        """See State.offset."""
        row = self._connections.row("SELECT value FROM offsets WHERE key = %s", index_key(key))
        return None if row is None else codec.decode(row["value"])

    def save_offset(self, key: str, offset: Any) -> None:
        """See State.save_offset."""
        value = json_codec.encode_json(offset)
        self._connections.run(
            lambda c: c.execute(
                "INSERT INTO offsets VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (index_key(key), value),
            )
        )

    def paused(self) -> dict[str, Pause]:
        """See State.paused."""
        rows = self._connections.rows("SELECT playbook, by, since, until, reason FROM pauses")
        return {
            row["playbook"]: Pause(row["by"], row["since"], row["until"], row["reason"])
            for row in rows
        }

    def save_set(self, digest: str, files: Mapping[str, bytes], revision: str = "") -> None:
        """See State.save_set."""
        row = (digest, json_codec.encode_json(dict(files)), revision)
        self._connections.run(
            lambda c: c.execute(
                "INSERT INTO playbook_sets VALUES (1, %s, %s, %s) ON CONFLICT (id) DO UPDATE"
                " SET digest = excluded.digest, files = excluded.files, revision = excluded.revision",
                row,
            )
        )

    def last_set(self) -> SavedSet | None:
        """See State.last_set."""
        row = self._connections.row("SELECT digest, files, revision FROM playbook_sets")
        if row is None:
            return None
        with codec.readable("set of playbooks"):
            return SavedSet(row["digest"], codec.to_files(row["files"]), row["revision"])

    # BudgetStore

    def budget_windows(self) -> Mapping[str, Any]:
        """See BudgetStore.budget_windows."""
        with self._connections.transaction(writes=False) as connection:
            return windows.load(connection, "budget_windows")

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

        result: T = self._connections.run(work)
        return result

    # Maintenance

    def save_dropped(
        self, dead_letters: Sequence[DeadLetter], dropped_runs: Sequence[DroppedRuns]
    ) -> None:
        """See Maintenance.save_dropped."""
        self._connections.run(lambda c: retention.save_dropped(c, dead_letters, dropped_runs))

    def delete_runs(self, before: float) -> int:
        """See Maintenance.delete_runs. Drops whole days."""
        now, exact = self.now(), self._exact_retention
        self._connections.run(lambda c: retention.delete_old_records(c, before, min(now, before)))
        self._connections.run(lambda c: retention.drop_days(c, before))
        deleted: int = self._connections.run(
            lambda c: retention.delete_runs(c, before, exact=exact)
        )
        return deleted

    def strip_runs(self, before: float) -> int:
        """See Maintenance.strip_runs."""
        stripped: int = self._connections.run(lambda c: retention.strip_runs(c, before))
        return stripped

    def fill_ratio(self) -> float:
        """See Maintenance.fill_ratio. Also creates the partitions of the next days."""
        today = schema.day_of(self.now())
        with self._connections.session() as connection:
            schema.create_partitions(connection, today)
            if self._exact_retention:
                connection.execute("VACUUM events_other, history_other, runs")
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
            self._stopping.set()
            self._watchdog.join()
            self._writer.close()
            self._liveness.close()
            self._connections.close()

    def _watch(self) -> None:
        """End the transactions that get no answer, so that their callers fail instead of hanging."""
        while not self._stopping.wait(RENEW_INTERVAL):
            self._writer.end_stalled()
            self._connections.end_stalled()
            self._liveness.end_stalled()

    def _end_unreadable(self, row: Row, why: str, now: float) -> None:
        """End a run that this engine cannot read. Otherwise it would be claimed again forever."""
        try:
            results = codec.to_results(row["results"])
        except (KeyError, TypeError, ValueError):
            results = ()
        results += (StepResult(f"step {row['position'] + 1}", "failed", why),)
        key = ClaimKey(row["id"], row["fence"] + 1, row["target"])
        raw = codec.from_results(results)
        self._end(key, "failed", raw, now)

    def _end(self, key: ClaimKey, outcome: str, results: bytes, now: float) -> bool:
        query: LiteralString = "SELECT end_run(%s, %s, %s, %s, %s, %s) AS done"
        return self._settle(query, key, results, outcome, now)

    def _settle(self, query: LiteralString, key: ClaimKey, *values: Any) -> bool:
        """Call a function that settles a claim. Return whether the claim was the newest."""
        (row,) = self._connections.call(query, key.id, key.fence, key.target, *values)
        return bool(row["done"])


def _key(claim: Claim) -> ClaimKey:
    return ClaimKey(claim.undo or claim.run.id, claim.fence, index_key(claim.run.target))
