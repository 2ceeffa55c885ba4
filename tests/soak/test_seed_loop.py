"""`make loop` as a process: it prints the steps, runs until Ctrl-C, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cluster.fixtures import require
from tests.support.components import have

ROOT = Path(__file__).parents[2]
LOOP = ROOT / "examples" / "seed-loop" / "loop.py"


def test_ctrl_c_ends_every_process_and_removes_the_files(size, tmp_path):
    if not size.full:
        pytest.skip("the suite runs the same steps in tests/seed_loop")
    require("control-plane")
    have("prometheus")
    process = subprocess.Popen(
        [sys.executable, str(LOOP)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C goes to this group only
    )
    printed = []
    with process:
        for line in process.stdout:
            printed.append(line)
            if "get networkpolicies" in line:
                os.killpg(process.pid, signal.SIGINT)
    assert process.returncode == 0, "".join(printed)
    assert "5. A person undoes the first isolation\n" in printed
    assert "Traceback" not in "".join(printed)
    assert list(tmp_path.iterdir()) == []
    assert commands_with(str(tmp_path)) == []


def commands_with(text):
    """Return the command lines of running processes that contain the text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if text in command:
            found.append(command)
    return found
