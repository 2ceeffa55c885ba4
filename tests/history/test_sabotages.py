"""Break the journal on purpose: the checker names the statement and the run. Unbroken, it finds nothing."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine.execution.budgets import BudgetLedger, Charge
from engine.journal.spool.file import SpoolFile
from engine.journal.spool.queue import SpooledQueue
from engine.model.errors import JournalError
from engine.model.playbook import Budget, Guardrails
from engine.model.run import Outcome
from tests.history import sabotage
from tests.history.checker import check
from tests.history.stage import BUDGETED, Stage
from tests.support.engine import wait_until
from tests.support.journals import playbook, run, stored_playbook
from tests.support.postgres import database_of, unavailable

REFUSED = Outcome("refused", "the budget is used up")
RAILS = Guardrails(budgets=(Budget("mark", 1, 3600.0, "namespace", on_exceeded="drop"),))


@pytest.fixture
def stage(tmp_path):
    with contextlib.closing(Stage(database_of(tmp_path / "database"))) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["intact", "sabotaged"])
def sabotages(request):
    return request.param


def violated(stage):
    """Return statement -> rows of the violations."""
    return {one.statement: one.rows for one in check(stage.recorded()).violations}


def test_a_lost_row(stage, sabotages):
    if sabotages:
        with stage.connect() as connection:
            sabotage.lose_rows(connection)
    for number in range(2):
        stage.accept(stage.a, run(number))
    stage.finish()
    lost = [
        one for one in (run(0).id, run(1).id) if one not in {r.run for r in stage.recorded().rows}
    ]
    assert len(lost) == sabotages
    expected = {"no acknowledged run is lost": tuple(lost)} if sabotages else {}
    assert violated(stage) == expected


def test_a_doubled_claim(stage, sabotages):
    if sabotages:
        with stage.connect() as connection:
            sabotage.claim_without_lock(connection)
    stage.accept(stage.a, run(0))
    stage.a.next_due("cluster")  # makes the run the head of its target
    with stage.connect() as holder, ThreadPoolExecutor(2) as pool:
        holder.execute("BEGIN")
        holder.execute(
            "LOCK TABLE runs IN SHARE MODE"
        )  # claims find their runs, but cannot lease them
        claims = [pool.submit(stage.claim, one) for one in (stage.a, stage.b)]
        wait_until(lambda: _blocked(stage) + sum(one.done() for one in claims) == 2)
        holder.execute("COMMIT")
        held = [(stage.a, claims[0].result()), (stage.b, claims[1].result())]
    assert sum(len(one) for _, one in held) == 1 + sabotages
    for journal, found in held:
        for claim in found:
            stage.act(journal, claim)
    for journal, found in held:
        for claim in found:
            stage.settle(journal, claim)
    expected = {
        "no effect is doubled": (run(0).id,),
        "no two attempts on one target at once": (run(0).id,),
    }
    found = violated(stage)
    assert bool(found) == sabotages
    assert not sabotages or found.items() >= expected.items()


def _blocked(stage):
    """Return how many sessions wait for a lock of a table."""
    with stage.connect() as connection:
        query = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return connection.execute(query).fetchone()[0]


def test_a_late_fence_is_accepted(stage, sabotages):
    if sabotages:
        with stage.connect() as connection:
            sabotage.accept_old_fences(connection)
    stage.accept(stage.a, run(0))
    (late,) = stage.claim(stage.a)
    with stage.connect() as connection:  # as the other replica does after three seconds
        connection.execute("DELETE FROM replicas WHERE name = 'a'")
    (again,) = stage.claim(stage.b)
    stage.settle(stage.a, late)
    stage.act(stage.b, again)
    stage.settle(stage.b, again)
    assert late.run.id == again.run.id == run(0).id
    found = violated(stage)
    assert found.get("no two attempts on one target at once") == (
        (run(0).id,) if sabotages else None
    )
    assert bool(found) == sabotages


def test_a_swapped_order(stage, sabotages):
    if sabotages:
        with stage.connect() as connection:
            sabotage.swap_order(connection)
    for number in range(3):
        stage.accept(stage.a, run(number, "demo/web"))
    stage.finish()
    found = violated(stage)
    assert list(found) == (["the order per target is kept"] if sabotages else [])


def test_a_budget_that_is_not_locked(stage, sabotages, monkeypatch):
    if sabotages:
        sabotage.read_budgets_without_lock(monkeypatch, readers=2)
    few = playbook(BUDGETED)
    for number in range(2):
        stage.accept(stage.a, run(number, of=few))
    claims = stage.claim(stage.a)
    charges = [
        (BudgetLedger(journal), Charge("mark", "mark", BUDGETED, claim.run.target, "demo"))
        for journal, claim in zip((stage.a, stage.b), claims, strict=True)
    ]
    with ThreadPoolExecutor(2) as pool:
        given = [pool.submit(one.charge, RAILS, charge, time.time()) for one, charge in charges]
        allowed = [one.result().exceeded is None for one in given]
    assert sum(allowed) == 1 + sabotages
    for claim, acts in zip(claims, allowed, strict=True):
        if acts:
            stage.act(stage.a, claim)
            stage.settle(stage.a, claim)
        else:
            stage.settle(stage.a, claim, REFUSED)
    expected = {"no budget is exceeded": (run(0, of=few).id, run(1, of=few).id)}
    assert violated(stage) == (expected if sabotages else {})


def _has_finished(stage):
    """Execute what the spool has forwarded. Return whether a run is over."""
    with contextlib.suppress(JournalError):  # of connections that were cut
        stage.finish()
    return any(row.outcome for row in stage.recorded().rows)


def test_a_spool_that_is_replayed(stage, sabotages, monkeypatch, tmp_path):
    again = None
    if sabotages:
        with stage.connect() as connection:
            again = sabotage.replay_spool(connection, monkeypatch)
    spool = SpoolFile(tmp_path / "spool.db", stage.a.id(), stored_playbook)
    with contextlib.closing(SpooledQueue(stage.a, spool)) as queue:
        queue.start()
        with unavailable(stage.url):
            stage.accept(queue, run(0))
        wait_until(lambda: _has_finished(stage))
        if again:
            again.set()
        wait_until(lambda: not queue.spooling)
        stage.finish()
    found = violated(stage)
    assert found.get("no effect is doubled") == ((run(0).id,) if sabotages else None)
    assert bool(found) == sabotages
