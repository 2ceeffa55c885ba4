"""Triggers that record each change of the runs in the database, and the rows of the journal after the end.

The triggers see what the database does, not what the engine says that it did. Their records are written in the
transaction of the change, so they are also on the standby.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.history.records import QueueEvent, Row

if TYPE_CHECKING:
    import psycopg

SETTING = "history.process"
"""Setting of a session that names the replica and its start."""
_LIVE = (
    "OLD.state = 'leased' AND OLD.due_at > extract(epoch FROM clock_timestamp()) + 0.5"
    " AND EXISTS (SELECT FROM replicas WHERE replicas.id = OLD.replica)"
)
"""Whether the lease is in force. The engine's clock may be some milliseconds ahead."""
_RECORD = (
    "INSERT INTO observed (what, run, fence, target, undoes, replica, live) VALUES"
    " ('{what}', {row}.id, {row}.fence, {row}.target, {row}.undoes, {row}.replica, {live})"
)
_CLAIMED = _RECORD.format(what="claimed", row="NEW", live=_LIVE)
_FREED = _RECORD.format(what="freed", row="OLD", live=_LIVE)
_SETTLED = _RECORD.format(what="settled", row="OLD", live="false")
_ACCEPTED = _RECORD.format(what="accepted", row="NEW", live="false")
_JOINED = (
    "INSERT INTO observed (what, run, fence, target, replica, live)"
    " VALUES ('{what}', '', 0, '', {row}.id, false)"
)
_INSTALL = f"""
CREATE TABLE observed (
  place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at float8 NOT NULL DEFAULT extract(epoch FROM clock_timestamp()),
  what text NOT NULL, run text NOT NULL, fence bigint NOT NULL, target text NOT NULL, undoes text,
  replica bigint, live boolean NOT NULL,
  process text NOT NULL DEFAULT coalesce(current_setting('{SETTING}', true), '')
);
CREATE FUNCTION observe_run() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    {_ACCEPTED};
  ELSIF TG_OP = 'DELETE' THEN
    IF OLD.leased THEN {_SETTLED}; END IF;
  ELSIF NEW.state = 'leased' AND NEW.fence <> OLD.fence THEN
    {_CLAIMED};
  ELSIF OLD.leased AND NOT NEW.leased THEN
    {_SETTLED};
  ELSIF OLD.state = 'leased' AND NEW.state IS DISTINCT FROM 'leased' THEN
    {_FREED};
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER observe_run AFTER INSERT OR UPDATE OR DELETE ON runs
  FOR EACH ROW EXECUTE FUNCTION observe_run();
CREATE FUNCTION observe_replica() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    {_JOINED.format(what="joined", row="NEW")};
  ELSE
    {_JOINED.format(what="died", row="OLD")};
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER observe_replica AFTER INSERT OR DELETE ON replicas
  FOR EACH ROW EXECUTE FUNCTION observe_replica();
"""


def install(connection: psycopg.Connection) -> None:
    """Create the triggers in a database with the tables of the journal."""
    connection.execute(_INSTALL)


def with_process(url: str, process: str) -> str:
    """Return the URL of a database whose sessions name the replica and its start."""
    mark = "&" if "?" in url else "?"
    return f"{url}{mark}options={quote(f'-c {SETTING}={process}')}"


def read_queue(connection: psycopg.Connection) -> list[QueueEvent]:
    """Return the recorded changes. Those of liveness rows have the process of the row."""
    found = connection.execute(
        "SELECT place, at, what, run, fence, target, undoes, replica, process, live FROM observed ORDER BY place"
    ).fetchall()
    events = [QueueEvent(*row) for row in found]
    joined = {one.replica: one.process for one in events if one.what == "joined"}
    return [
        replace(one, process=joined.get(one.replica, "")) if one.what == "died" else one
        for one in events
        if one.what != "joined"
    ]


def read_rows(connection: psycopg.Connection) -> list[Row]:
    """Return the runs of the journal, without those that undo steps."""
    found = connection.execute(
        "SELECT id, playbook, target, state, outcome, results FROM all_runs WHERE undoes IS NULL ORDER BY seq"
    ).fetchall()
    return [
        Row(run, playbook, target, state, outcome, _results(results))
        for run, playbook, target, state, outcome, results in found
    ]


def read_undo_intents(connection: psycopg.Connection) -> list[str]:
    """Return the ids of the undos that have a time and are not done."""
    query = "SELECT DISTINCT undo FROM undo_intents WHERE until IS NOT NULL ORDER BY undo"
    return [undo for (undo,) in connection.execute(query).fetchall()]


def unfinished(connection: psycopg.Connection) -> int:
    """Return how many runs and scheduled undos are not over."""
    (count,) = connection.execute(
        "SELECT (SELECT count(*) FROM runs WHERE state IS NOT NULL)"
        " + (SELECT coalesce(sum(many), 0) FROM arrived)"
    ).fetchone() or (0,)
    return int(count)


def is_leasing(connection: psycopg.Connection, process: str) -> bool:
    """Return whether a process has a claim now."""
    query = (
        "SELECT FROM runs JOIN observed ON observed.what = 'joined' AND observed.replica = runs.replica"
        " WHERE runs.state = 'leased' AND observed.process = %s"
    )
    return connection.execute(query, (process,)).fetchone() is not None


def _results(raw: bytes) -> tuple[tuple[str, str, str], ...]:
    return tuple((one["step"], one["state"], one["message"]) for one in json.loads(raw))
