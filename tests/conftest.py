"""Settings of all tests: the fixtures of the control plane, hypothesis, and a check for leftover threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# No test may fail because the machine is slow. Random examples stay random: a new counterexample is a finding.
settings.register_profile(
    "tiercel", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tiercel")
_CONTROL_PLANE = Path(__file__).parent / "cluster" / "fixtures.py"
pytest_plugins = ["tests.cluster.fixtures"] if _CONTROL_PLANE.exists() else []


@pytest.fixture(autouse=True)
def no_thread_still_runs() -> Iterator[None]:
    """Fail a test that leaves a thread running that would keep an engine alive."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and _counts(thread)]
    assert not left, f"threads still run: {left}"


def _counts(thread: threading.Thread) -> bool:
    return not thread.daemon or thread.name.startswith("tiercel")
