"""Helpers of the soak tests: wait for a state, measure memory, name a cluster that does not exist."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tests.support.engine import PATIENCE

NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "none", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
}
"""A kubeconfig of a server that does not exist."""


def wait_until(true, what, patience=3 * PATIENCE):
    """Ask until it is true. what: the error message, or a function that returns it."""
    pause, deadline = threading.Event(), time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, what() if callable(what) else what
        pause.wait(0.02)


def memory_of(pid):
    """Return the resident memory of a process and its children in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = [
        child
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return pages * 4096 / 1e6 + sum(memory_of(child) for child in children)
