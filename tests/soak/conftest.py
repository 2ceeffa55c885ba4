"""Soak tests: small in the suite, large in `make soak`, with the same code and one size parameter.

With `TIERCEL_SOAK=1` they run at full size. Figures go into benchmarks/results/soak.json, with the commit and
the date of the run.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.soak.burst import PODS

FIGURES = Path(__file__).parents[2] / "benchmarks" / "results" / "soak.json"


class Size:
    """The size of a soak test. ``of`` chooses a number, ``tell`` stores a figure."""

    def __init__(self, full):
        self.full = full
        self.figures = {}

    def of(self, small, full):
        """Return the number for this run."""
        return full if self.full else small

    def tell(self, **figures):
        """Store figures of a full run."""
        self.figures.update(figures)


def stamped(figures):
    """Add commit and date to figures, because each test may run alone and from another commit."""
    said = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=FIGURES.parent)
    return figures | {"commit": said.decode().strip(), "date": datetime.now(UTC).date().isoformat()}


@pytest.fixture(scope="session")
def sizes():
    full = os.environ.get("TIERCEL_SOAK") == "1"
    figures = {}
    yield full, figures
    if full and figures:
        machine = {"machine": f"{os.cpu_count()} cores, {platform.platform()}"}
        before = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        FIGURES.write_text(json.dumps(before | machine | figures, indent=1) + "\n")


@pytest.fixture
def size(sizes, request):
    full, figures = sizes
    size = Size(full)
    yield size
    if size.full and size.figures:
        figures[request.node.name] = stamped(size.figures)


@pytest.fixture
def pods(admin, namespace):
    """Create running pods, and return their namespace."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    names = [f"pod-{number}" for number in range(PODS)]
    for name in names:
        spec = {"nodeName": "worker-1", "containers": [{"name": "c", "image": "nginx"}]}
        admin.create(path, {"metadata": {"name": name}, "spec": spec})
    admin.wait_for(path, lambda it: all(p["status"].get("phase") == "Running" for p in it["items"]))
    return namespace
