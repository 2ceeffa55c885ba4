"""Replicas on PostgreSQL under load and faults: every statement of the checker holds.

The suite runs it for a minute, `make soak` for half an hour with the same code. TIERCEL_HISTORY_SECONDS changes
the time. A full run writes its figures to benchmarks/results/history.json.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from tests.history.checker import check
from tests.history.run import Size, record
from tests.soak.conftest import stamped

FIGURES = Path(__file__).parents[2] / "benchmarks" / "results" / "history.json"
IN_SUITE = Size(seconds=40, replicas=2, rate=4, fail_over_every=15, seed=1)
"""A minute, with the start and the wait for the last undos."""


def size() -> Size:
    """Return the size of this run."""
    full = os.environ.get("TIERCEL_SOAK") == "1"
    seconds = float(os.environ.get("TIERCEL_HISTORY_SECONDS", "1800"))
    if not full:
        return IN_SUITE
    return Size(seconds, replicas=3, rate=10, fail_over_every=30, seed=int(time.time()))


def test_every_statement_about_replicas_holds_under_faults(tmp_path):
    chosen = size()
    history = record(tmp_path, chosen)
    report = check(history)
    (tmp_path / "history.txt").write_text("\n".join(map(str, history.records())))
    (tmp_path / "report.json").write_text(json.dumps(report.as_json(), indent=1))
    assert not report.violations, report.text()
    kinds = ("kills", "pauses", "partitions", "fail_overs")
    assert all(report.figures[kind] for kind in kinds), report.text()
    if chosen is not IN_SUITE:
        run = {"seconds": chosen.seconds, "replicas": chosen.replicas, "seed": chosen.seed}
        FIGURES.write_text(json.dumps(stamped({**run, **report.as_json()}), indent=1) + "\n")
