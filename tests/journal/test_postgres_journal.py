"""The journal in PostgreSQL with two replicas: decisions, claims of dead replicas, and start checks."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine.journal.postgres import claims, liveness
from engine.journal.postgres.connection import parse_server
from engine.journal.records import AcceptBatch, Pause
from engine.model.errors import JournalError
from engine.model.playbook import Throttle
from engine.model.run import Outcome
from engine.model.throttle_window import ThrottleUse
from tests.support.engine import PATIENCE, wait_until
from tests.support.journals import DONE, NOW, accept, claim, event, open_replica, playbook, run
from tests.support.postgres import database_of, shared_server

ONCE, THRICE = (Throttle("per minute", 60.0, first=first) for first in (1, 3))


def offer(journal, *runs, throttle=ONCE, clock=NOW):
    """Accept runs of one throttle window. Return why runs were rejected, by their second."""
    uses = {one.id: ThrottleUse("key", throttle, clock) for one in runs}
    rejected = journal.accept(AcceptBatch(runs, throttles=uses), NOW).result()
    return [rejected.get(one.id) for one in runs]


def test_a_run_that_another_replica_has_accepted_is_a_duplicate(start):
    a, b = start("a"), start("b")
    assert a.accept(AcceptBatch([run(1), run(2)]), NOW).result() == {}
    assert b.accept(AcceptBatch([run(2), run(3)]), NOW).result() == {run(2).id: "duplicate"}
    assert [one.run.id for one in b.claim("cluster", 9, NOW)] == [run(n).id for n in (1, 2, 3)]


def test_a_throttle_holds_over_all_replicas(start):
    a, b = start("a"), start("b")
    assert offer(a, run(1), run(2)) == [None, "throttle"]
    assert offer(b, run(1), run(3)) == ["duplicate", "throttle"]
    assert offer(b, run(3), clock=NOW + 60) == [None]  # a rejected run is not remembered


def test_a_released_throttle_slot_is_free_for_all_replicas(start):
    a, b = start("a"), start("b")
    assert offer(a, run(1)) == [None]
    b.release_throttle(run(1).id)
    b.release_throttle(run(1).id)
    assert offer(a, run(2), run(3)) == [None, "throttle"]


def test_concurrent_replicas_let_exactly_one_run_of_a_window_act(start):
    journals = [start("a"), start("b")]
    with ThreadPoolExecutor(8) as pool:
        given = [
            pool.submit(offer, journals[number % 2], run(number), throttle=THRICE)
            for number in range(60)
        ]
        verdicts = [one.result()[0] for one in given]
    assert sorted(map(str, verdicts)) == ["None"] * 3 + ["throttle"] * 57


def test_concurrent_batches_with_the_same_runs_accept_each_run_once(start):
    journals = [start("a"), start("b")]
    runs = [run(number) for number in range(50)]
    with ThreadPoolExecutor(8) as pool:
        given = [
            pool.submit(journals[n % 2].accept, AcceptBatch(runs[:: 1 - 2 * (n % 2)]), NOW)
            for n in range(16)
        ]
        rejected = [one.result().result() for one in given]
    assert sum(len(runs) - len(one) for one in rejected) == 50


def test_concurrent_claims_of_two_replicas_never_share_a_target(start):
    journals = [start("a"), start("b")]
    accept(journals[0], *(run(n, f"demo/{n % 7}") for n in range(210)))
    guard, busy, done, clashes = threading.Lock(), set(), [], []

    def work(journal):
        while len(done) < 210 and not clashes:
            for held in journal.claim("cluster", 3, NOW):
                with guard:
                    clashes.extend({held.run.target} & busy)
                    busy.add(held.run.target)
                with guard:
                    busy.discard(held.run.target)
                    done.append(held.run.id)
                if journal.settle(held, DONE, NOW) is None:  # another claim is newer
                    clashes.append(held.run.target)

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(work, journal) for journal in journals * 2]:
            one.result()
    assert not clashes
    assert len(done) == len(set(done)) == 210
    for target in range(7):
        order = [run(n).id for n in range(target, 210, 7)]
        assert [one for one in done if one in set(order)] == order


def test_claims_moves_settlements_and_pauses_do_not_deadlock(start, url):
    """PostgreSQL would end one of them after a second, and it would be repeated."""
    a, b = start("a"), start("b")
    found = "SELECT deadlocks FROM pg_stat_database WHERE datname = %s"
    database = (url.rpartition("/")[2],)
    pause = Pause("alice", NOW, None, "")
    with shared_server().connect() as admin:
        (before,) = admin.execute(found, database).fetchone()
        numbers, stop = itertools.count(), threading.Event()

        def offer_runs(journal):
            while not stop.is_set() and next(numbers) < 10_000:
                runs = [run(next(numbers), f"demo/{n}") for n in range(40)]
                journal.accept(AcceptBatch(runs), NOW).result()

        def work(journal):
            while not stop.is_set():
                for held in journal.claim("cluster", 16, NOW):
                    journal.settle(held, DONE, NOW)

        with ThreadPoolExecutor(6) as pool:
            tasks = [pool.submit(offer_runs, a)]
            tasks += [pool.submit(work, journal) for journal in (a, b, b)]
            try:
                for _ in range(15):
                    a.pause("p", pause)
                    b.resume("p")
            finally:
                stop.set()
            for one in tasks:
                one.result()
        a.close()
        b.close()
        left = "SELECT 1 FROM pg_stat_activity WHERE datname = %s"
        wait_until(
            lambda: not admin.execute(left, database).fetchone()
        )  # their statistics are written
        assert admin.execute(found, database).fetchone() == (before,)


def test_the_claim_of_a_replica_that_joins_during_a_claim_stays(start, url):
    one = start("a")
    accept(one, run(1))
    one.next_due("cluster")  # makes the run the head of its target
    database = url.rpartition("/")[2]
    with (
        shared_server().connect(database) as other,
        shared_server().connect() as admin,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("BEGIN")
        other.execute("LOCK TABLE runs")
        claiming = pool.submit(one.claim, "cluster", 9, NOW)  # has read the live replicas
        blocked = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
            " AND query LIKE '%%claim_runs%%'"
        )
        while not admin.execute(blocked, (database,)).fetchone():
            assert not claiming.done()
        other.execute(
            "WITH joined AS (INSERT INTO replicas (id, name, process, version, tables)"
            " SELECT 1, 'b', process, version, tables FROM replicas RETURNING id)"
            " UPDATE runs SET state = 'leased', leased = true, fence = 1, due_at = %s,"
            " replica = joined.id FROM joined",
            (NOW + 40,),
        )
        other.execute("COMMIT")
        assert claiming.result() == []


def test_the_claims_of_a_dead_replica_are_free_and_its_fence_is_old(start, monkeypatch):
    a, b = start("a"), start("b")
    accept(a, run(1, "demo/a"))
    lost = claim(a)
    identity = lost.replica
    assert b.claim("cluster", 9, NOW + 1) == []
    monkeypatch.setattr(a._liveness, "renew", lambda: None)  # as if the process were stopped
    monkeypatch.setattr(liveness, "DEAD_AFTER", 0.2)  # b must not wait for its own renewals
    freed = threading.Event()
    b.on_free(freed.set)
    assert freed.wait(PATIENCE)
    again = claim(b, NOW + 1)
    assert (again.run.id, again.interrupted, again.fence) == (lost.run.id, True, lost.fence + 1)
    assert not a.keep(lost, {"sent": "mark"})
    assert a.settle(lost, DONE, NOW + 1) is None
    monkeypatch.undo()
    a._liveness.renew()
    assert not a.may_act(identity)
    assert a.may_act(a.claim_identity)
    assert b.settle(again, DONE, NOW + 1) == "done"


def test_a_process_that_was_stopped_may_neither_act_nor_claim_until_it_has_renewed_its_row(
    start, monkeypatch
):
    a = start("a")
    assert a.may_act(a.claim_identity)
    monkeypatch.setattr(a._liveness, "renew", lambda: None)
    accept(a, run(1))
    a._liveness._renewed -= liveness.SAFE_FOR
    assert not a.may_act(a.claim_identity)
    with pytest.raises(JournalError, match="not renewed its liveness row"):
        a.claim("cluster", 9, NOW)
    monkeypatch.undo()
    woken = threading.Event()
    a.on_free(woken.set)
    assert woken.wait(PATIENCE)
    assert len(a.claim("cluster", 9, NOW)) == 1


def test_a_machine_that_was_suspended_may_not_act(start, monkeypatch):
    """The monotonic clock stops while a machine is suspended. Its claims are those of others then."""
    a = start()
    slept = time.clock_gettime
    monkeypatch.setattr(a._liveness, "renew", lambda: None)
    a._liveness._renewed = liveness.steady()
    assert a.may_act(a.claim_identity)
    monkeypatch.setattr(
        time, "clock_gettime", lambda clock: slept(clock) + 60 * (clock == time.CLOCK_BOOTTIME)
    )
    assert not a.may_act(a.claim_identity)


def test_processes_never_share_an_identity_after_a_fail_over_that_lost_rows(
    sql, start, monkeypatch
):
    """A standby without synchronous replication lacks the last rows, and its counters are those before them."""
    sql.execute("TRUNCATE replicas RESTART IDENTITY")
    a = start("a")
    lost, renew = a.claim_identity, a._liveness.renew
    monkeypatch.setattr(a._liveness, "renew", lambda: None)
    sql.execute("TRUNCATE replicas RESTART IDENTITY")
    b = start("b")
    renew()
    assert len({lost, a.claim_identity, b.claim_identity}) == 3


def test_a_run_that_becomes_the_head_during_a_pause_lets_others_pass(sql, start):
    """The transaction that makes it the head does not see the pause, which does not see the head."""
    a = start()
    accept(a, run(1, "demo/a"), run(2, "demo/a", playbook("other")))
    assert a.settle(claim(a), Outcome("failed", "", retry_in=1.0), NOW) == "waiting"
    sql.execute("UPDATE runs SET state = 'waiting', due_at = %s WHERE state = 'head'", (NOW + 2,))
    sql.execute("BEGIN")
    sql.execute("SELECT queue_due_runs(%s)", (NOW + 2,))
    a.pause("p", Pause("alice", NOW))
    sql.execute("COMMIT")
    assert [one.run.playbook.name for one in a.claim("cluster", 9, NOW + 2)] == ["other"]


@pytest.mark.parametrize("query", ["find", "next_due"])
def test_a_query_during_a_flood_does_not_move_runs_until_its_end(start, monkeypatch, query):
    a = start()
    accept(a, run(1))
    moves, move = [], claims.move_arrived_runs

    def move_in_a_flood(connections, **of):
        moves.append(move(connections, **of))
        assert len(moves) < 9
        accept(a, run(1_000 + len(moves)))
        return True

    monkeypatch.setattr(claims, "move_arrived_runs", move_in_a_flood)
    if query == "find":
        assert a.find(run(1).id)
    else:
        assert a.next_due("cluster") == NOW
        monkeypatch.setattr(a._liveness.clock, "now", lambda: NOW + 5)
        assert a.next_due("http") == NOW + 5  # when the rest is moved, one may be due


def test_the_clock_is_that_of_the_database(start):
    a = start("a")
    row = a._connections.row("SELECT extract(epoch FROM clock_timestamp())::float8 AS now")
    assert a.now() == pytest.approx(row["now"], abs=0.5)
    a._liveness.clock._offset -= 100.0
    assert a.now() > row["now"] - 1  # never goes back


def test_replicas_are_listed_with_their_playbooks(start):
    a, _ = start("a"), start("b")
    a.set_digest("d1")
    a._liveness.renew()
    assert [(one.name, one.version, one.digest) for one in a.replicas()] == [
        ("a", "1", "d1"), ("b", "1", ""),
    ]  # fmt: skip
    wait_until(lambda: a.live_replicas() == 2)


def test_hostile_text_does_not_prevent_an_accept(start):
    a = start("a")
    long = replace_target(run(1), "demo/" + "\U0001f600" * 5_000)
    nul = replace_target(run(2), "demo/a\0\ud800b")
    use = ThrottleUse("key" + "\0" * 9_000, ONCE, NOW)
    batch = AcceptBatch([long, nul], throttles={long.id: use})
    assert a.accept(batch, NOW).result() == {}
    assert len(a.claim("cluster", 9, NOW)) == 2


def replace_target(one, target):
    hostile = event(one.event.time_ns % 10, output_fields={"k8s.ns.name": "n\0s"})
    return type(one)(one.id, one.playbook, hostile, NOW, target)


def test_an_unavailable_database_fails_an_accept_and_heals(tmp_path):
    """The connections are cut, as by a dead primary. The next write connects again."""
    url = database_of(tmp_path / "own")
    database = url.rpartition("/")[2]
    with (
        contextlib.closing(open_replica(url, "a")) as journal,
        shared_server().connect() as admin,
    ):
        accept(journal, run(1))
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,)
        )
        with pytest.raises(JournalError, match="the journal cannot be written"):
            accept(journal, run(2))
        assert "cannot be written" in journal.write_error()
        with pytest.raises(JournalError):
            journal.claim("cluster", 1, NOW)
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        while journal.write_error() is not None:
            pass
        accept(journal, run(2))
        assert len(journal.claim("cluster", 9, NOW)) == 2


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://tiercel@127.0.0.1:5432", "does not name a database"),
        ("postgresql://tiercel:secret@127.0.0.1/tiercel", "--journal-password-file"),
        ("postgresql://db.example/tiercel?sslmode=require", "verify-full"),
        ("postgresql://localhost/tiercel?hostaddr=192.0.2.1&sslmode=require", "verify-full"),
        ("postgresql://[::1/tiercel", "is not postgresql://"),
    ],
)
def test_an_address_that_is_not_safe_is_refused_without_repeating_it(url, why):
    with pytest.raises(JournalError, match=why) as caught:
        parse_server(url)
    assert "secret" not in str(caught.value)


def test_another_machine_is_verified():
    assert "sslmode=verify-full" in parse_server("postgresql://db.example/tiercel").conninfo
    assert "sslmode" not in parse_server("postgresql://127.0.0.1/tiercel").conninfo


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("SET default_transaction_read_only = on", "is read-only"),
        ("SET synchronous_commit = off", "synchronous_commit = off"),
    ],
)
def test_a_database_that_can_lose_events_is_refused(tmp_path, statement, why):
    url = database_of(tmp_path / "own")
    with shared_server().connect() as admin:
        admin.execute(f"ALTER DATABASE {url.rpartition('/')[2]} {statement}")
    with pytest.raises(JournalError, match=why):
        open_replica(url, "a")


def test_a_missing_standby_is_a_warning(start):
    assert "no synchronous standby" in start().warning


def test_tables_of_a_newer_engine_are_refused_only_if_it_says_so(tmp_path):
    url = database_of(tmp_path / "own")
    with shared_server().connect(url.rpartition("/")[2]) as admin:
        admin.execute("UPDATE schema_version SET version = 99")
        open_replica(url, "a").close()  # a rolling update: the previous version keeps working
        admin.execute("UPDATE schema_version SET oldest_reader = 98")
        with pytest.raises(JournalError, match="the tables have version 99"):
            open_replica(url, "a")


def test_a_server_that_has_lost_a_playbook_gets_it_again(start, url):
    """A standby without synchronous replication can lack the last commits of the primary."""
    a = start("a")
    accept(a, run(1))
    with shared_server().connect(url.rpartition("/")[2]) as c:
        c.execute("DELETE FROM snapshots; DELETE FROM arrived; DELETE FROM run_ids")
        c.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    wait_until(lambda: accepted(a, run(2)))
    assert [one.run.id for one in start("b").claim("cluster", 9, NOW)] == [run(2).id]


def accepted(journal, one):
    try:
        accept(journal, one)
    except JournalError:
        return False
    return True
