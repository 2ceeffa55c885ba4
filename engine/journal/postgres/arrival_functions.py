"""The functions of the database that accept runs and move them to the queues of their targets.

A row of ``runs`` is in several indexes. An accept therefore writes the runs of a batch as one row of
``arrived``, with an array for each column. A claim moves them to ``runs``. In the arrays, a run refers by number
to its event and to the version of its playbook, which are sent once.
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
-- runs, or NULL if all are new. bodies_: the encoded events one after the other, lengths_: in bytes.
CREATE FUNCTION accept_runs(
  ids_ uuid[], targets_ text[], namespaces_ text[], received_ float8[], due_ float8[], throttles_ text[],
  facts_ bytea[], events_ integer[], playbooks_ integer[], day_ date, event_ uuid, lengths_ integer[],
  bodies_ bytea, names_ text[], digests_ text[], blobs_ text[], revisions_ text[], pools_ text[],
  timeouts_ float8[])
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
    SELECT array_agg(g.id ORDER BY place), array_agg(g.target ORDER BY place),
      array_agg(g.namespace ORDER BY place), array_agg(g.received ORDER BY place),
      array_agg(g.due ORDER BY place), array_agg(g.throttle ORDER BY place),
      array_agg(g.facts ORDER BY place), array_agg(g.event ORDER BY place),
      array_agg(g.playbook ORDER BY place)
    INTO ids_, targets_, namespaces_, received_, due_, throttles_, facts_, events_, playbooks_
    FROM unnest(ids_, targets_, namespaces_, received_, due_, throttles_, facts_, events_, playbooks_)
      WITH ORDINALITY AS g (id, target, namespace, received, due, throttle, facts, event, playbook, place)
    WHERE g.id = ANY(new_);
    -- an event without a new run gets no bytes
    SELECT string_agg(substring(bodies_ FROM first FOR bytes), '' ORDER BY number),
      array_agg(bytes ORDER BY number)
    INTO bodies_, lengths_
    FROM (
      SELECT number, 1 + sum(length) OVER (ORDER BY number)::integer - length AS first,
        CASE WHEN number = ANY(events_) THEN length ELSE 0 END AS bytes
      FROM unnest(lengths_) WITH ORDINALITY AS event (length, number)) AS event;
  END IF;
  INSERT INTO events VALUES (day_, event_, bodies_);
  INSERT INTO arrived (
    many, ids, targets, namespaces, received, due, throttles, facts, events, playbooks, day, event,
    event_lengths, names, digests, blobs, revisions, pools, timeouts)
  VALUES (
    cardinality(ids_), ids_, targets_, namespaces_, received_, due_, throttles_, facts_, events_, playbooks_,
    day_, event_, lengths_, names_, digests_, blobs_, revisions_, pools_, timeouts_);
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
    SELECT unnest(arrived.targets) FROM arrived WHERE arrived.id = ANY(batches_)));
  WITH gone AS (DELETE FROM arrived WHERE arrived.id = ANY(batches_) RETURNING *),
  given AS (
    SELECT gone.id AS batch, replace(one.id_::text, '-', '') AS id, one.*, gone.day, gone.event,
      event_starts[event_] AS event_start, event_lengths[event_] AS event_length,
      names[playbook_] AS playbook, digests[playbook_] AS digest,
      blobs[playbook_] AS blob, revisions[playbook_] AS revision, pools[playbook_] AS pool,
      timeouts[playbook_] AS timeout,
      names[playbook_] IN (SELECT pauses.playbook FROM pauses) AS paused
    FROM gone, LATERAL (
        SELECT array_agg(first ORDER BY number) AS event_starts FROM (
          SELECT number, 1 + sum(length) OVER (ORDER BY number)::integer - length AS first
          FROM unnest(event_lengths) WITH ORDINALITY AS event (length, number)) AS event) AS events,
      unnest(gone.ids, gone.targets, gone.namespaces, gone.received, gone.due, gone.throttles,
      gone.facts, gone.events, gone.playbooks) WITH ORDINALITY
      AS one (id_, target, namespace, received, due, throttle, facts, event_, playbook_, place)),
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
