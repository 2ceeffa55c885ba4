"""The engine's clock: whatever is done to the machine's, retries and leases come."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from engine.journal.records import AcceptBatch
from engine.model.clock import SteadyClock
from engine.model.run import Outcome
from tests.support.journals import DONE, NOW, claim, open_sqlite, run


class Machine:
    """A machine whose clock somebody sets."""

    def __init__(self):
        self.wall, self.up = NOW, 5.0

    def goes_on(self, seconds):
        self.wall += seconds
        self.up += seconds

    def clock(self):
        return SteadyClock(lambda: self.wall, lambda: self.up)


def test_it_follows_the_system_clock_while_that_increases():
    machine = Machine()
    clock = machine.clock()
    machine.goes_on(0.25)
    assert clock() == NOW + 0.25
    machine.wall += 500  # set forward
    assert clock() == NOW + 500.25


def test_after_a_step_back_it_runs_slower_until_the_system_clock_has_caught_up():
    machine = Machine()
    clock = machine.clock()
    machine.wall -= 100
    assert clock() == NOW
    machine.goes_on(60)
    assert clock() == NOW + 30
    machine.goes_on(140)
    assert clock() == NOW + 100
    machine.goes_on(50)
    assert clock() == NOW + 150 == machine.wall


def test_it_increases_for_every_thread():
    clock = SteadyClock()
    with ThreadPoolExecutor(8) as pool:
        for seen in pool.map(lambda _: [clock() for _ in range(500)], range(8)):
            assert seen == sorted(seen)


def test_a_run_that_was_accepted_before_a_step_back_is_claimed_after_it(tmp_path):
    journal = open_sqlite(tmp_path)
    journal.accept(AcceptBatch([run(1), run(2)]), NOW).result()
    assert len(journal.claim("cluster", 9, NOW - 3600)) == 2
    journal.close()


def test_a_retry_is_due_after_the_clock_was_set_back(tmp_path):
    machine, journal = Machine(), open_sqlite(tmp_path)
    clock = machine.clock()
    journal.accept(AcceptBatch([run(1)]), clock()).result()
    journal.settle(claim(journal, clock()), Outcome("waiting", "503", retry_in=10.0), clock())
    machine.wall -= 7200
    machine.goes_on(21)
    assert journal.settle(claim(journal, clock()), DONE, clock()) == "done"
    journal.close()
