"""The size of the journal in PostgreSQL: days that are dropped, and rows that nothing needs any longer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from engine.journal.postgres import partitions
from engine.journal.postgres.partitions import create_partitions
from engine.journal.postgres.schema import day_of
from engine.journal.records import RunFilter
from engine.model.errors import JournalError
from tests.support.engine import PATIENCE, wait_until
from tests.support.journals import DONE, NOW, accept, run
from tests.support.postgres import shared_server


def test_whole_days_are_dropped_and_an_unfinished_run_keeps_its_day(start):
    a = start("a")
    wait_until(lambda: created(a, day_of(NOW - 9 * 86_400), 3))
    for number in (1, 2):
        accept(a, replace_received(run(number), NOW - (9 - number % 2) * 86_400))
    first, second = a.claim("cluster", 9, NOW)
    a.settle(first, DONE, NOW - 8 * 86_400)
    kept = [day_of(NOW - 9 * 86_400)]
    wait_until(lambda: a.delete_runs(NOW) == 0 and days_before_now(a) == kept)
    a.delete_runs(NOW)
    assert days_before_now(a) == kept
    assert a.find(first.run.id) is None
    assert a.settle(second, DONE, NOW) == "done"


def created(journal, first, days):
    """Create partitions. Return false if others use the tables: autovacuum locks the one for other days."""
    try:
        with journal._connections.session() as c:
            create_partitions(c, first, days)
    except JournalError:
        return False
    return True


def days_before_now(journal):
    rows = journal._connections.rows(
        "SELECT to_date(right(relname, 8), 'YYYYMMDD') AS day FROM pg_class"
        " WHERE relname ~ '^history_[0-9]{8}$' AND relname < %s ORDER BY day",
        f"history_{day_of(NOW):%Y%m%d}",
    )
    return [row["day"] for row in rows]


def test_a_list_of_the_newest_runs_does_not_read_older_days(start, url):
    a = start("a")
    wait_until(lambda: created(a, day_of(NOW - 2 * 86_400), 3))
    accept(a, *(replace_received(run(n), NOW - (2 - n) * 86_400) for n in range(3)))
    for one in a.claim("cluster", 9, NOW):
        a.settle(one, DONE, NOW)
    newest_first = [run(n).id for n in (2, 1, 0)]
    assert [one.run.id for one in a.runs(RunFilter())] == newest_first
    with shared_server().connect(url.rpartition("/")[2]) as other:
        other.execute(f"BEGIN; LOCK TABLE history_{day_of(NOW - 2 * 86_400):%Y%m%d}")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(
                lambda: [
                    a.runs(RunFilter(limit=2)),
                    a.runs(RunFilter(since=NOW - 86_400)),
                    a.runs(RunFilter(state="waiting")),
                    a.counts(),
                ]
            )
            try:
                first, since, waiting, counts = asked.result(PATIENCE)
            finally:
                other.execute("ROLLBACK")
    assert [one.run.id for one in first] == [one.run.id for one in since] == newest_first[:2]
    assert (waiting, counts) == ([], {"waiting": 0, "running": 0, "held": 0})


def test_a_run_that_ends_during_a_query_is_listed_once(start, monkeypatch):
    a = start()
    wait_until(lambda: created(a, day_of(NOW), 1))
    accept(a, run(1))
    (held,) = a.claim("cluster", 9, NOW)
    days = partitions.days

    def ends(connection):
        a.settle(held, DONE, NOW)
        return days(connection)

    monkeypatch.setattr(partitions, "days", ends)
    assert [(one.run.id, one.outcome) for one in a.runs(RunFilter())] == [(run(1).id, "done")]


def test_retention_keeps_the_queue_of_a_run_that_arrives_meanwhile(start, url):
    """Without its row in `targets`, a run is never claimed. The other targets make the deletion take longer."""
    a = start("a")
    with shared_server().connect(url.rpartition("/")[2]) as c, ThreadPoolExecutor(1) as pool:
        for number in range(8):
            c.execute("TRUNCATE targets")
            c.execute("INSERT INTO targets SELECT 'idle' || n FROM generate_series(1, 4500) AS n")
            c.execute("INSERT INTO targets VALUES ('demo/web')")
            deleted = pool.submit(a.delete_runs, NOW - 86_400)
            accept(a, run(number, "demo/web"))
            claims = a.claim("cluster", 9, NOW)
            deleted.result()
            claims += a.claim("cluster", 9, NOW)
            assert [one.run.id for one in claims] == [run(number).id]
            assert c.execute("SELECT 1 FROM targets WHERE target = 'demo/web'").fetchone()
            a.settle(claims[0], DONE, NOW)


def test_a_day_that_is_in_use_gets_its_partition_while_runs_are_accepted(start):
    a, b = start("a"), start("b")
    day = day_of(NOW)
    accept(a, run(1))
    with shared_server().connect(a.name.rpartition("/")[2]) as c:
        name = f"history_{day:%Y%m%d}"
        found = f"SELECT (SELECT count(*) FROM {name}), (SELECT count(*) FROM history_other)"  # noqa: S608
        (held,) = a.claim("cluster", 9, NOW)
        a.settle(held, DONE, NOW)
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(lambda: [accept(b, run(n)) for n in range(100, 160)])
            wait_until(lambda: created(a, day, 1))
            assert len(writing.result()) == 60  # none has failed
        assert c.execute(found).fetchone() == (1, 0)
        assert len(a.find_ids(run(1).id)) == 1
        c.execute(
            "BEGIN; SELECT count(*) FROM history"
        )  # a reader: the day stays, and nobody waits
        a.delete_runs(NOW + 10 * 86_400)
        assert a.find(run(1).id) is not None
        c.execute("ROLLBACK")


def replace_received(one, received):
    return type(one)(one.id, one.playbook, one.event, received, one.target)


def test_an_accepted_run_that_is_in_no_queue_yet_keeps_its_day(start):
    """A spool can forward runs that it got before the retention."""
    a = start()
    old = NOW - 9 * 86_400
    wait_until(lambda: created(a, day_of(old), 1))
    accept(a, replace_received(run(1), old))
    a.strip_runs(NOW)
    (held,) = a.claim("cluster", 9, NOW)
    assert held.run.event == run(1).event


def test_a_run_that_arrives_while_its_day_is_dropped_keeps_it(sql, start):
    a = start()
    old = NOW - 9 * 86_400
    wait_until(lambda: created(a, day_of(old), 1))
    accept(a, replace_received(run(1), old))
    sql.execute("CREATE TABLE held AS SELECT * FROM arrived; DELETE FROM arrived")
    database = sql.info.dbname
    dropping = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        " AND query LIKE '%%drop_day%%'"
    )
    with ThreadPoolExecutor(1) as pool, shared_server().connect() as admin:
        sql.execute("BEGIN; LOCK TABLE ONLY events IN ROW EXCLUSIVE MODE")
        stripping = pool.submit(a.strip_runs, NOW)
        while not admin.execute(dropping, (database,)).fetchone() and not stripping.done():
            pass
        sql.execute("INSERT INTO arrived OVERRIDING SYSTEM VALUE SELECT * FROM held")
        sql.execute("DROP TABLE held; COMMIT")
        stripping.result(PATIENCE)
    (held,) = a.claim("cluster", 9, NOW)
    assert held.run.event == run(1).event


def test_one_pass_deletes_more_unused_rows_than_a_minute_of_accepts_makes(sql, start):
    """The engine deletes once a minute. What it leaves would grow without an end."""
    a = start()
    accept(a, run(1))
    sql.execute(
        "INSERT INTO run_ids SELECT gen_random_uuid(), date '2026-01-01' FROM generate_series(1, 25000);"
        "INSERT INTO targets SELECT 'idle' || n FROM generate_series(1, 25000) AS n;"
        "INSERT INTO throttle_windows SELECT 'key' || n, '{}', 1 FROM generate_series(1, 25000) AS n"
    )
    a.delete_runs(NOW)
    left = (
        "SELECT (SELECT count(*) FROM run_ids), (SELECT count(*) FROM targets),"
        " (SELECT count(*) FROM throttle_windows)"
    )
    assert sql.execute(left).fetchone() == (1, 1, 0)
    assert a.known([run(1).id])


def test_the_ids_are_read_once_a_day(sql, start, monkeypatch):
    monkeypatch.setattr("engine.journal.postgres.old_ids.BLOCKS", 8)
    monkeypatch.setattr("engine.journal.postgres.old_ids.MAX_DELETED_IDS", 700)
    a = start()
    sql.execute(
        "INSERT INTO run_ids SELECT gen_random_uuid(), date '2026-02-15' + (n % 9)"
        " FROM generate_series(1, 9000) AS n"
    )
    days = "SELECT array_agg(DISTINCT day::text ORDER BY day::text) FROM run_ids"
    for _ in range(9):  # each with one part of the table at least
        a.delete_runs(NOW - 7 * 86_400)  # 2026-02-22
    assert sql.execute(days).fetchone() == (
        ["2026-02-20", "2026-02-21", "2026-02-22", "2026-02-23"],
    )
    with ThreadPoolExecutor(1) as pool:
        sql.execute("BEGIN; LOCK TABLE run_ids")
        try:
            pool.submit(a.delete_runs, NOW - 7 * 86_400).result(PATIENCE)
        finally:
            sql.execute("ROLLBACK")
    for _ in range(9):
        a.delete_runs(NOW - 6 * 86_400)
    assert sql.execute(days).fetchone() == (["2026-02-21", "2026-02-22", "2026-02-23"],)
