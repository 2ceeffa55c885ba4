"""The functions of the database that accept runs and move them to the queues of their targets.

A row of ``runs`` is in several indexes. An accept therefore writes the runs of a batch as one row of
``arrived``, as JSON that nothing but a claim reads: it moves them to ``runs``.
"""

from __future__ import annotations

from typing import LiteralString

MAX_MOVED_RUNS = 500
"""Runs that one claim moves to their queues, plus the rest of their last batch."""
MOVER_LOCK = 0x6D6F766572
"""The advisory lock of the transaction that moves runs: one at a time, so that their order is kept."""
PLANNED_ONCE: LiteralString = "SET plan_cache_mode = force_generic_plan"
"""A setting of functions whose statements PostgreSQL would otherwise plan at each call."""
INDEXED: LiteralString = (
    f"{PLANNED_ONCE} SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off"
)
"""Settings of functions that read a few rows by an index. PostgreSQL may have planned them for empty tables."""

ACCEPT: LiteralString = f"""
-- Write the runs that are new, in their order, with their events, as runs of day_. Return the ids of the new
-- runs, or NULL if all are new. runs_, playbooks_: see the table arrived. bodies_: the encoded events one after
-- the other.
CREATE FUNCTION accept_runs(
  ids_ uuid[], runs_ json, playbooks_ json, day_ date, event_ uuid, bodies_ bytea)
RETURNS uuid[] LANGUAGE plpgsql {PLANNED_ONCE} AS $$
DECLARE new_ uuid[];
BEGIN
  -- in one order, so that two batches never deadlock
  WITH new AS (
    INSERT INTO run_ids SELECT given.id, day_ FROM unnest(ids_) AS given (id) ORDER BY given.id
    ON CONFLICT DO NOTHING RETURNING id)
  SELECT array_agg(new.id) INTO new_ FROM new;
  IF new_ IS NULL THEN RETURN ARRAY[]::uuid[]; END IF;
  IF cardinality(new_) = cardinality(ids_) THEN
    new_ := NULL;
  ELSE
    -- keep the new runs and their events, which begin at other bytes then
    WITH kept AS (
      SELECT run::jsonb, place, (run->>0)::integer AS first, (run->>1)::integer AS length
      FROM json_array_elements(runs_) WITH ORDINALITY AS given (run, place)
      WHERE (run->>3)::uuid = ANY(new_)),
    events AS (
      SELECT first, length, 1 + sum(length) OVER (ORDER BY first) - length AS moved
      FROM (SELECT DISTINCT first, length FROM kept) AS each)
    SELECT
      (SELECT json_agg(jsonb_set(run, '{{0}}', to_jsonb(moved)) ORDER BY place)
        FROM kept JOIN events USING (first)),
      (SELECT string_agg(substring(bodies_ FROM first FOR length), '' ORDER BY first) FROM events)
    INTO runs_, bodies_;
  END IF;
  INSERT INTO events VALUES (day_, event_, bodies_);
  INSERT INTO arrived (many, day, event, runs, playbooks)
  VALUES (cardinality(coalesce(new_, ids_)), day_, event_, runs_, playbooks_);
  RETURN new_;
END $$;
"""
_OF_RUN: LiteralString = (
    "id, playbook, digest, blob, day, event, event_start, event_length, target, namespace, received"
)
_RUN: LiteralString = _OF_RUN + (
    ", state, position, pool, timeout, due_at, outcome, settled, revision, throttle, facts"
)
_OF_RUN_END: LiteralString = "revision, throttle, coalesce(facts, '{}')"
MOVE: LiteralString = f"""
-- Create and lock the queues of targets, in one order for all transactions.
CREATE FUNCTION ensure_targets(targets_ text[]) RETURNS void LANGUAGE plpgsql {INDEXED} AS $$
DECLARE distinct_ text[] := array(SELECT DISTINCT unnest(targets_)); locked_ integer;
BEGIN
  LOOP
    INSERT INTO targets SELECT unnest(distinct_) AS target ORDER BY target ON CONFLICT (target) DO NOTHING;
    PERFORM FROM targets WHERE target = ANY(distinct_) ORDER BY target FOR UPDATE;
    GET DIAGNOSTICS locked_ = ROW_COUNT;
    EXIT WHEN locked_ = cardinality(distinct_);  -- another transaction can delete an unused one
  END LOOP;
END $$;
-- Move arrived runs to the queues of their targets, oldest first. Return whether more may wait.
-- wait_: wait until another replica has moved its part. The first run of a target becomes the head of its
-- queue, except if the queue has a head or a run is leased. A run without a step (no pool) is over.
CREATE FUNCTION move_arrived_runs(wait_ boolean) RETURNS boolean LANGUAGE plpgsql {INDEXED} AS $$
DECLARE batches_ bigint[];
BEGIN
  IF NOT EXISTS (SELECT FROM arrived) THEN RETURN false; END IF;
  IF wait_ THEN
    PERFORM pg_advisory_xact_lock({MOVER_LOCK});
  ELSIF NOT pg_try_advisory_xact_lock({MOVER_LOCK}) THEN
    RETURN false;
  END IF;
  SELECT array_agg(first.id) INTO batches_ FROM (
    SELECT id, sum(many) OVER (ORDER BY id) - many AS earlier FROM (
      SELECT id, many FROM arrived ORDER BY id LIMIT {MAX_MOVED_RUNS}) AS oldest) AS first
    WHERE first.earlier < {MAX_MOVED_RUNS};
  IF batches_ IS NULL THEN RETURN false; END IF;
  LOCK TABLE pauses IN SHARE MODE;  -- before the targets, as a pause does
  PERFORM ensure_targets(array(
    SELECT run->>4 FROM arrived, json_array_elements(arrived.runs) AS run WHERE arrived.id = ANY(batches_)));
  WITH gone AS (
    DELETE FROM arrived WHERE arrived.id = ANY(batches_)
    RETURNING id, day, event, runs, playbooks::jsonb AS playbooks),
  -- each run is converted alone: jsonb limits an array to 256 MB, and a batch that cannot be moved stops all
  parsed AS MATERIALIZED (
    SELECT gone.id AS batch, gone.day, gone.event, place, run::jsonb AS run, playbooks
    FROM gone, json_array_elements(gone.runs) WITH ORDINALITY AS given (run, place)),
  given AS (
    SELECT batch, place, day, event, (run->>0)::integer AS event_start, (run->>1)::integer AS event_length,
      run->>3 AS id, run->>4 AS target, run->>5 AS namespace, (run->>6)::float8 AS received,
      (run->>7)::float8 AS due, run->>8 AS throttle, decode(run->>9, 'hex') AS facts,
      of->>0 AS playbook, of->>1 AS digest, of->>2 AS blob, of->>3 AS revision, of->>4 AS pool,
      (of->>5)::float8 AS timeout, of->>0 IN (SELECT pauses.playbook FROM pauses) AS paused
    FROM parsed, LATERAL (SELECT playbooks->(run->>2)::integer AS of) AS version),
  over AS (
    INSERT INTO history (seq, {_RUN})
    SELECT nextval('runs_seq'), {_OF_RUN}, NULL, NULL, NULL, NULL, NULL, 'skipped', due, {_OF_RUN_END}
    FROM given WHERE pool IS NULL ON CONFLICT DO NOTHING)
  INSERT INTO runs ({_RUN})
  SELECT {_OF_RUN},
    CASE WHEN NOT paused AND row_number() OVER (PARTITION BY target, paused ORDER BY batch, place) = 1
      AND NOT EXISTS (SELECT FROM runs AS other WHERE other.target = given.target
        AND other.state IN ('leased', 'head')) THEN 'head' ELSE 'queued' END,
    0, pool, timeout, due, NULL, NULL, {_OF_RUN_END}
  FROM given WHERE pool IS NOT NULL ORDER BY batch, place
  ON CONFLICT DO NOTHING;  -- so that no row can stop the move
  RETURN EXISTS (SELECT FROM arrived);
END $$;
"""
