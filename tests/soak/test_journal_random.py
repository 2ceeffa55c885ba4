"""The random tests of the journal contract, with many more examples."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from tests.contracts.test_journal_order import moves, play
from tests.support.journals import JOURNALS


@pytest.mark.parametrize("opened", JOURNALS.values(), ids=JOURNALS)
def test_claims_follow_the_invariants_for_many_sequences_of_operations(opened, size):
    @settings(
        deadline=None,
        max_examples=size.of(5, 2_000),
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(moves=moves)
    def run_example(moves):
        with tempfile.TemporaryDirectory() as folder:
            journal = opened(Path(folder))
            try:
                play(journal, moves)
            finally:
                journal.close()

    run_example()
