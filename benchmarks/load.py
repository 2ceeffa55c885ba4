"""Time to load 1,000 playbook files, to load them again after one changed, and to start commands.

    python benchmarks/load.py

The files are loaded as in ``serve``: read from disk and compiled, and again after each of several edits of one
file. Commands run in their own processes; the figure is the median of several runs with a warm disk cache.
``check_starts`` is the CPU time of ``tiercel check`` on ten shipped playbooks and their tests, divided by the
CPU time of a bare start of the interpreter. The two run alternately, so that the load of the machine affects
both. The ten are always the same, so that figures can be compared while the library grows.
``check_library_starts`` is the same for the whole of ``playbooks/``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import PLAYBOOK, ROOT, alert, percentile, report
from benchmarks.match import playbook
from engine.actions.registry import load_actions
from engine.language.folder import read_files
from engine.language.loader import Loader

FILES = 1_000
EDITS = 10
STARTS = 10
CHECKED = (
    "privilege-escalation/contain-container-escape",
    "impact/isolate-crypto-miner",
    "exfiltration/isolate-forbidden-egress",
    "execution/isolate-reverse-shell",
    "execution/record-exec-into-pod",
    "persistence/replace-drifted-pod",
    "discovery/report-api-server-contact",
    "privilege-escalation/report-privileged-pod",
    "execution/terminal-shell-in-container",
    "execution/terminal-shell-replace",
)
"""The playbooks of ``check_starts``, below ``playbooks/`` and without the suffix."""


def write_playbook(folder: Path, number: int, description: str = "") -> None:
    document = playbook(number)
    document["spec"] = {"description": description, **document["spec"]}  # type: ignore[dict-item]
    (folder / f"{number}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def loading(folder: Path) -> dict[str, float]:
    """Milliseconds to load all files, and to load them again after an edit."""
    for number in range(FILES):
        write_playbook(folder, number)
    loader = Loader(load_actions())

    def load() -> float:
        began = time.perf_counter()
        loaded = loader.load(read_files([folder])).usable()
        seconds = time.perf_counter() - began
        assert len(loaded.playbooks) == FILES
        return seconds * 1000

    cold = load()
    changed = []
    for number in range(EDITS):
        write_playbook(folder, number, "edited")
        changed.append(load())
    return {
        "files": FILES,
        "cold_ms": round(cold),
        "one_changed_p50_ms": round(percentile(changed, 0.5)),
        "one_changed_worst_ms": round(max(changed)),
    }


def starting(folder: Path) -> dict[str, float]:
    """Milliseconds of commands, including the start of the process."""
    (folder / "mark.yaml").write_text(PLAYBOOK)
    (folder / "event.json").write_text(json.dumps(alert()))
    commands = {
        "help": ["--help"],
        "check": ["check", "mark.yaml"],
        "plan": ["plan", "mark.yaml", "event.json"],
    }
    return {f"{name}_ms": round(median(folder, words)) for name, words in commands.items()}


def median(folder: Path, words: list[str]) -> float:
    times = []
    for _ in range(STARTS + 1):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "engine", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        times.append((time.perf_counter() - began) * 1000)
    return percentile(times[1:], 0.5)  # the first run writes the bytecode


def check_starts(*arguments: str) -> float:
    check = [sys.executable, "-m", "engine", "check", *arguments]
    pairs = [(cpu(check), cpu([sys.executable, "-c", "pass"])) for _ in range(STARTS + 1)]
    checks, bare = zip(*pairs[1:], strict=True)
    return round(percentile(list(checks), 0.5) / percentile(list(bare), 0.5), 1)


def cpu(command: list[str]) -> float:
    """Seconds of CPU time, with bytecode files as in an installation."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as files, tempfile.TemporaryDirectory() as one:
        figures: dict[str, object] = {"load": loading(Path(files)), "start": starting(Path(one))}
        ten = [f"playbooks/{name}{end}" for name in CHECKED for end in (".yaml", ".test.yaml")]
        figures["check_starts"] = check_starts("--values", "playbooks/values.yaml", *ten)
        figures["check_library_starts"] = check_starts("playbooks")
        report("load", figures)
