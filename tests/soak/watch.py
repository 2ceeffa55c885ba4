"""What the tortures share: waiting for a state, a process' memory, a cluster that is not there."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tests.support.serving import PATIENCE

NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "none", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
}
"""A kubeconfig of a server that is not there."""


def wait_until(true, what, patience=3 * PATIENCE):
    """Ask until it is true. what: the complaint where it never is, or what gives it."""
    pause, deadline = threading.Event(), time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, what() if callable(what) else what
        pause.wait(0.02)


def memory_of(pid):
    """Resident memory of a process and of those it has started, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = [
        child
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return pages * 4096 / 1e6 + sum(memory_of(child) for child in children)
