"""What holds for every test: fixtures of the control plane where it is there, and no thread left behind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTROL_PLANE = Path(__file__).parent / "cluster" / "fixtures.py"
pytest_plugins = ["tests.cluster.fixtures"] if _CONTROL_PLANE.exists() else []


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    """Fails a test after which a thread that it started still runs and would keep an engine alive."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and _counts(thread)]
    assert not left, f"threads are left behind: {left}"


def _counts(thread: threading.Thread) -> bool:
    return not thread.daemon or thread.name.startswith("tiercel")
