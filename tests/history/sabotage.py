"""Ways to break the journal on purpose: in its functions in one database, or in one statement of the engine."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from engine.journal import codec
from engine.journal.postgres import forwarding, windows
from engine.journal.postgres.connection import index_key
from engine.journal.spool.queue import SpooledQueue
from tests.support.engine import PATIENCE

if TYPE_CHECKING:
    import psycopg
    import pytest


def rewrite(connection: psycopg.Connection, old: str, new: str) -> None:
    """Replace what a regular expression finds in all functions of the database. Fails if it finds nothing."""
    found = connection.execute(
        "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    ).fetchall()
    changed = [re.sub(old, new, text) for (text,) in found if re.search(old, text)]
    assert changed, f"no function of the journal contains {old}"
    for text in changed:
        connection.execute(text)


def lose_rows(connection: psycopg.Connection) -> None:
    """Lose every second run, although its id is written."""
    connection.execute(
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.seq % 2 = 0 THEN RETURN NULL; END IF; RETURN NEW; END $$;"
        " CREATE TRIGGER lose BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION lose()"
    )


def claim_without_lock(connection: psycopg.Connection) -> None:
    """Claim runs without the lock of their targets."""
    rewrite(connection, "FOR UPDATE OF targets SKIP LOCKED", "")


def accept_old_fences(connection: psycopg.Connection) -> None:
    """Let every claim of a run settle it, also an old one."""
    rewrite(connection, r"fence = fence_ AND leased", "true")


def swap_order(connection: psycopg.Connection) -> None:
    """Let the newest run of a target be its head."""
    rewrite(connection, r"ORDER BY seq LIMIT 1", "ORDER BY seq DESC LIMIT 1")


def read_budgets_without_lock(monkeypatch: pytest.MonkeyPatch, readers: int) -> None:
    """Read budget windows without a lock. Each read waits for so many readers, so that all see the same."""
    barrier = threading.Barrier(readers)

    def lock(connection, table, keys):
        stored = {index_key(key): key for key in keys}
        rows = connection.execute(
            f"SELECT key, value FROM {table} WHERE key = ANY(%s)",  # noqa: S608 - a constant
            ([*stored],),
            binary=True,
        ).fetchall()
        barrier.wait(PATIENCE)
        return {stored[row["key"]]: codec.decode(row["value"]) for row in rows if row["value"]}

    monkeypatch.setattr(windows, "lock", lock)


def replay_spool(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> threading.Event:
    """Forward the runs of a spool twice, with a journal that knows neither their ids nor the mark any more.

    The second time begins when the returned event is set.
    """
    connection.execute(
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
        " DELETE FROM run_ids WHERE id = NEW.id; RETURN NEW; END $$;"
        " CREATE TRIGGER forget BEFORE INSERT ON run_ids FOR EACH ROW EXECUTE FUNCTION forget()"
    )
    again, delete = threading.Event(), SpooledQueue._delete_forwarded

    def keep(self):
        if not again.is_set():
            again.wait(PATIENCE)
            self._forwarded = 0
        else:
            delete(self)

    monkeypatch.setattr(SpooledQueue, "_delete_forwarded", keep)
    monkeypatch.setattr(forwarding, "last_forwarded", lambda _: 0)
    return again
