"""Helpers of the soak tests: measure memory, wait longer, name a cluster that does not exist."""

from __future__ import annotations

from pathlib import Path

from tests.support.engine import PATIENCE

PATIENT = 3 * PATIENCE
"""Seconds in which something that takes long at full size must happen."""
NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "none", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
}
"""A kubeconfig of a server that does not exist."""


def memory_of(pid):
    """Return the resident memory of a process and its children in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = [
        child
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return pages * 4096 / 1e6 + sum(memory_of(child) for child in children)
