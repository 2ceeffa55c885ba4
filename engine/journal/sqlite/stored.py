"""The part of the embedded journal that works nothing off: what people ask and decide, and what is noted."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.journal import codec
from engine.journal.codec import UnreadableError
from engine.journal.protocol import Pause, RunRecord
from engine.journal.sqlite import dry_run, inbox, operator_commands, queries, retention
from engine.journal.sqlite.key_value import kept, remember
from engine.model import json_codec
from engine.model.errors import JournalError
from engine.model.playbook import ALL_PLAYBOOKS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from engine.journal.hydrate import Readers, Records
    from engine.journal.protocol import DeadLetter, Decision, DroppedRuns, RunFilter
    from engine.journal.sqlite.group_commit import GroupCommitWriter
    from engine.journal.sqlite.inbox import Inbox
    from engine.journal.sqlite.quota import Quota


class Stored:
    """Reads with connections of its own, writes with that of the one thread that does."""

    _readers: Readers
    _records: Records
    _writer: GroupCommitWriter
    _arriving: Inbox
    _room: Quota

    def find(self, run_id: str) -> RunRecord | None:
        """See Journal.find. Raises JournalError where this engine cannot read the run."""
        self._enter_all()
        row = self._readers.row("SELECT * FROM runs WHERE id = ?", run_id)
        return None if row is None else self._records.record(row)

    def find_ids(self, prefix: str) -> list[str]:
        """See Journal.ids."""
        self._enter_all()
        with self._readers.lend() as connection:
            found = connection.execute(
                "SELECT id FROM runs WHERE id >= ? AND id < ? AND undoes IS NULL LIMIT 3",
                (prefix, prefix + "g"),
            ).fetchall()
        return [row["id"] for row in found]

    def counts(self) -> dict[str, int]:
        """See Journal.counts; reads indexes through, some 20 ms for a million runs."""
        with self._readers.lend() as connection:
            return queries.counts(connection)

    def runs(self, wanted: RunFilter) -> list[RunRecord]:
        """See Journal.runs; what this engine cannot read is left out."""
        self._enter_all()
        with self._readers.lend() as connection:
            found = queries.select(connection, wanted)
        records = []
        for row in found:
            with contextlib.suppress(UnreadableError):
                records.append(self._records.record(row))
        return records

    def decide(self, run_id: str, decision: Decision) -> bool:
        """See Journal.decide."""
        work = partial(operator_commands.decide, run_id=run_id, decision=decision)
        return self._writer.submit(work).result()

    def retry(self, run_id: str, position: int, decision: Decision) -> bool:
        """See Journal.retry."""
        record = self.find(run_id)
        if record is None or record.outcome is None or not record.run.steps:
            return False
        again = operator_commands.Again(
            run_id, position, record.run.steps[position], record.results[:position]
        )
        return self._writer.submit(
            partial(operator_commands.retry, again=again, decision=decision)
        ).result()

    def pause(self, playbook: str | None, pause: Pause) -> None:
        """See Journal.pause."""
        name = ALL_PLAYBOOKS if playbook is None else playbook
        self._writer.submit(partial(operator_commands.pause, playbook=name, pause=pause)).result()

    def end_pauses(self, now: float) -> list[str]:
        """See Journal.end_pauses."""
        return self._writer.submit(partial(operator_commands.end_pauses, now=now)).result()

    def resume(self, playbook: str | None) -> None:
        """See Journal.resume."""
        self._writer.submit(partial(operator_commands.resume, playbook=playbook)).result()

    def paused(self) -> dict[str, Pause]:
        """See Journal.paused."""
        with self._readers.lend() as connection:
            found = connection.execute("SELECT * FROM paused").fetchall()
        return {
            row["playbook"]: Pause(row["by"], row["since"], row["until"], row["reason"])
            for row in found
        }

    def save_dropped(
        self, dead_letters: Sequence[DeadLetter], dropped_runs: Sequence[DroppedRuns]
    ) -> None:
        """See Journal.note."""
        self._writer.submit(partial(retention.note, dead=dead_letters, drops=dropped_runs)).result()

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """See Journal.dead."""
        with self._readers.lend() as connection:
            return retention.dead(connection, limit)

    def dropped_runs(self, wanted: RunFilter) -> list[DroppedRuns]:
        """See Journal.drops."""
        with self._readers.lend() as connection:
            return retention.drops(connection, wanted.playbook, wanted.since, wanted.limit)

    def delete_runs(self, before: float) -> int:
        """See Journal.forget."""

        def work(connection: sqlite3.Connection) -> int:
            self._arriving.look(connection)  # what is forgotten is not among its ids either
            return retention.forget(connection, before)

        return self._writer.submit(work).result()

    def strip_runs(self, before: float) -> int:
        """See Journal.strip."""
        return self._writer.submit(partial(retention.strip, before=before)).result()

    def fill_ratio(self) -> float:
        """See Journal.fill."""
        with self._readers.lend() as connection:
            return self._room.look(connection)

    def key_values(self) -> dict[str, Any]:
        """See Journal.memory."""
        with self._readers.lend() as connection:
            told = "SELECT key, value FROM memory WHERE key != ?"
            kept = connection.execute(told, (dry_run.KEY,)).fetchall()
        return {row["key"]: codec.decode(row["value"]) for row in kept}

    def save_key_values(self, key_values: Mapping[str, Any]) -> None:
        """See Journal.remember."""
        self._writer.submit(partial(remember, memory=kept(key_values))).result()

    def save_set(self, digest: str, files: Mapping[str, bytes]) -> None:
        """See Journal.save_set."""
        row = (digest, json_codec.encode_json(dict(files)))
        self._writer.submit(
            lambda connection: connection.execute(
                "INSERT INTO sets VALUES (1, ?, ?) ON CONFLICT DO UPDATE"
                " SET digest = excluded.digest, files = excluded.files",
                row,
            )
        ).result()

    def last_set(self) -> tuple[str, dict[str, bytes]] | None:
        """See Journal.last_set."""
        row = self._readers.row("SELECT digest, files FROM sets")
        if row is None:
            return None
        with codec.readable("set of playbooks"):
            return row["digest"], codec.to_files(row["files"])

    def _enter_all(self) -> None:
        """Have all that was accepted be in the lanes, for whoever looks for a run there.

        A journal that cannot be written is read as it stands.
        """
        with self._readers.lend() as connection:
            more = inbox.first(connection) is not None
        with contextlib.suppress(JournalError):
            while more:
                more = self._writer.submit(self._arriving.enter).result()
