"""Fail-over to a server whose clock is an hour fast or slow: no replica is dead, and no lease ends early."""

from __future__ import annotations

import contextlib
import time

import pytest
from engine.journal.postgres.connection import parse_server
from engine.journal.postgres.journal import PostgresJournal
from engine.journal.postgres.liveness import DEAD_AFTER, Process, Watch
from engine.journal.records import AcceptBatch
from engine.model.errors import JournalError
from engine.model.run import Outcome
from tests.support.engine import wait_until
from tests.support.journals import DONE, run, stored_playbook
from tests.support.postgres import database_of, move_clock, shared_server, unavailable


def opened(url, name):
    process = Process(name, "worker", "1")
    return contextlib.closing(PostgresJournal(parse_server(url), process, stored_playbook))


def accept(journal, one):
    journal.accept(AcceptBatch([one]), journal.now()).result()


def answers(journal):
    with contextlib.suppress(JournalError):
        return journal.counts() is not None and journal.may_act(journal.claim_identity)


def settled(journal, held):
    with contextlib.suppress(JournalError):  # the first use of a connection that the outage has cut
        return journal.settle(held, DONE, journal.now())


@pytest.mark.parametrize("hours", [1, -1])
def test_a_server_with_another_clock_ends_no_claim_and_delays_no_retry(tmp_path, hours):
    url = database_of(tmp_path / "own")
    with opened(url, "a") as a, opened(url, "b") as b:
        for number in (1, 2):
            accept(a, run(number))
        held, retried = a.claim("cluster", 2, a.now())
        identities = a.claim_identity, b.claim_identity
        a.settle(retried, Outcome("failed", "later", retry_in=5.0), a.now())
        before, since = a.now(), time.monotonic()
        move_clock(shared_server(), url.rpartition("/")[2], 3600 * hours)
        with unavailable(url):  # for so long that nobody has renewed a row for three seconds
            wait_until(lambda: time.monotonic() - since > DEAD_AFTER + 0.1)
        for one in (a, b):
            wait_until(lambda one=one: answers(one))
        with opened(url, "c") as c:
            accept(c, run(3))
            wait_until(lambda: a.live_replicas() == 3)
            assert (a.claim_identity, b.claim_identity) == identities
            found = []
            wait_until(lambda: found.extend(c.claim("cluster", 9, c.now())) or len(found) == 2)
            assert {one.run.id for one in found} == {run(2).id, run(3).id}
            wait_until(lambda: settled(a, held) == "done")
            passed = time.monotonic() - since
            for one in (a, b, c):
                assert one.now() - before == pytest.approx(passed, abs=2.0)


def test_a_row_is_silent_only_for_the_time_in_which_it_was_watched(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = Watch()

    def after(seconds, **rows):
        now[0] += seconds
        seen = {ord(name): value for name, value in rows.items()}
        return [chr(id_) for id_ in watch.silent(seen, now[0])]

    assert after(0, a=5.0, b=5.0) == []  # whatever the time of the last renewal is
    for number in range(11):
        assert after(0.25, a=5.0, b=number) == []
    assert watch.wait() == 0.25
    assert after(0.2, a=5.0, b=20) == []
    assert watch.wait() == pytest.approx(0.05)
    assert after(60.0, a=5.0, b=20) == ["a"]  # at most one second of these: the database was away
    assert after(1.0, b=20) == []
    assert after(60.0, b=20) == ["b"]
