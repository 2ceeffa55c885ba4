"""Playbook sets that are replaced under load. Each event runs one complete set, never half of one."""

from __future__ import annotations

import itertools
import threading
import time

from engine.language.folder import Files
from tests.soak.watch import PATIENT
from tests.support.engine import PATIENCE, engine, wait_until
from tests.support.intake import PLAYBOOK, alert
from tests.support.kubelet_files import Mount

NAMES = ("one", "two", "three", "four")


def set_of(version):
    """Return playbooks with the version in their names, one per file."""
    return {
        f"{name}.yaml": PLAYBOOK.replace("mark-shell", f"{name}-{version}").encode()
        for name in NAMES
    }


def broken(version):
    """Return the same files and a broken one whose error contains the version."""
    return {**set_of(version), "two.yaml": f"kind: Nothing{version}\n".encode()}


def is_judged(running, files, version):
    """Wait until the log says that the set is in force, or why not."""
    digest = Files("", files).digest
    running.wait_for_log(
        lambda line: (
            (line["event"] == "playbooks_loaded" and line["digest"] == digest)
            or (line["event"] == "playbook_finding" and f"Nothing{version}" in line["finding"])
        )
    )


class Load:
    """Posts events in sequence. pause: seconds between two. runs: the runs of each event that got a 202."""

    def __init__(self, running, pause, first=0):
        self._running, self._pause, self._stopping = running, pause, threading.Event()
        self._numbers = itertools.count(first)
        self.runs, self.others = [], []
        self._thread = threading.Thread(target=self._post, name="load", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()

    def _post(self):
        while not self._stopping.wait(self._pause):
            status, _, said = self._running.post(alert(next(self._numbers)))
            if status == 202:
                self.runs.append(said["runs"])
            else:
                self.others.append((status, said))

    def goes_on(self):
        """Wait until more events are accepted."""
        goal = len(self.runs) + 3
        wait_until(
            lambda: len(self.runs) >= goal, lambda: f"nothing is accepted: {self.others}", PATIENT
        )


def versions_of(running, load):
    """Return the set of each event. Each event must have run all playbooks of one set, and no others."""
    every = {run for runs in load.runs for run in runs}
    playbooks = {}

    def told():
        playbooks.update((line["run"], line["playbook"]) for line in running.audit)
        return every <= playbooks.keys()

    wait_until(told, lambda: f"{len(every - playbooks.keys())} runs are lost", PATIENT)
    versions = []
    for runs in load.runs:
        names = sorted(playbooks[run] for run in runs)
        version = names[0].partition("-")[2]
        assert names == sorted(f"{name}-{version}" for name in NAMES)
        versions.append(version)
    return versions


def test_replaced_configmaps_under_load_lose_no_event_and_never_run_half_a_set(tmp_path, size):
    swaps, within, pause = size.of(8, 300), size.of(PATIENCE, 2.0), size.of(0.05, 0.005)
    mount = Mount(tmp_path / "playbooks", set_of("first"))
    with engine(tmp_path, mount.folder, "--dry-run") as running:
        in_force = ["first"]
        with Load(running, pause) as load:
            load.goes_on()
            for version in range(swaps - 1):
                files = (broken if version % 3 == 1 else set_of)(version)
                mount.write(files)
                if version % 5 == 4:  # the next one comes before this one can be read
                    continue
                is_judged(running, files, version)
                if version % 3 != 1:
                    in_force.append(str(version))
                load.goes_on()
            mount.write(set_of("last"))
            began = time.monotonic()
            is_judged(running, set_of("last"), "last")
            took = time.monotonic() - began
            load.goes_on()
        assert load.others == []
        versions = versions_of(running, load)
        assert [v for v in in_force if v not in versions] == []
        assert versions[-1] == "last"
        assert took <= within
        mount.write({"one.yaml": b"kind: Nothing\n"})
        running.restart()  # while Git is broken, the last good set runs
        with Load(running, pause, 10**8) as load:
            load.goes_on()
        assert set(versions_of(running, load)) == {"last"}
    size.tell(
        swaps=swaps, events=len(versions), sets_that_ran=len(set(versions)),
        last_set_in_force_after_s=round(took, 2),
    )  # fmt: skip
