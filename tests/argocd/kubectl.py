"""Run the real kubectl."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.engine import PATIENCE


def kubectl(kubeconfig: Path, *arguments: str, given: str | None = None) -> str:
    """Run kubectl with a kubeconfig. Returns its output."""
    beside = Path(sys.executable).parent / "kubectl"
    command = str(beside) if beside.exists() else shutil.which("kubectl") or "kubectl"
    flags = ("--kubeconfig", str(kubeconfig), "--cache-dir", str(kubeconfig.parent / "cache"))
    done = subprocess.run(
        [command, *flags, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
