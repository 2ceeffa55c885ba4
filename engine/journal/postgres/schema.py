"""The tables of the journal in PostgreSQL, and their migrations.

Table arrived: the accepted runs that are not in the target queues yet, one row for each batch. runs: for each
  run, a list of the first byte and the length of its event, the number of its playbook (from 0), id, target,
  namespace, times of receipt and start, throttle, and attempt state in hex. playbooks: for each version of a
  playbook, a list of name, digest, blob, revision, and pool and timeout of the first step.
Table runs: the other unfinished runs and the undos, with the columns of the SQLite journal. It stays small.
Table history: the runs that are over, one partition for each day of receipt.
Table run_ids: the ids of all runs, so that a repeated event starts no second run. An id of 32 hex digits is a
  uuid, whose row and index entry need half of the space of a text.
Table events: the encoded events, one row for each batch, one partition for each day. A run names the row, and
  the place of its event in it. The column is stored without compression, so that an event is read without
  the others.
Table targets: a row for each target queue. A transaction that changes the queue locks the row.
Table replicas: the processes that use the journal, and the version of the tables that each knows. One that does
  not renew its row is dead.
The other tables are those of the SQLite journal.

A migration adds tables, functions, and columns with a default, so that replicas of the previous version keep
working.
One that must change what they use increases OLDEST_READER. It is refused while they are live.
"""

from __future__ import annotations

import datetime as dt
from typing import LiteralString

VERSION = 1
"""Version of the tables. Each migration increases it."""
OLDEST_READER = 1
"""The oldest version of the engine's tables that can use a database of this version."""
SCHEMA_LOCK = 0x7469657263656C
"""The advisory lock of migrations and partitions: `tiercel` in ASCII."""

_RUN_COLUMNS = """
  seq bigint NOT NULL, id text COLLATE "C" NOT NULL, playbook text NOT NULL, digest text NOT NULL,
  blob text NOT NULL, day date NOT NULL, event uuid, event_start integer, event_length integer,
  target text COLLATE "C" NOT NULL, namespace text,
  received float8 NOT NULL, state text, leased boolean NOT NULL DEFAULT false,
  held boolean NOT NULL DEFAULT false, fence bigint NOT NULL DEFAULT 0, position integer, pool text,
  timeout float8, attempt integer NOT NULL DEFAULT 0, answers integer NOT NULL DEFAULT 0, began float8,
  due_at float8, results bytea NOT NULL DEFAULT '[]', last bytea, facts bytea NOT NULL DEFAULT '{}',
  outcome text, settled float8, undoes text COLLATE "C", revision text NOT NULL DEFAULT '',
  replica bigint, throttle text COLLATE "C"
"""
COLUMNS: LiteralString = (
    "seq, id, playbook, digest, blob, day, event, event_start, event_length, target, namespace, received, state,"
    " leased, held, fence, position, pool, timeout, attempt, answers, began, due_at, results, last, facts,"
    " outcome, settled, undoes, revision, replica, throttle"
)
"""The columns of `runs` and `history`, in one order."""
TABLES_1 = f"""
CREATE TABLE replicas (
  id bigint PRIMARY KEY, name text NOT NULL, process text NOT NULL,
  version text NOT NULL, tables integer NOT NULL, digest text NOT NULL DEFAULT '',
  started timestamptz NOT NULL DEFAULT clock_timestamp(), seen timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (
  fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_cost_delay = 0
);
CREATE TABLE run_ids (id uuid PRIMARY KEY, day date NOT NULL) WITH (
  autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1
);
CREATE TABLE snapshots (digest text PRIMARY KEY, snapshot bytea NOT NULL);
CREATE TABLE events (
  day date NOT NULL, id uuid NOT NULL, bodies bytea NOT NULL, PRIMARY KEY (day, id)
) PARTITION BY RANGE (day);
ALTER TABLE events ALTER COLUMN bodies SET STORAGE EXTERNAL;
CREATE TABLE events_other PARTITION OF events DEFAULT;
CREATE TABLE runs ({_RUN_COLUMNS}, PRIMARY KEY (id)) WITH (
  fillfactor = 70, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.05
);
CREATE SEQUENCE runs_seq OWNED BY runs.seq;
ALTER TABLE runs ALTER COLUMN seq SET DEFAULT nextval('runs_seq');
CREATE INDEX runs_lanes ON runs (target, state, seq) WHERE state IS NOT NULL;
CREATE INDEX runs_heads ON runs (pool, seq) WHERE state = 'head';
CREATE INDEX runs_timers ON runs (due_at) WHERE state IN ('waiting', 'leased') AND undoes IS NULL;
CREATE INDEX runs_undos ON runs (due_at) WHERE state IN ('waiting', 'leased') AND undoes IS NOT NULL;
CREATE INDEX runs_undoes ON runs (undoes) WHERE undoes IS NOT NULL;
CREATE INDEX runs_leased ON runs (replica) WHERE state = 'leased';
CREATE TABLE arrived (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, many integer NOT NULL, day date NOT NULL,
  event uuid NOT NULL, runs json NOT NULL, playbooks json NOT NULL
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE arrived ALTER COLUMN runs SET STORAGE EXTERNAL;
CREATE TABLE history ({_RUN_COLUMNS}, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE history_other PARTITION OF history DEFAULT;
CREATE INDEX history_seq ON history (seq);
CREATE INDEX history_event ON history (event);
CREATE INDEX history_id ON history (id);
CREATE VIEW all_runs AS SELECT {COLUMNS} FROM runs UNION ALL SELECT {COLUMNS} FROM history;
CREATE TABLE targets (target text COLLATE "C" PRIMARY KEY) WITH (
  fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_vacuum_cost_delay = 0
);
CREATE TABLE undo_intents (
  undo text COLLATE "C" NOT NULL, place integer NOT NULL, key text COLLATE "C" NOT NULL, until float8,
  change bytea NOT NULL, PRIMARY KEY (undo, place)
);
CREATE INDEX undo_intents_key ON undo_intents (key);
CREATE TABLE throttle_windows (
  key text COLLATE "C" PRIMARY KEY, value bytea, until float8 NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX throttle_windows_until ON throttle_windows (until);
CREATE TABLE budget_windows (
  key text COLLATE "C" PRIMARY KEY, value bytea, until float8 NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE TABLE offsets (key text COLLATE "C" PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE pauses (
  playbook text PRIMARY KEY, by text NOT NULL, since float8 NOT NULL, until float8, reason text NOT NULL
);
CREATE TABLE playbook_sets (
  id integer PRIMARY KEY CHECK (id = 1), digest text NOT NULL, files bytea NOT NULL, revision text NOT NULL
);
CREATE TABLE dead_letters (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, received float8 NOT NULL, source text NOT NULL,
  error text NOT NULL, body bytea NOT NULL
);
CREATE TABLE drops (
  playbook text NOT NULL, reason text NOT NULL, key text NOT NULL, hour bigint NOT NULL,
  count bigint NOT NULL, first float8 NOT NULL, last float8 NOT NULL,
  PRIMARY KEY (playbook, reason, key, hour)
);
CREATE INDEX drops_last ON drops (last);
"""


def day_of(received: float) -> dt.date:
    """Return the day of a time in epoch seconds, in UTC."""
    return dt.datetime.fromtimestamp(received, dt.UTC).date()
