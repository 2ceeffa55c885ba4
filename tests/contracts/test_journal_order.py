"""The order of claims, for every backend, under random operations and concurrent threads."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest
from engine.model.run import Outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.journals import DONE, JOURNALS, LEASE, NOW, accept, playbook, run, step


def _ready_first(state, pool, now):
    """Return the runs that the invariants allow to start, in order, computed in a slow and simple way."""
    leased = {r["target"] for r in state if r["leased"] and r["due"] > now}
    seen, first = set(leased), []
    for r in state:
        if r["due"] is None or r["due"] > now or r["target"] in seen:
            continue
        seen.add(r["target"])
        if r["pool"] == pool:
            first.append(r)
    return first


moves = st.lists(
    st.tuples(st.just("accept"), st.sampled_from("ab"), st.sampled_from(["cluster", "slow"]))
    | st.tuples(st.just("claim"), st.integers(1, 3), st.sampled_from(["cluster", "slow"]))
    | st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from([None, None, 0.0, 7.0, 50.0]))
    | st.tuples(st.just("pass"), st.sampled_from([1.0, 6.0, LEASE]), st.none()),
    min_size=8,
    max_size=30,
)


@pytest.mark.parametrize("opened", JOURNALS.values(), ids=JOURNALS)
@settings(deadline=None, max_examples=30)
@given(moves=moves)
def test_claims_follow_the_invariants_for_every_sequence_of_operations(opened, moves):
    with tempfile.TemporaryDirectory() as folder:
        journal = opened(Path(folder))
        try:
            play(journal, moves)
        finally:
            journal.close()


def play(journal, moves):
    """Apply moves to a journal, and compare each claim with the invariants."""
    state, held, now = [], [], NOW
    for what, which, how in moves:
        if what == "accept":
            one = run(len(state), f"demo/{which}", playbook(how, step(pool=how)))
            new = {"due": now, "leased": False, "claims": 0}
            state.append({"id": one.id, "target": one.target, "pool": how, **new})
            accept(journal, one, now=now)
        elif what == "pass":
            now += which
        elif what == "claim":
            wanted = _ready_first(state, how, now)[:which]
            given = journal.claim(how, which, now)
            assert [c.run.id for c in given] == [r["id"] for r in wanted]
            assert [c.interrupted for c in given] == [r["leased"] for r in wanted]
            for r in wanted:
                r.update(due=now + LEASE, leased=True, claims=r["claims"] + 1)
            held += [(c, r, r["claims"]) for c, r in zip(given, wanted, strict=True)]
        elif held:
            claimed, r, number = held.pop(which % len(held))
            newest = r["leased"] and r["claims"] == number
            result = journal.settle(claimed, Outcome("done", "", how), now)
            assert (result is not None) == newest
            if newest:
                r.update(due=None if how is None else now + how, leased=False)


def test_concurrent_claims_never_share_a_target_and_finish_all_runs(journal):
    accept(journal, *(run(n, f"demo/{n % 7}") for n in range(210)))
    start, guard = threading.Barrier(8), threading.Lock()
    busy, done, clashes = set(), [], []

    def work():
        start.wait()
        while len(done) < 210 and not clashes:
            for held in journal.claim("cluster", 2, NOW):
                with guard:
                    clashes.extend({held.run.target} & busy)
                    busy.add(held.run.target)
                with guard:
                    busy.discard(held.run.target)
                    done.append(held.run.id)
                journal.settle(held, DONE, NOW)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes
    assert len(done) == len(set(done)) == 210
