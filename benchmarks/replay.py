"""Measures the time and memory of a replay of 1,000,000 events with 100 playbooks.

    python benchmarks/replay.py [EVENTS]

The command runs in a process of its own, on a file of 1.5 KB events with 27 fields. One playbook names the
rule of each event. Of 100 events, 7 meet its conditions, and half of the playbooks have a throttle. Then a
tenth of the events measures the share of each stage, and a comparison with another revision of the folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import ROOT, alert, report
from engine.actions.registry import load_actions
from engine.language.folder import read_files
from engine.language.loader import Loader
from engine.model.event import format_time
from engine.model.own_identity import OwnIdentity
from engine.preview.event_log import EventLog, open_event_file
from engine.preview.replay import PlaybookReplay, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.model.event import Event

EVENTS = 1_000_000
PLAYBOOKS = 100
PODS = 200
"""Each value holds for 5,000 events in a row, because incidents come in bursts."""
WEEK_NS = 7 * 86_400 * 10**9
BEGAN_NS = 1_772_359_200 * 10**9
HOLD = 7
"""How many of 100 events match a playbook."""


def playbook(number: int, label: str = "seen") -> dict[str, Any]:
    spec: dict[str, Any] = {
        "match": {"rules": [f"Rule {number}"], "priority": "Notice"},
        "conditions": [
            {"field": "k8s.ns.name", "notIn": ["kube-system", "falco"]},
            {"field": "proc.name", "in": [f"tool-{number}", "wget"]},
        ],
        "actions": [
            {"action": "pod.label", "with": {"labels": {label: "true"}}},
            {
                "action": "slack.post",
                "with": {"webhook": {"fromSecret": "slack"}, "text": "%rule in %k8s.pod.name"},
            },
        ],
    }
    if number % 2:
        spec["throttle"] = {"once": "1h"}
    name = {"name": f"playbook-{number}"}
    return {"apiVersion": "tiercel.dev/v1", "kind": "Playbook", "metadata": name, "spec": spec}


def write_playbooks(folder: Path, label: str = "seen") -> None:
    folder.mkdir(exist_ok=True)
    for number in range(PLAYBOOKS):
        (folder / f"{number}.yaml").write_text(json.dumps(playbook(number, label)))


def write_events(file: Path, events: int) -> None:
    fields = {"k8s.pod.name": "@pod@", "proc.name": "@proc@"}
    template = json.dumps(alert(0, "@rule@", **fields) | {"time": "@time@"})
    with file.open("w") as out:
        for number in range(events):
            wanted = (number // PLAYBOOKS * 37 + number) % 100 < HOLD
            out.write(
                template.replace("@rule@", f"Rule {number % PLAYBOOKS}")
                .replace("@time@", format_time(BEGAN_NS + number * (WEEK_NS // events)))
                .replace("@pod@", f"web-{number // 5_000 % PODS}")
                .replace("@proc@", "wget" if wanted else "curl")
                + "\n"
            )


def measure(folder: Path, *arguments: str) -> dict[str, Any]:
    """Return seconds and peak memory of the command."""
    command = [sys.executable, "-m", "engine", "replay", *arguments, "-o", "json"]
    with (folder / "out.json").open("w") as out:
        began = time.perf_counter()
        started = subprocess.Popen(
            command, cwd=folder, stdout=out, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        _, status, usage = os.wait4(started.pid, 0)
        seconds = time.perf_counter() - began
    told = json.loads((folder / "out.json").read_text())
    return {
        "exit": os.waitstatus_to_exitcode(status),
        "events": told["events"],
        "runs": told["runs"],
        "stopped": told["stopped"],
        "steps": sum(told["steps"].values()),
        "seconds": round(seconds, 1),
        "events_per_s": round(told["events"] / seconds),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def stages(folder: Path, file: Path) -> dict[str, float]:
    """Return the microseconds per event that each stage adds."""
    found = Loader(load_actions()).load(read_files([str(folder / "playbooks")])).usable()
    times, runs = [], 0

    def timed(work: Callable[[Iterator[tuple[int, Event]]], None]) -> None:
        with file.open("rb") as content, open_event_file(content) as source:
            recording = EventLog(source)
            began = time.perf_counter()
            work(iter(recording))
            times.append((time.perf_counter() - began) / recording.events * 1e6)

    def match(events: Iterator[tuple[int, Event]]) -> None:
        playbooks = PlaybookReplay(found, OwnIdentity()).playbooks
        for _, event in events:
            playbooks.wanting(event)

    def judge(events: Iterator[tuple[int, Event]]) -> None:
        side = PlaybookReplay(found, OwnIdentity())
        for _, event in events:
            side.run(event)

    def count(events: Iterator[tuple[int, Event]]) -> None:
        nonlocal runs
        side = PlaybookReplay(found, OwnIdentity())
        tally = Tally(side.playbooks)
        for line, event in events:
            tally.add(line, event, side.run(event))
        runs = tally.counts["runs"]

    began = time.perf_counter()
    with file.open("rb") as content:
        events = sum(1 for _ in content)
    times.append((time.perf_counter() - began) / events * 1e6)
    timed(lambda read: deque(read, 0))
    for work in (match, judge, count):
        timed(work)
    reading, decoded, matched, judged, counted = times
    return {
        "read_us": round(reading, 2),
        "decode_us": round(decoded - reading, 2),
        "match_us": round(matched - decoded, 2),
        "plan_and_walk_us": round(judged - matched, 2),
        "walk_us_a_run": round((judged - matched) * events / runs),
        "count_us": round(counted - judged, 2),
    }


def commit(folder: Path) -> None:
    """Create another revision of the playbooks, each with another label."""
    write_playbooks(folder / "playbooks", "known")
    author = ("-c", "user.name=bench", "-c", "user.email=bench@example.com")
    for arguments in (("init", "-q"), ("add", "playbooks"), (*author, "commit", "-qm", "before")):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    write_playbooks(folder / "playbooks")


def main(events: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_playbooks(folder / "playbooks")
        write_events(folder / "events.ndjson", events)
        write_events(folder / "tenth.ndjson", events // 10)
        figures = {
            "playbooks": PLAYBOOKS,
            "bytes_an_event": (folder / "events.ndjson").stat().st_size // events,
            "replay": measure(folder, "events.ndjson"),
            "tenth": measure(folder, "tenth.ndjson"),
        }
        commit(folder)
        figures["tenth_against"] = measure(folder, "tenth.ndjson", "--against", "HEAD")
        figures["stages"] = stages(folder, folder / "tenth.ndjson")
    report("replay", figures)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
