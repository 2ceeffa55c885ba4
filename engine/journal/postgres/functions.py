"""The functions of the database: claim, settle and the order of a target queue, each in one round trip.

The states of a run are those of the SQLite journal (see engine.journal.sqlite.claims). Only a transaction that
has locked the row of a target changes the states of its queue.

Each statement of a function sees what was committed before the statement began. The row of a target is therefore
locked in one statement, and its queue is read in the next one. In one statement, a run could be claimed twice.

A function that changes its meaning gets a new name, so that replicas of the previous version keep working.
"""

from __future__ import annotations

from typing import LiteralString

from engine.journal.postgres.arrival_functions import ACCEPT, INDEXED, MOVE
from engine.journal.postgres.schema import COLUMNS

MAX_DUE_RUNS = 500
"""Runs that one claim makes ready."""

ROW: LiteralString = (
    "seq, id, playbook, digest, blob, target, received, state, leased, held, fence, position, pool, timeout,"
    " attempt, answers, began, due_at, results, last, facts, outcome, undoes, revision"
)
"""The columns from which records are built."""
_ROW_TYPE = """
CREATE TYPE run_row AS (
  seq bigint, id text, playbook text, digest text, blob text, target text, received float8, state text,
  leased boolean, held boolean, fence bigint, position integer, pool text, timeout float8, attempt integer,
  answers integer, began float8, due_at float8, results bytea, last bytea, facts bytea, outcome text,
  undoes text, revision text, event bytea
);
"""
EVENT_OF: LiteralString = (
    "(SELECT substring(bodies FROM event_start FOR event_length) FROM events"
    " WHERE events.day = {0}.day AND events.id = {0}.event)"
)
"""The encoded event of a run, for the name of its table."""
_WITH_EVENT = f"{ROW}, {EVENT_OF.format('runs')}"
_DEAD = "runs.state = 'leased' AND runs.replica <> ALL(live_)"
"""The claim of a dead replica. live_: the live ones. It finds candidates with an index."""
_DUE = (
    "(runs.due_at <= now_ OR runs.state = 'leased'"
    " AND NOT EXISTS (SELECT FROM replicas WHERE replicas.id = runs.replica))"
)
"""Decides about the candidates whose targets are locked. It reads the live replicas again: one that has joined,
and claimed, after live_ was read is not dead."""
_LIVE = "live_ bigint[] := array(SELECT replicas.id FROM replicas)"
_CLAIMABLE_UNDO = (
    "runs.state IN ('waiting', 'leased') AND runs.undoes IS NOT NULL AND NOT EXISTS ("
    "SELECT FROM runs AS other WHERE other.target = runs.target AND other.state = 'leased'"
    " AND other.id <> runs.id)"
)
_LEASE = (
    "UPDATE runs SET state = 'leased', leased = true, held = false, fence = fence + 1,"
    " attempt = attempt + 1, began = coalesce(began, now_), due_at = now_ + timeout + margin_,"
    " replica = replica_ WHERE id = ANY(ids_)"
)
_LOCK_FREE = (
    "SELECT array_agg(locked.target) INTO targets_ FROM (SELECT target FROM targets"
    " WHERE target = ANY(targets_) FOR UPDATE SKIP LOCKED) AS locked"
)

_UPDATE_HEADS = f"""
-- Mark the earliest ready run of each locked queue as its head; none while a run is leased.
-- Runs of paused playbooks let later runs pass. One can be a head although its playbook is paused, if both
-- happened at the same time.
CREATE FUNCTION update_heads(targets_ text[]) RETURNS void LANGUAGE plpgsql {INDEXED} AS $$
BEGIN
  UPDATE runs SET state = 'queued' WHERE state = 'head' AND target = ANY(targets_)
    AND (playbook IN (SELECT playbook FROM pauses)
      OR EXISTS (SELECT FROM runs AS other WHERE other.target = runs.target AND other.state = 'leased')
      OR seq > (SELECT other.seq FROM runs AS other WHERE other.target = runs.target
        AND other.state = 'queued' AND other.playbook NOT IN (SELECT playbook FROM pauses)
        ORDER BY other.seq LIMIT 1));
  UPDATE runs SET state = 'head' FROM unnest(targets_) AS given (target) CROSS JOIN LATERAL (
    SELECT id FROM runs AS other WHERE other.target = given.target AND other.state = 'queued'
      AND other.playbook NOT IN (SELECT playbook FROM pauses) ORDER BY seq LIMIT 1) AS first
    WHERE runs.id = first.id AND runs.target = given.target AND runs.state = 'queued'
      AND NOT EXISTS (SELECT FROM runs AS other WHERE other.target = given.target
        AND other.state IN ('leased', 'head'));
END $$;
-- Lock the queues of targets that have a run, in one order for all transactions.
CREATE FUNCTION lock_targets(targets_ text[]) RETURNS void LANGUAGE plpgsql {INDEXED} AS $$
BEGIN
  PERFORM FROM targets WHERE target = ANY(targets_) ORDER BY target FOR UPDATE;
END $$;
"""
_CLAIM = f"""
-- Make the due runs ready, also those that a dead replica has claimed.
CREATE FUNCTION queue_due_runs(now_ float8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE targets_ text[]; {_LIVE};
BEGIN
  SELECT array_agg(DISTINCT due.target) INTO targets_ FROM (
    (SELECT target FROM runs WHERE state IN ('waiting', 'leased') AND undoes IS NULL AND due_at <= now_
      ORDER BY due_at LIMIT {MAX_DUE_RUNS})
    UNION ALL
    (SELECT target FROM runs WHERE undoes IS NULL AND {_DEAD} LIMIT {MAX_DUE_RUNS})) AS due;
  IF targets_ IS NULL THEN RETURN; END IF;
  {_LOCK_FREE};
  UPDATE runs SET state = 'queued' WHERE target = ANY(targets_) AND undoes IS NULL
    AND state IN ('waiting', 'leased') AND {_DUE};
  PERFORM update_heads(targets_);
END $$;
-- Lease due undos, at most one for each target. Return the rows from before the lease.
CREATE FUNCTION claim_undos(limit_ integer, now_ float8, margin_ float8, replica_ bigint)
RETURNS SETOF run_row LANGUAGE plpgsql AS $$
DECLARE targets_ text[]; ids_ text[]; {_LIVE};
BEGIN
  SELECT array_agg(due.target) INTO targets_ FROM (
    (SELECT target FROM runs WHERE {_CLAIMABLE_UNDO} AND due_at <= now_ ORDER BY due_at LIMIT limit_)
    UNION ALL
    (SELECT target FROM runs WHERE {_CLAIMABLE_UNDO} AND {_DEAD} LIMIT limit_)) AS due;
  IF targets_ IS NULL THEN RETURN; END IF;
  {_LOCK_FREE};
  SELECT array_agg(due.id) INTO ids_ FROM (SELECT first.id FROM (
    SELECT DISTINCT ON (target) target, id, due_at FROM runs WHERE {_CLAIMABLE_UNDO}
      AND target = ANY(targets_) AND {_DUE} ORDER BY target, due_at, seq) AS first
    ORDER BY first.due_at LIMIT limit_) AS due;
  IF ids_ IS NULL THEN RETURN; END IF;
  RETURN QUERY SELECT {_WITH_EVENT} FROM runs WHERE id = ANY(ids_) ORDER BY due_at, seq;
  {_LEASE};
  PERFORM update_heads(targets_);
END $$;
-- Lease up to limit_ heads of a pool. Return the rows from before the lease.
CREATE FUNCTION claim_heads(
  pool_ text, limit_ integer, now_ float8, margin_ float8, replica_ bigint)
RETURNS SETOF run_row LANGUAGE plpgsql AS $$
DECLARE targets_ text[]; ids_ text[];
BEGIN
  IF limit_ <= 0 OR EXISTS (SELECT FROM pauses WHERE playbook = '*') THEN RETURN; END IF;
  SELECT array_agg(locked.target) INTO targets_ FROM (
    SELECT targets.target FROM runs JOIN targets USING (target) WHERE runs.state = 'head'
      AND runs.pool = pool_ ORDER BY runs.seq LIMIT limit_ FOR UPDATE OF targets SKIP LOCKED) AS locked;
  IF targets_ IS NULL THEN RETURN; END IF;
  IF EXISTS (SELECT FROM pauses JOIN runs USING (playbook)
    WHERE runs.state = 'head' AND runs.target = ANY(targets_)) THEN
    PERFORM update_heads(targets_);
  END IF;
  SELECT array_agg(id) INTO ids_ FROM runs WHERE state = 'head' AND pool = pool_
    AND target = ANY(targets_) AND playbook NOT IN (SELECT playbook FROM pauses);
  IF ids_ IS NULL THEN RETURN; END IF;
  RETURN QUERY SELECT {_WITH_EVENT} FROM runs WHERE id = ANY(ids_) ORDER BY seq;
  {_LEASE};
END $$;
-- Claim up to limit_ attempts that may start now. Undos go first.
CREATE FUNCTION claim_runs(
  pool_ text, limit_ integer, now_ float8, margin_ float8, replica_ bigint)
RETURNS SETOF run_row LANGUAGE plpgsql {INDEXED} AS $$
DECLARE left_ integer := limit_; found_ integer;
BEGIN
  -- First, because it waits for the rows of targets. The others skip those that are locked: no deadlock.
  IF EXISTS (SELECT FROM arrived) AND limit_ > (
    SELECT count(*) FROM (SELECT FROM runs WHERE state = 'head' AND pool = pool_ LIMIT limit_) AS ready) THEN
    PERFORM move_arrived_runs(false);
  END IF;
  PERFORM queue_due_runs(now_);
  IF pool_ = 'cluster' THEN
    RETURN QUERY SELECT * FROM claim_undos(left_, now_, margin_, replica_);
    GET DIAGNOSTICS found_ = ROW_COUNT;
    left_ := left_ - found_;
  END IF;
  RETURN QUERY SELECT * FROM claim_heads(pool_, left_, now_, margin_, replica_);
END $$;
"""
_MOVED: LiteralString = COLUMNS
for _name, _value in (
    ("state", "NULL"), ("leased", "false"), ("held", "false"), ("position", "NULL"), ("pool", "NULL"),
    ("due_at", "NULL"), ("results", "results_"), ("last", "NULL"), ("outcome", "outcome_"),
    ("settled", "settled_"),
):  # fmt: skip
    _MOVED = _MOVED.replace(f" {_name},", f" {_value},")
_SETTLE = f"""
-- End a run: move it to the history.
CREATE FUNCTION end_run(
  id_ text, fence_ bigint, results_ bytea, outcome_ text, settled_ float8)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE moved_ integer;
BEGIN
  WITH gone AS (
    DELETE FROM runs WHERE id = id_ AND fence = fence_ AND leased RETURNING *)
  INSERT INTO history ({COLUMNS}) SELECT {_MOVED} FROM gone;
  GET DIAGNOSTICS moved_ = ROW_COUNT;
  RETURN moved_ > 0;
END $$;
-- Make another step of a run due.
CREATE FUNCTION advance_run(
  id_ text, fence_ bigint, due_ float8, results_ bytea, position_ integer, pool_ text,
  timeout_ float8)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE written_ integer;
BEGIN
  UPDATE runs SET leased = false, state = 'queued', due_at = due_, last = NULL, results = results_,
    position = position_, pool = pool_, timeout = timeout_, attempt = 0, answers = 0, began = NULL
    WHERE id = id_ AND fence = fence_ AND leased;
  GET DIAGNOSTICS written_ = ROW_COUNT;
  RETURN written_ > 0;
END $$;
-- Let a step wait until due_.
CREATE FUNCTION wait_run(
  id_ text, fence_ bigint, due_ float8, last_ bytea, answered_ integer, held_ boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE written_ integer;
BEGIN
  UPDATE runs SET leased = false, state = 'waiting', due_at = due_, last = last_, held = held_,
    answers = answers + answered_ WHERE id = id_ AND fence = fence_ AND leased;
  GET DIAGNOSTICS written_ = ROW_COUNT;
  RETURN written_ > 0;
END $$;
-- Settle attempts, each as one of the functions above, under the locks of their targets. Return for each
-- whether its claim was the newest. One statement: a process that is stopped in the middle holds no lock.
CREATE FUNCTION settle_runs(
  ids_ text[], fences_ bigint[], targets_ text[], kinds_ text[], times_ float8[], bodies_ bytea[],
  numbers_ integer[], texts_ text[], others_ float8[])
RETURNS boolean[] LANGUAGE plpgsql {INDEXED} AS $$
DECLARE done_ boolean[];
BEGIN
  PERFORM lock_targets(targets_);
  FOR n_ IN 1 .. cardinality(ids_) LOOP
    done_ := done_ || CASE kinds_[n_]
      WHEN 'end' THEN end_run(
        ids_[n_], fences_[n_], bodies_[n_], texts_[n_], times_[n_])
      WHEN 'advance' THEN advance_run(
        ids_[n_], fences_[n_], times_[n_], bodies_[n_], numbers_[n_], texts_[n_], others_[n_])
      ELSE wait_run(
        ids_[n_], fences_[n_], times_[n_], bodies_[n_], numbers_[n_], others_[n_] > 0) END;
  END LOOP;
  PERFORM update_heads(array(
    SELECT DISTINCT target FROM unnest(targets_, done_) AS given (target, done) WHERE done));
  RETURN done_;
END $$;
"""
FUNCTIONS_1 = ACCEPT + _ROW_TYPE + MOVE + _UPDATE_HEADS + _CLAIM + _SETTLE
