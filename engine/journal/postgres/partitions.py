"""The partitions of ``events`` and ``history``, one for each day of receipt: create them ahead, drop whole days.

The owner of the tables must do both. The functions have its rights (SECURITY DEFINER), so that the role of the
engine can be another one. They do nothing else: one creates the partitions of some days, the other drops the
partitions of a day that no unfinished run needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal.postgres.schema import SCHEMA_LOCK

if TYPE_CHECKING:
    import datetime as dt

    import psycopg

DAYS_AHEAD = 2
"""Days for which partitions exist in advance."""
MAX_DAYS = 400
"""Days for which one call creates partitions."""
_LOCK_TIMEOUT = "500ms"
"""How long a change of partitions waits for other transactions. Meanwhile, new ones wait behind it."""

PARTITION_FUNCTIONS_1 = f"""
-- Create the partitions of days_ days from first_ on. A row of such a day that is in the partition for other
-- days moves. ATTACH blocks neither readers nor writers of the other partitions, PARTITION OF would. But a
-- statement that has begun to write a row of this day would fail, so a day that can be in use is locked.
CREATE FUNCTION create_days(first_ date, days_ integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '{_LOCK_TIMEOUT}' AS $$
DECLARE day_ date; table_ text; name_ text;
BEGIN
  FOR number_ IN 0 .. least(days_, {MAX_DAYS}) - 1 LOOP
    day_ := first_ + number_;
    FOREACH table_ IN ARRAY ARRAY['events', 'history'] LOOP
      name_ := table_ || to_char(day_, '_YYYYMMDD');
      CONTINUE WHEN to_regclass(name_) IS NOT NULL;
      PERFORM pg_advisory_xact_lock({SCHEMA_LOCK});
      -- not to_regclass: it remembers that the table did not exist
      CONTINUE WHEN EXISTS (SELECT FROM pg_class WHERE relname = name_
        AND relnamespace = current_schema()::regnamespace);
      EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)',
        name_, table_);
      IF day_ <= (clock_timestamp() AT TIME ZONE 'UTC')::date THEN
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', table_);
      END IF;
      EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', table_ || '_other');
      EXECUTE format('WITH moved AS (DELETE FROM %I WHERE day = %L RETURNING *)'
        ' INSERT INTO %I SELECT * FROM moved', table_ || '_other', day_, name_);
      EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        table_, name_, day_, day_ + 1);
    END LOOP;
  END LOOP;
END $$;
-- Whether an unfinished run needs the events of a day.
CREATE FUNCTION needs_day(day_ date) RETURNS boolean LANGUAGE sql AS $$
  SELECT EXISTS (SELECT FROM runs WHERE day = day_) OR EXISTS (SELECT FROM arrived WHERE day = day_)
$$;
-- Drop the partitions of a day. Return false if an unfinished run needs it, or if another session reads it.
-- A run can arrive meanwhile. The answer under the locks of both tables is therefore the one that counts.
CREATE FUNCTION drop_day(day_ date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '{_LOCK_TIMEOUT}' AS $$
DECLARE table_ text;
BEGIN
  IF needs_day(day_) THEN RETURN false; END IF;
  LOCK TABLE ONLY history, ONLY events IN ACCESS EXCLUSIVE MODE;
  IF needs_day(day_) THEN RETURN false; END IF;
  FOREACH table_ IN ARRAY ARRAY['history', 'events'] LOOP
    EXECUTE format('DROP TABLE IF EXISTS %I', table_ || to_char(day_, '_YYYYMMDD'));
  END LOOP;
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN false;
END $$;
REVOKE EXECUTE ON FUNCTION create_days, drop_day FROM PUBLIC;
-- The functions must not find tables of another schema, whatever the caller has set.
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION create_days SET search_path = %I, pg_temp', current_schema());
  EXECUTE format('ALTER FUNCTION drop_day SET search_path = %I, pg_temp', current_schema());
END $$;
"""


def create_partitions(
    connection: psycopg.Connection[Any], first: dt.date | None = None, days: int = DAYS_AHEAD + 1
) -> None:
    """Create the partitions of some days, at most ``MAX_DAYS``. Those that exist stay as they are.

    first: the first day, today if it is None. Raises LockNotAvailable if others use the tables.
    """
    today = "(clock_timestamp() AT TIME ZONE 'UTC')::date"
    connection.execute(f"SELECT create_days(coalesce(%s::date, {today}), %s)", (first, days))


def drop_days(connection: psycopg.Connection[Any], last: dt.date) -> int:
    """Drop the partitions of the days before ``last``, each in a transaction. Return how many days are gone.

    A day stays if an unfinished run refers to it, or if another session reads it.
    """
    dropped = 0
    for day in reversed(days(connection)):
        if day >= last:
            break
        found = connection.execute("SELECT drop_day(%s) AS dropped", (day,)).fetchone()
        dropped += bool(found and found["dropped"])
    return dropped


def days(connection: psycopg.Connection[Any]) -> list[dt.date]:
    """Return the days that have a partition of ``history``, the newest first."""
    rows = connection.execute(
        "SELECT to_date(right(relname, 8), 'YYYYMMDD') AS day FROM pg_class"
        " WHERE relkind = 'r' AND relname ~ '^history_[0-9]{8}$'"
        " AND relnamespace = current_schema()::regnamespace ORDER BY relname DESC"
    ).fetchall()
    return [row["day"] for row in rows]
