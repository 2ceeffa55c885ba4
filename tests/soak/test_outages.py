"""Acknowledged runs are executed after kills, an outage of the API server and restarts."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time

from engine.journal.sqlite.journal import SqliteJournal
from tests.soak.burst import NOTE, Burst, alert, done_once, drained, telling
from tests.soak.watch import NOWHERE
from tests.support.engine import engine
from tests.support.playbooks import playbook_from_snapshot


def test_an_engine_killed_during_a_burst_executes_every_acknowledged_run(
    tmp_path, admin, pods, engine_kubeconfig, size
):
    namespace, seed = pods, time.time_ns() % 10**6
    kills, chance = size.of(2, 60), random.Random(seed)  # noqa: S311 - moments, no secrets
    with telling(tmp_path, engine_kubeconfig, slow=0.01) as (running, receiver):
        with Burst(running, namespace) as burst:
            for _ in range(kills):
                burst.has_sent(len(burst.runs) + chance.randrange(1, 60))
                running.kill()
                running.restart()
            burst.has_sent(len(burst.runs) + 5)
        drained(running)
        interrupted = done_once(running, admin, burst, receiver)
        if size.full:
            assert interrupted > 0, "no kill has hit a request"
        size.tell(
            kills=kills, acknowledged=len(burst.runs), lost=0, doubled=0, interrupted=interrupted,
            seed=seed,
        )  # fmt: skip


def test_events_are_accepted_during_an_outage_of_the_api_server_and_executed_afterwards(
    tmp_path, pods, engine_kubeconfig, control_plane, size
):
    namespace, admin, away = pods, control_plane.admin, size.of(1.0, 60.0)
    with telling(tmp_path, engine_kubeconfig) as (running, receiver):
        with Burst(running, namespace, size.of(300, 10_000)) as burst:
            burst.has_sent(20)
            control_plane.stop_api()
            try:
                began = time.monotonic()
                pause = threading.Event()
                while time.monotonic() - began < away:  # the length of the outage
                    pause.wait(0.05)
                taken = len(burst.runs)
            finally:
                control_plane.start_api()
            burst.has_sent(taken + 5)
        began = time.monotonic()
        drained(running)
        took = time.monotonic() - began
        assert done_once(running, admin, burst, receiver) == 0
        size.tell(
            away_s=away, acknowledged=len(burst.runs), lost=0, doubled=0, drained_s=round(took, 1)
        )


def test_an_engine_with_many_waiting_runs_restarts_within_seconds(tmp_path, size):
    many = size.of(1_000, 20_000)
    (tmp_path / "kubeconfig").write_text(json.dumps(NOWHERE))
    flags = ("--kubeconfig", str(tmp_path / "kubeconfig"))
    with engine(tmp_path, {"a.yaml": NOTE}, *flags) as running:
        for first in range(0, many, 1_000):
            alerts = [alert("demo", n) for n in range(first, min(first + 1_000, many))]
            assert running.post(alerts)[0] == 202
        began = time.monotonic()
        assert running.terminate() == 0
        running.restart()
        assert running.get("/readyz")[0] == 200
        took = time.monotonic() - began
        queue = running.get("/status")[2]["queue"]
        assert queue["waiting"] + queue["running"] == many
        assert running.post(alert("demo", many))[0] == 202
    if size.full:
        assert took <= 5.0
    size.tell(waiting=many, sigterm_to_ready_s=round(took, 2))


def test_a_copy_of_the_journal_at_any_time_of_a_burst_opens(tmp_path, size):
    copies = size.of(3, 60)
    dry = NOTE.replace("rules: [Burst]", "everything: true")
    with engine(tmp_path, {"a.yaml": dry}, "--dry-run") as running, Burst(running, "demo") as burst:
        for number in range(copies):
            burst.has_sent(len(burst.runs) + 10)
            copy = tmp_path / f"copy-{number}"
            copy.mkdir()
            for pid in running.pids:
                os.kill(pid, signal.SIGSTOP)
            # what is on disk now is what a power cut would leave
            acknowledged = {*burst.runs.values()}
            for file in tmp_path.glob("tiercel.db*"):
                shutil.copy(file, copy / file.name)
            for pid in running.pids:
                os.kill(pid, signal.SIGCONT)
            journal = SqliteJournal(copy / "tiercel.db", playbook_from_snapshot)
            assert journal.known(acknowledged) == acknowledged
            journal.close()
            shutil.rmtree(copy)
    size.tell(copies=copies)
