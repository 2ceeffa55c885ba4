"""A PostgreSQL that is slow, full, cut off, old, a standby or set up wrongly: one sentence, no lost event."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine.journal.postgres import connection, liveness, writer
from engine.journal.postgres.connection import connect, parse_server
from engine.journal.postgres.journal import PostgresJournal
from engine.journal.postgres.liveness import Process
from engine.journal.records import AcceptBatch, DroppedRuns, Pause, RunFilter
from engine.journal.spool.file import SpoolFile
from engine.journal.spool.queue import SpooledQueue
from engine.model.errors import JournalError, JournalUnavailableError, UnwritableError
from engine.model.playbook import Throttle
from engine.model.throttle_window import ThrottleUse
from msgspec import structs
from tests.support import postgres
from tests.support.database_proxy import DatabaseProxy
from tests.support.engine import PATIENCE, wait_until
from tests.support.journals import DONE, NOW, event, playbook, run, stored_playbook
from tests.support.postgres import Postgres, database_of, scratch, shared_server


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return database_of(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def sql(url):
    """A superuser's connection to the database, which is empty."""
    with shared_server().connect(database(url)) as connection:
        tables = "runs, arrived, history, run_ids, events, targets, throttle_windows, replicas"
        connection.execute(f"TRUNCATE {tables}")
        yield connection


@pytest.fixture
def proxy(sql):
    del sql  # only for its order
    with contextlib.closing(DatabaseProxy(shared_server().port)) as made:
        yield made


def database(url):
    return url.rpartition("/")[2]


def opened(url, name="a", version="1"):
    return contextlib.closing(
        PostgresJournal(parse_server(url), Process(name, "engine", version), stored_playbook)
    )


def through(proxy, url, role="postgres"):
    return f"postgresql://{role}@127.0.0.1:{proxy.port}/{database(url)}"


def accept(journal, *runs, throttles=None):
    return journal.accept(AcceptBatch(runs, throttles=throttles or {}, may_wait=True), NOW)


def stored(sql):
    """The ids of the accepted runs."""
    return {id_.hex for (id_,) in sql.execute("SELECT id FROM run_ids").fetchall()}


def test_an_engine_works_again_after_its_database_was_read_only(url, sql):
    """A connection to a primary that became a standby, or to a database in maintenance, stays read-only."""
    with opened(url) as journal:
        sql.execute(f"ALTER DATABASE {database(url)} SET default_transaction_read_only = on")
        try:
            sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            wait_until(lambda: "read-only" in str(failure(accept(journal, run(1)))))
            wait_until(lambda: "read-only" in claim_failure(journal))
        finally:
            sql.execute(f"ALTER DATABASE {database(url)} RESET default_transaction_read_only")
        wait_until(lambda: failure(accept(journal, run(1))) is None)
        wait_until(lambda: not claim_failure(journal))


def failure(accepted):
    return accepted.exception(PATIENCE)


def claim_failure(journal):
    try:
        journal.claim("cluster", 9, NOW)
    except JournalError as error:
        return str(error)
    return ""


def test_connections_that_are_given_up_do_not_fill_the_server(url, sql, monkeypatch):
    """A lock stands for a commit that waits for a lost standby. The liveness thread connects again and again."""
    monkeypatch.setattr(connection, "CLIENT_CHECK_MS", 100)
    monkeypatch.setattr(liveness, "DEAD_AFTER", 0.1)
    seen = set()

    def open_now():
        rows = admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = 'tiercel'",
            (database(url),),
        ).fetchall()
        seen.update(rows)
        return len(rows)

    with opened(url), shared_server().connect() as admin:
        sql.execute("BEGIN; LOCK TABLE replicas")
        wait_until(lambda: open_now() and len(seen) > 3)
        wait_until(lambda: open_now() <= 2)
        sql.execute("ROLLBACK")


def test_while_commits_wait_for_a_standby_no_more_connections_are_taken(url, monkeypatch):
    monkeypatch.setattr(writer, "STALL_TIMEOUT", 0.1)
    monkeypatch.setattr(liveness, "DEAD_AFTER", 0.1)
    tiercel = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name = 'tiercel'"
    )
    with opened(url) as journal, shared_server().connect() as admin:
        accept(journal, run(0)).result(PATIENCE)
        admin.execute("SET synchronous_commit = local")
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'lost'")
        admin.execute("SELECT pg_reload_conf()")
        numbers = iter(range(1, 10_000))
        try:
            for _ in range(10):
                wait_until(
                    lambda: "for a standby" in str(failure(accept(journal, run(next(numbers)))))
                )
            (many,) = admin.execute(tiercel, (database(url),)).fetchone()
        finally:
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")
        assert many <= 6  # those of the writer and of the liveness row, each twice, and idle ones
        wait_until(lambda: failure(accept(journal, run(next(numbers)))) is None)
        monkeypatch.undo()
        wait_until(lambda: journal.may_act(journal.claim_identity))


def test_an_engine_ends_although_its_database_does_not_answer(url, proxy, monkeypatch):
    monkeypatch.setattr(writer, "STALL_TIMEOUT", 0.2)
    journal = PostgresJournal(
        parse_server(through(proxy, url)), Process("a", "engine", "1"), stored_playbook
    )
    accept(journal, run(0)).result(
        PATIENCE
    )  # the next one is a single statement, which has no timeout
    proxy.hold(b"accept_runs")
    waiting = accept(journal, run(1))
    assert proxy.reached.wait(PATIENCE)
    closing = threading.Thread(target=journal.close, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert isinstance(waiting.exception(0), JournalUnavailableError)


def test_a_password_file_that_cannot_be_read_is_an_error_until_it_can(url, sql, tmp_path):
    password = tmp_path / "password"
    password.write_text("secret")
    server = parse_server(url, password)
    with contextlib.closing(
        PostgresJournal(server, Process("a", "engine", "1"), stored_playbook)
    ) as journal:
        password.write_bytes(b"secret\xff")
        sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        wait_until(lambda: "is not UTF-8" in str(failure(accept(journal, run(1)))))
        wait_until(lambda: not journal.may_act(journal.claim_identity))
        assert "secret" not in str(failure(accept(journal, run(1))))
        password.write_text("secret")
        wait_until(lambda: journal.may_act(journal.claim_identity))
        wait_until(lambda: failure(accept(journal, run(1))) is None)


def test_a_slow_commit_delays_answers_and_gathers_what_arrives_meanwhile(url, sql, proxy):
    with opened(through(proxy, url)) as journal:
        proxy.hold(b"accept_runs")
        first = accept(journal, run(0))
        assert proxy.reached.wait(PATIENCE)
        others = [accept(journal, run(n)) for n in range(1, 40)]
        assert not any(one.done() for one in (first, *others))
        assert stored(sql) == set()
        proxy.release()
        for one in (first, *others):
            assert one.result(PATIENCE) == {}
        assert len(stored(sql)) == 40
        (batches,) = sql.execute("SELECT count(*) FROM arrived").fetchone()
        assert batches <= 3  # of 40 accepts


def test_a_commit_without_an_answer_is_given_up_and_a_repeated_event_is_a_duplicate(
    url, sql, proxy, monkeypatch
):
    monkeypatch.setattr(writer, "STALL_TIMEOUT", 0.2)
    with opened(through(proxy, url)) as journal:
        proxy.hold(b"accept_runs")
        with pytest.raises(JournalUnavailableError, match="the journal cannot be written"):
            accept(journal, run(1)).result(PATIENCE)
        proxy.release()  # the late statement may still be written
        wait_until(lambda: journal.write_error() is None)
        accept(journal, run(1)).result(PATIENCE)
        assert stored(sql) == {run(1).id}


@pytest.mark.parametrize("statement", [b"accept_runs", b"COMMIT"])
def test_after_a_cut_in_the_middle_of_a_commit_the_repeated_event_runs_once(
    url, sql, proxy, statement
):
    """The database has written the runs, and the engine does not know. A throttle needs a separate COMMIT."""
    use = {run(1).id: ThrottleUse("key", Throttle("t", 60.0, first=5), NOW)}
    throttles = use if statement == b"COMMIT" else {}
    with opened(through(proxy, url)) as journal:
        accept(journal, run(0)).result(PATIENCE)
        proxy.cut(statement)
        with pytest.raises(JournalUnavailableError):
            accept(journal, run(1), throttles=throttles).result(PATIENCE)
        wait_until(lambda: stored(sql) == {run(0).id, run(1).id})
        wait_until(lambda: journal.write_error() is None)
        again = accept(journal, run(1), run(2), throttles=throttles).result(PATIENCE)
        assert again == {run(1).id: "duplicate"}
        claims = journal.claim("cluster", 9, NOW)
        assert sorted(one.run.id for one in claims) == sorted(run(n).id for n in range(3))
        if throttles:
            window = journal.throttle_windows()["key"]
            assert [id_ for _, id_ in window["acted"]] == [run(1).id]  # counted once


@pytest.mark.parametrize(
    "change",
    [
        {"id": "".join(chr(0x4E00 + n) for n in range(2_000))},  # no uuid
        {"id": "b" * 30},  # a part of a uuid
        {"received": 1e300},  # NumericValueOutOfRange
        {"id": "b" * 32},  # IntegrityError
    ],
    ids=["text", "short", "number", "integrity"],
)
def test_a_run_that_cannot_be_written_does_not_affect_those_of_its_commit(url, sql, proxy, change):
    sql.execute("ALTER TABLE run_ids ADD CONSTRAINT whole CHECK (id <> repeat('b', 32)::uuid)")
    bad = structs.replace(run(3), **change)
    try:
        with opened(through(proxy, url)) as journal:
            proxy.hold(b"accept_runs")
            first = accept(journal, run(0))
            assert proxy.reached.wait(PATIENCE)
            good = [accept(journal, run(1)), accept(journal, run(2))]
            refused = accept(journal, bad)
            good.append(accept(journal, run(4)))
            proxy.release()
            assert [one.result(PATIENCE) for one in (first, *good)] == [{}] * 4
            assert isinstance(failure(refused), UnwritableError)
            assert journal.write_error() is None
    finally:
        sql.execute("ALTER TABLE run_ids DROP CONSTRAINT whole")


def test_hostile_keys_of_one_commit_that_are_stored_as_one_do_not_stop_it(url, sql):
    """PostgreSQL stores no NUL. A key of 9,000 characters does not fit into an index."""
    keys = ["a\0", "a\ufffd", "\ud800", "?", "k" * 9_000]
    with opened(url) as journal:
        uses = {
            run(n).id: ThrottleUse(key, Throttle("t", 60.0, first=1), NOW)
            for n, key in enumerate(keys)
        }
        accepted = accept(journal, *(run(n) for n in range(len(keys))), throttles=uses)
        assert accepted.result(PATIENCE) == {}
        journal.save_dropped((), [DroppedRuns("p", "throttle", key, 1, NOW, NOW) for key in keys])
        assert sum(one.count for one in journal.dropped_runs(RunFilter())) == len(keys)
    sql.execute("TRUNCATE drops")


def test_a_spool_forwards_a_batch_of_unknown_fate_without_doubling_it(url, proxy, tmp_path):
    with opened(through(proxy, url)) as journal:
        spool = SpoolFile(tmp_path / "spool", journal.id(), stored_playbook)
        with contextlib.closing(SpooledQueue(journal, spool)) as queue:
            queue.start()
            proxy.cut(b"accept_runs")
            assert accept(queue, run(1)).result(PATIENCE) == {}
            wait_until(lambda: not queue.spooling)
            assert len(journal.claim("cluster", 9, NOW)) == 1


@pytest.fixture
def small_disk():
    """The URL of a database on a disk of 24 MiB, and a function that enlarges it."""
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    folder = scratch() / "disk"
    folder.mkdir()
    owner = folder.parent.stat()
    options = f"size=24m,mode=700,uid={owner.st_uid},gid={owner.st_gid}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this container cannot mount")
    enlarge = ["mount", "-o", "remount,size=128m", str(folder)]
    with shared_server().connect() as admin:
        try:
            admin.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
            admin.execute(f"CREATE DATABASE small TEMPLATE {postgres._template()} TABLESPACE small")
            yield (
                shared_server().dsn("small"),
                lambda: subprocess.run(enlarge, check=True, capture_output=True),
            )
        finally:
            subprocess.run(enlarge, check=True, capture_output=True)
            admin.execute("DROP DATABASE IF EXISTS small WITH (FORCE)")
            admin.execute("DROP TABLESPACE IF EXISTS small")
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def test_a_full_database_refuses_and_keeps_what_it_acknowledged(small_disk):
    address, enlarge = small_disk
    acknowledged, refused = [], None
    with opened(address) as journal:
        while refused is None:
            number = len(acknowledged)
            body = event(number, output=os.urandom(400_000).hex())
            one = type(run(0))(run(number).id, playbook(), body, NOW, f"demo/{number}")
            try:
                accept(journal, one).result(PATIENCE)
                acknowledged.append(one.id)
            except JournalUnavailableError as error:
                refused = str(error)
        assert "No space left on device" in refused
        enlarge()
        wait_until(lambda: journal.write_error() is None)
        assert journal.known([*acknowledged, one.id]) == set(acknowledged)
        accept(journal, one).result(PATIENCE)


@pytest.fixture(scope="module")
def standby():
    """A server that is in recovery."""
    parent = scratch()
    server = Postgres.primary(parent)
    (server.folder / "standby.signal").touch()
    server.start()
    yield server
    server.kill()


def test_a_standby_is_refused_and_skipped_if_the_primary_is_named_too(standby, sql):
    del sql
    with pytest.raises(JournalError, match="is a standby: give the address of the primary"):
        opened(standby.dsn("postgres"))
    both = f"127.0.0.1:{standby.port},127.0.0.1:{shared_server().port}"
    with contextlib.closing(connect(parse_server(f"postgresql://postgres@{both}/postgres"))) as it:
        assert it.info.port == shared_server().port
    alone = f"127.0.0.1:{standby.port},127.0.0.1:{standby.port}"
    with pytest.raises(JournalUnavailableError, match="session is read-only"):
        opened(f"postgresql://postgres@{alone}/postgres")


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_a_server_that_can_lose_a_commit_is_refused_by_the_name_of_the_setting(url, sql, setting):
    def change(statement, value):
        sql.execute(f"ALTER SYSTEM {statement}")
        sql.execute("SELECT pg_reload_conf()")
        wait_until(lambda: sql.execute(f"SHOW {setting}").fetchone() == (value,))

    change(f"SET {setting} = off", "off")
    try:
        with pytest.raises(JournalError, match=f"the server has {setting} = off, .*: set it to on"):
            opened(url)
    finally:
        change(f"RESET {setting}", "on")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_another_encoding_is_refused(sql, encoding):
    sql.execute(
        f"CREATE DATABASE {encoding} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        with pytest.raises(JournalError, match=f"encoding {encoding}: create it with ENCODING"):
            opened(shared_server().dsn(encoding.lower()))
    finally:
        sql.execute(f"DROP DATABASE {encoding}")


@pytest.fixture
def role(url, sql):
    """The role of the engine. The tests change what it sees and may do."""
    name = url.partition("//")[2].partition("@")[0]
    yield name
    sql.execute(f"ALTER ROLE {name} IN DATABASE {database(url)} RESET ALL")
    sql.execute(f"GRANT INSERT ON run_ids TO {name}")
    sql.execute(f"ALTER ROLE {name} LOGIN")


def test_an_old_server_is_refused(url, sql, role):
    """A function of the role stands for the old server: it answers 13 to the query for the version."""
    sql.execute("CREATE SCHEMA older")
    sql.execute(
        "CREATE FUNCTION older.current_setting(name text) RETURNS text LANGUAGE sql AS $$ SELECT CASE name"
        " WHEN 'server_version_num' THEN '130012' WHEN 'server_version' THEN '13.12'"
        " ELSE pg_catalog.current_setting(name) END $$"
    )
    sql.execute(f"GRANT USAGE ON SCHEMA older TO {role}")
    path = "SET search_path = older, pg_catalog, public"
    sql.execute(f"ALTER ROLE {role} IN DATABASE {database(url)} {path}")
    with pytest.raises(
        JournalError, match=r"is PostgreSQL 13.12, and version 14 or newer is needed"
    ):
        opened(url)


def test_a_role_that_loses_its_rights_acknowledges_nothing_until_it_has_them_again(url, sql, role):
    with opened(url) as journal:
        accept(journal, run(1)).result(PATIENCE)
        sql.execute(f"REVOKE INSERT ON run_ids FROM {role}")
        with pytest.raises(JournalUnavailableError, match="permission denied for table run_ids"):
            accept(journal, run(2)).result(PATIENCE)
        assert stored(sql) == {run(1).id}
        sql.execute(f"GRANT INSERT ON run_ids TO {role}")
        wait_until(lambda: journal.write_error() is None)
        accept(journal, run(2)).result(PATIENCE)


def test_a_role_that_may_not_connect_gets_one_sentence(url, sql, role):
    sql.execute(f"ALTER ROLE {role} NOLOGIN")
    with pytest.raises(JournalError, match=f'role "{role}" is not permitted to log in') as caught:
        opened(url)
    assert "\n" not in str(caught.value)


def test_two_versions_of_the_engine_and_clocks_an_hour_apart_work_together(url, sql, monkeypatch):
    """The first replica has a clock that is an hour fast, and the second one has that of this machine."""
    del sql
    real = time.time
    with opened(url, "new", "2.0") as fast, opened(url, "old", "1.9") as other:
        versions = {one.name: one.version for one in other.replicas()}
        assert versions == {"new": "2.0", "old": "1.9"}
        monkeypatch.setattr(time, "time", lambda: real() + 3600)
        accept(fast, run(1))
        fast.accept(AcceptBatch([run(2)]), fast.now()).result(PATIENCE)
        (mine,) = fast.claim("cluster", 1, fast.now())
        monkeypatch.undo()
        assert abs(fast.now() - other.now()) < 5
        (its,) = other.claim(
            "cluster", 9, other.now()
        )  # no claim has ended early, and no run is late
        assert {mine.run.id, its.run.id} == {run(1).id, run(2).id}
        assert fast.settle(mine, DONE, fast.now()) == other.settle(its, DONE, other.now()) == "done"


@pytest.mark.parametrize("outage", [0, 60])
def test_claims_whose_answer_was_lost_are_free_at_once(url, sql, proxy, monkeypatch, outage):
    """The database has leased the runs, and the engine does not know. A lease would last for 40 seconds.

    outage: seconds for which the database does not answer after the claim.
    """
    with opened(through(proxy, url)) as journal:
        accept(journal, run(0), run(1), run(2)).result(PATIENCE)
        (held,) = journal.claim("cluster", 1, NOW)
        proxy.cut(b"claim_runs")
        with pytest.raises(JournalError):
            journal.claim("cluster", 9, NOW)
        leased = "SELECT count(*) FROM runs WHERE state = 'leased'"
        wait_until(lambda: sql.execute(leased).fetchone() == (3,))
        for _ in range(outage // 20):
            journal._ledger._failed -= 20
            with monkeypatch.context() as meanwhile:
                meanwhile.setattr(journal._liveness, "is_live", lambda _: False)
                assert "has not renewed its liveness row" in claim_failure(journal)
        found = []
        wait_until(lambda: found.extend(claimed(journal)) or len(found) == 2)
        assert {one.run.id for one in found} | {held.run.id} == stored(sql)
        assert {(one.attempt, one.interrupted) for one in found} == {(1, False)}
        for one in (held, *found):
            assert journal.settle(one, DONE, NOW) == "done"
        assert not journal._ledger._held


def test_after_a_fail_over_no_command_fails_because_of_a_connection_from_before(url, sql):
    with opened(url) as journal, ThreadPoolExecutor(4) as pool:
        sql.execute("BEGIN; LOCK TABLE pauses")
        waiting = [pool.submit(journal.paused) for _ in range(4)]  # each on a connection of its own
        wait_until(lambda: len(journal._connections._active) == 4)
        sql.execute("ROLLBACK")
        assert [one.result(PATIENCE) for one in waiting] == [{}] * 4
        sql.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        for _ in range(4):
            assert journal.paused() == {}


def test_after_a_fail_over_no_event_fails_because_of_a_connection_from_before(url, sql):
    """Falcosidekick does not repeat an event."""
    with opened(url) as journal:
        for number in (1, 2):
            accept(journal, run(number)).result(PATIENCE)
            (claim,) = claimed(journal)
            sql.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert journal.settle(claim, DONE, NOW) == "done"


def test_a_pause_may_take_longer_than_other_commands(url, sql, monkeypatch):
    """After a flood, it changes the queues of many targets. A lock stands for the time that this takes."""
    monkeypatch.setattr(connection, "STALL_TIMEOUT", 0.1)
    monkeypatch.setattr("engine.journal.postgres.journal.RENEW_INTERVAL", 0.05)
    with opened(url) as journal, ThreadPoolExecutor(2) as pool:
        sql.execute("BEGIN; LOCK TABLE pauses, budget_windows")
        pausing = pool.submit(journal.pause, "p", Pause("alice", NOW))
        for _ in range(2):  # another command is given up meanwhile
            with pytest.raises(JournalUnavailableError):
                journal.budget_windows()
        sql.execute("ROLLBACK")
        pausing.result(PATIENCE)
        assert [*journal.paused()] == ["p"]
        journal.resume("p")


def test_a_process_that_may_not_claim_says_why(url, sql, monkeypatch):
    with opened(url) as journal:
        sql.execute("ALTER TABLE replicas ADD CHECK (name <> 'a') NOT VALID")
        try:
            wait_until(lambda: "in time: new row for relation" in claim_failure(journal))
        finally:
            sql.execute("ALTER TABLE replicas DROP CONSTRAINT replicas_name_check")
        wait_until(lambda: not claim_failure(journal))
        monkeypatch.setattr(liveness, "SAFE_FOR", 0.0)  # no commit is as fast
        assert re.search(r"in time: the last renewal took [0-9.]+ s", claim_failure(journal))


def claimed(journal):
    with contextlib.suppress(JournalError):
        return journal.claim("cluster", 9, NOW)
    return ()
