"""A full disk and a clock that is set back. Acknowledged runs are executed."""

from __future__ import annotations

import json
import resource
import shutil

from tests.soak.burst import NOTE, RAILS, TELL, alert, drained
from tests.soak.machine import Clock, small_disk
from tests.soak.receiver import Receiver
from tests.soak.watch import NOWHERE
from tests.support.engine import ROOT, engine, wait_until

DRY = NOTE.replace("rules: [Burst]", "everything: true")
HOUR = 3600.0


def test_events_get_503_while_the_disk_is_full_and_the_engine_recovers(tmp_path, size):
    rounds = size.of(1, 10)
    with engine(tmp_path, {"a.yaml": DRY}, "--dry-run") as running:
        number, accepted = 0, []
        for _ in range(rounds):
            # less than one page of the log: whatever is written from now on fails
            for pid in running.pids:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            while True:
                status, headers, said = running.post(alert("demo", number))
                number += 1
                if status == 503:
                    break
                accepted += said["runs"]
            assert "retry-after" in headers
            assert running.get("/readyz")[0] == 503
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            for pid in running.pids:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
            assert running.get("/readyz")[0] == 200
            status, _, said = running.post(alert("demo", number))
            number += 1
            assert status == 202
            accepted += said["runs"]
        drained(running)
        for run in accepted[:: max(1, len(accepted) // 50)]:
            assert running.get(f"/runs/{run}")[2]["outcome"] == "planned"
        size.tell(rounds=rounds, accepted=len(accepted), refused_then_taken=rounds)


def fill(file, leave):
    """Write a file that leaves that many bytes free on its disk."""
    free = shutil.disk_usage(file.parent).free
    file.write_bytes(b"x" * max(0, free - leave))


def test_events_get_503_while_the_file_system_is_full_and_the_engine_continues(tmp_path, size):
    rounds, number, accepted = size.of(1, 5), 0, []
    small = tmp_path / "small"
    with small_disk(small, 64):
        journal = ("--journal", str(small / "tiercel.db"))
        with engine(tmp_path, {"a.yaml": DRY}, "--dry-run", *journal) as running:
            for _ in range(rounds):
                fill(small / "somebody-elses", 1 << 20)
                while True:
                    alerts = [alert("demo", number + n) | {"pad": "x" * 2_000} for n in range(50)]
                    status, headers, said = running.post(alerts)
                    number += 50
                    accepted += said.get("runs", [])
                    assert (status == 503) is ("retry-after" in headers)
                    if status == 503 and running.get("/readyz")[0] == 503:
                        break  # a body less may still have found room
                assert running.get("/livez")[0] == 200
                (small / "somebody-elses").unlink()
                wait_until(lambda: running.get("/readyz")[0] == 200, "it is not ready again")
                status, _, said = running.post(alert("demo", number))
                number += 1
                assert status == 202
                accepted += said["runs"]
                drained(running)
            for run in accepted[:: max(1, len(accepted) // 200)]:
                assert running.get(f"/runs/{run}")[2]["outcome"] == "planned"
    size.tell(rounds=rounds, accepted=len(accepted), refused_then_taken=rounds)


def test_a_clock_that_is_set_back_delays_nothing(tmp_path, size):
    rounds, clock = size.of(1, 10), Clock(tmp_path / "clock")
    (tmp_path / "kubeconfig").write_text(json.dumps(NOWHERE))
    with Receiver() as receiver:
        told = NOTE.partition("    - {")[0] + TELL.replace("ADDRESS", receiver.address)
        flags = ("--kubeconfig", str(tmp_path / "kubeconfig"), "--http-hosts", receiver.address)
        files, number = {"a.yaml": told, "rails.yaml": RAILS}, 0
        with engine(tmp_path, files, *flags, env=clock.env(ROOT)) as running:
            for _ in range(rounds):
                receiver.shut.set()
                before = receiver.refused
                for _ in range(3):  # accepted and tried before it, and to be tried again after it
                    assert running.post(alert("demo", number))[0] == 202
                    number += 1
                wait_until(lambda n=before: receiver.refused > n, "nothing is tried")
                clock.step(-HOUR)
                assert running.post(alert("demo", number))[0] == 202
                number += 1
                receiver.shut.clear()
                drained(running)
                assert len(receiver.seen) == number
            assert set(receiver.seen.values()) == {1}
    size.tell(steps=rounds, done=number, doubled=0)
