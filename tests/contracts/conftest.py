"""Fixtures that open each backend of the journal for each test."""

from __future__ import annotations

import pytest
from tests.support.journals import JOURNALS


@pytest.fixture(params=JOURNALS.values(), ids=JOURNALS)
def opened(request):
    return request.param


@pytest.fixture
def journal(opened, tmp_path):
    journal = opened(tmp_path)
    yield journal
    journal.close()
