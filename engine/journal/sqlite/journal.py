"""The embedded journal: one SQLite file, owned by one engine, that survives a power cut.

The engine process owns it. The worker process is its partner (see engine.runtime.worker_channel).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.journal import codec
from engine.journal.codec import UnreadableError
from engine.journal.hydrate import Readers, Records
from engine.journal.protocol import AcceptBatch
from engine.journal.sqlite import (
    dry_run,
    inbox,
    operator_commands,
    outcomes,
    queries,
    scheduler,
    schema,
    undo_intents,
)
from engine.journal.sqlite.bloom_filter import brief
from engine.journal.sqlite.checkpoint import Checkpoints
from engine.journal.sqlite.gathering import Gathering
from engine.journal.sqlite.group_commit import GroupCommitWriter
from engine.journal.sqlite.inbox import Inbox
from engine.journal.sqlite.inbox_rows import inbox_batch
from engine.journal.sqlite.key_value import kept, remember
from engine.journal.sqlite.quota import FULL, Quota
from engine.journal.sqlite.scheduler import Holder
from engine.journal.sqlite.storage import Place
from engine.journal.sqlite.storage import room as room_on
from engine.journal.sqlite.stored import Stored
from engine.journal.sqlite.transaction import Together
from engine.journal.sqlite.undo_intents import Held
from engine.journal.sqlite.watchdog import Watchdog
from engine.model import json_codec
from engine.model.errors import JournalError
from engine.model.run import Claim, Outcome, StepResult, advance, run_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from engine.journal.protocol import Decision
    from engine.journal.sqlite.outcomes import Ended
    from engine.model.calls import ObjectChange
    from engine.model.playbook import Playbook, Pool
    from engine.model.run import Notice, Run


class SqliteJournal(Stored):
    """A journal in a SQLite file.

    thaw: makes a playbook of its snapshot; raises PlaybookError where this engine cannot read it.
    lease_margin: seconds that a lease lasts beyond its step's timeout. most: bytes of the file, else as its
    disk has room. partner: of a process that owns it and has it open; it waits for an earlier partner to end.
    dry: in a dry run, which claims no undoings and nothing that a live engine accepted (aside: how many runs
    those are).
    Raises JournalError where the file cannot be opened or another process owns it.
    """

    def __init__(
        self,
        path: Path | str,
        thaw: Callable[[bytes], Playbook],
        lease_margin: float = 10.0,
        most: int | None = None,
        *,
        partner: bool = False,
        dry: bool = False,
    ) -> None:
        path = Path(path).resolve()
        self._dry = dry
        self.postponed_runs = 0
        self._margin = lease_margin
        self._lock = schema.partner(path) if partner else schema.own(path)
        try:
            if not partner:
                schema.prepare(path)
            self._readers = Readers(partial(schema.connect, path, writes=False))
        except (JournalError, sqlite3.Error) as error:
            os.close(self._lock)
            raise JournalError(str(error)) from error
        self._room = Quota(lambda: room_on(path.parent) if most is None else most)
        self._arriving = Inbox(self._room)
        self._sieve = None
        if not partner:
            with self._readers.lend() as connection:
                self._room.look(connection)
                self._arriving.remember(connection)
                self._sieve = queries.sieve(connection, self._arriving.ids)
        self._records = Records(self._readers, thaw)
        writes = partial(schema.connect, path, writes=True, most=most)
        turn, gather = schema.Turn(self._lock), Gathering() if partner else None
        self._flush, name = schema.Flush(path), f"journal {path.name}"
        self._writer = GroupCommitWriter(
            writes, name, self._flush, self._arriving.ended, turn, gather=gather
        )
        # a partner has nobody waiting whom another answer would serve: what it wrote is what counts
        self._watch = None if partner else Watchdog(self._writer, Place(path, self._lock).lost)
        self._checkpoints = Checkpoints(writes, turn) if partner else None
        self._ending = threading.Lock()
        if not partner:
            self._begin()

    def accept(self, accepted: AcceptBatch, now: float) -> Future[None]:
        """See Journal.accept; the records are turned into JSON here, in the caller's thread."""
        try:
            coming = inbox_batch(accepted, now)
            # before it costs those beside it their common write
            if not self._room.has(coming.need):
                raise JournalError(FULL)
            together = Together(self._arriving.write, coming)
            memory = kept(accepted.key_values)
            if self._sieve:
                self._sieve.add(*coming.ids)
        except JournalError as error:
            failed: Future[None] = Future()
            failed.set_exception(error)
            return failed
        return self._writer.join(together, partial(remember, memory=memory) if memory else None)

    def known(self, ids: Collection[str]) -> set[str]:
        """See Journal.known; about 2 us for an id that is new, and 50 us for one that may not be."""
        sieve, came = self._sieve, self._arriving.ids
        known = set()
        asked = []
        for id_ in ids:
            short = brief(id_)
            if sieve is not None and sieve.new(short):
                continue
            if short in came:  # asked first, for an id goes from there to the runs
                known.add(id_)
            else:
                asked.append(id_)
        if asked:
            with self._readers.lend() as connection:
                told = "SELECT 1 FROM runs WHERE id = ?"
                known |= {id_ for id_ in asked if connection.execute(told, (id_,)).fetchone()}
        return known

    def claim(self, pool: Pool, limit: int, now: float) -> list[Claim]:
        """See Journal.claim. A run whose row cannot be read is ended as failed, and not given."""

        def work(connection: sqlite3.Connection) -> list[sqlite3.Row] | None:
            if not scheduler.promote(connection, now):
                return None
            undo = pool == "cluster" and not self._dry
            taken = undo_intents.take(connection, limit, now, self._margin) if undo else []
            taken += scheduler.take(connection, pool, limit - len(taken), now, self._margin)
            if len(taken) < limit and inbox.first(connection, pool) is not None:
                self._arriving.enter(connection)
                taken += scheduler.take(connection, pool, limit - len(taken), now, self._margin)
            return taken

        while (taken := self._writer.submit(work).result()) is None:
            pass  # much came due at once: other work goes in between
        claims = []
        for row in taken:
            try:
                claims.append(self._records.claim(row, now))
            except UnreadableError as error:
                self._bury(row, str(error), now)
        return claims

    def keep(
        self, claim: Claim, attempt_state: Mapping[str, Any], notice: Notice | None = None
    ) -> bool:
        """See Journal.keep; facts are laid over those that the run has."""
        json_codec.encode_json(attempt_state)
        coming = (
            None if notice is None else inbox_batch(AcceptBatch([notice.run]), notice.run.received)
        )
        known = b"" if notice is None else json_codec.encode_json(notice.attempt_state)

        def work(connection: sqlite3.Connection) -> bool:
            had = connection.execute(
                "SELECT facts FROM runs WHERE id = ?", (claim.run.id,)
            ).fetchone()
            if had is None:
                return False
            merged = {**codec.decode(had["facts"]), **attempt_state}
            kept = scheduler.keep(connection, _holder(claim), json_codec.encode_json(merged))
            if kept and coming:
                inbox.insert_at_once(connection, coming, known)
            return kept

        return self._writer.submit(work).result()

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        attempt_state: Mapping[str, Any],
    ) -> bool:
        """See Journal.add_undo_intent."""
        held = Held(claim.run.id, claim.step.name, claim.position, changes, until)
        return self._writer.submit(
            partial(
                undo_intents.hold,
                holder=_holder(claim),
                held=held,
                facts=attempt_state,
                now=claim.run.received,
            )
        ).result()

    def undo_times(self, key: str, exclude: str | None = None) -> list[float | None]:
        """See Journal.undo_times."""
        with self._readers.lend() as connection:
            return undo_intents.ends(connection, key, exclude)

    def undo(self, run_id: str, decision: Decision) -> list[str]:
        """See Journal.undo."""
        record = self.find(run_id)
        if record is None:
            return []

        def work(connection: sqlite3.Connection) -> list[str]:
            asked = undo_intents.ask(connection, run_id, decision.at)
            steps = [record.run.steps[position].name for position in asked]
            if steps:
                operator_commands.note(connection, run_id, replace(decision, step=", ".join(steps)))
            return steps

        return self._writer.submit(work).result()

    def adopt(
        self,
        run: Run,
        step: str,
        changes: Sequence[ObjectChange],
        until: float | None,
        *,
        now: float,
    ) -> bool:
        """See Journal.adopt."""
        position = [one.name for one in run.steps].index(step)
        held = Held(run.id, step, position, changes, until)
        done = StepResult(step, "done", "found in the cluster, and taken over")
        return self._writer.submit(
            partial(
                undo_intents.adopt,
                held=held,
                arrival=inbox_batch(AcceptBatch([run]), run.received),
                done=codec.from_results([done]),
                now=now,
            )
        ).result()

    def settle(self, claim: Claim, outcome: Outcome, now: float) -> str | None:
        """See Journal.settle."""
        holder = _holder(claim)
        if outcome.retry_in is not None:
            last = json_codec.encode_json(codec.attempted(claim, outcome))
            waits = outcomes.wait(holder, now + outcome.retry_in, last, outcome)
            return "waiting" if self._settled(waits) else None
        if claim.undo:
            said = (outcome.state, outcome.message)
            work = partial(
                undo_intents.end, holder=holder, step=claim.step.name, said=said, now=now
            )
            return outcome.state if self._writer.submit(work).result() else None
        results, position = advance(claim, outcome)
        raw = codec.from_results(results)
        if position is None:
            over = run_outcome(results)
            return over if self._settled(outcomes.end(holder, over, raw, now)) else None
        to = (position, claim.run.steps[position])
        return "next" if self._settled(outcomes.advance(holder, to, raw, now)) else None

    def next_due(self, pool: Pool) -> float | None:
        """See Journal.next_due."""
        with self._readers.lend() as connection:
            more = inbox.first(connection, pool) is not None
        if more:
            self._writer.submit(self._arriving.enter).result()
        with self._readers.lend() as connection:
            return queries.next_due(connection, pool, undo=pool == "cluster" and not self._dry)

    def write_error(self) -> str | None:
        """See Journal.write_error; after a failure a small write asks whether it still is so."""
        return self._writer.probe() or self._room.trouble

    def close(self) -> None:
        """See Journal.close; the thread has ended and the file is free when this returns."""
        with self._ending:
            if self._watch is not None:
                self._watch.close()
            self._writer.close()
            self._flush.close()
            if self._checkpoints is not None:
                self._checkpoints.close()
            self._readers.close()
            self._sieve = None
            self._arriving.ids.clear()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def _begin(self) -> None:
        """Put aside what a dry run must not work off, or take it back. Raises JournalError."""
        with self._readers.lend() as connection:
            was_dry = dry_run.under_way(connection)
        try:
            if self._dry:
                self._enter_all()
                self.postponed_runs = self._writer.submit(dry_run.put).result()
            elif was_dry:
                self._writer.submit(dry_run.take_back).result()
        except JournalError:
            self.close()
            raise

    def _bury(self, row: sqlite3.Row, why: str, now: float) -> None:
        """End a run that nobody can attempt, or it would be claimed and fail again forever."""
        try:
            results = codec.to_results(row["results"])
        except (KeyError, TypeError, ValueError):
            results = ()
        results += (StepResult(f"step {row['position'] + 1}", "failed", why),)
        holder = Holder(row["id"], row["fence"] + 1, row["target"])
        raw = codec.from_results(results)
        self._settled(outcomes.end(holder, "failed", raw, now))

    def _settled(self, ended: Ended) -> bool:
        return bool(self._writer.join(Together(outcomes.settle, ended)).result())


def _holder(claim: Claim) -> Holder:
    return Holder(claim.undo or claim.run.id, claim.fence, claim.run.target)
