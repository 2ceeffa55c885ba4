"""Settings of all tests: control planes, the order of files, hypothesis, and a check for leftover threads."""

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
pytest_plugins = ["tiercel.testing"]
pytest_plugins += ["tests.cluster.fixtures"] if _CONTROL_PLANE.exists() else []


_LONGEST = (
    "tests/history",
    "tests/argocd",
    "tests/gitops",
    "tests/soak",
    "tests/seed_loop",
    "tests/end_to_end",
)
"""Folders whose files take longest. They start first, so that no worker has one of them left at the end."""
_CONTROL_PLANES = 2
"""Workers that start a control plane. Each takes as much CPU time as a hundred other tests."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, and tell xdist (``--dist loadgroup``) which tests run in one worker.

    These are the tests of a file, because they share fixtures, and the files that share a control plane.
    """
    items.sort(key=lambda item: not item.nodeid.startswith(_LONGEST))
    files = dict.fromkeys(
        item.path for item in items if "control_plane" in getattr(item, "fixturenames", ())
    )
    planes = {path: number % _CONTROL_PLANES for number, path in enumerate(files)}
    for item in items:
        group = f"control-plane-{planes[item.path]}" if item.path in planes else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


_LONGEST_ID = 200
"""Characters of a value that becomes a part of a test's id."""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Use the name of a parameter instead of a long value: to escape megabytes takes seconds."""
    return argname if isinstance(val, (str, bytes)) and len(val) > _LONGEST_ID else None


@pytest.fixture(autouse=True)
def no_thread_still_runs() -> Iterator[None]:
    """Fail a test that leaves a thread running that would keep an engine alive."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and _counts(thread)]
    assert not left, f"threads still run: {left}"


def _counts(thread: threading.Thread) -> bool:
    return not thread.daemon or thread.name.startswith("tiercel")
