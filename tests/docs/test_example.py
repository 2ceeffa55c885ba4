"""What `make run` shows, as often as it is run."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.engine import PATIENCE, ROOT, Lines


def test_it_shows_runs_each_time_and_leaves_nothing_behind(tmp_path):
    before = {path.name for path in ROOT.glob("*.db*")}
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    for _ in range(2):
        run = subprocess.Popen(
            [sys.executable, "examples/run.py"],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        lines = Lines(run.stdout)
        try:
            answer = lines.wait_for(lambda line: '"accepted"' in line.get("line", ""), PATIENCE)
            assert answer["line"].startswith("202 ")
            lines.wait_for(lambda line: "Ctrl-C stops the engine" in line.get("line", ""), PATIENCE)
        finally:
            run.terminate()
            run.wait(PATIENCE)
            lines.join()
        assert run.returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert {path.name for path in ROOT.glob("*.db*")} == before
