"""An API server that answers with errors, hangs or loses answers. No run is lost, and no effect is doubled."""

from __future__ import annotations

import threading
import time

import pytest
from tests.soak.burst import NOTE, Burst, done_once, drained, telling
from tests.soak.faulty_proxy import FaultyProxy
from tests.support.engine import call

PATIENT = NOTE.replace(
    "{action: kubernetes.event,",
    "{action: kubernetes.event, timeout: 500ms, "
    "retry: {attempts: 100, delay: 100ms, maxDelay: 500ms},",
)
"""Answers use up attempts. A request that hangs does not block a worker for long."""
REFUSED = {403: "missing right", 409: "came and went"}
"""Answers that end a step, and the message of the step."""
SILENT = ("hangs", "lost", 429)
"""Answers that open the circuit breaker, so that only one probe at a time is sent."""


def refused(running, burst, kind):
    """Return the runs whose step failed permanently."""
    found = []
    for run in burst.runs.values():
        first = running.get(f"/runs/{run}")[2]["steps"][0]
        if first["state"] == "failed":
            assert REFUSED.get(kind, "nothing") in first["message"]
            found.append(run)
    return found


@pytest.mark.parametrize("kind", [500, 429, 409, 403, "hangs", "lost"])
def test_no_run_is_lost_and_no_effect_is_doubled_when_the_api_server_misbehaves(
    tmp_path, control_plane, pods, engine_token, size, kind
):
    lasts, pause = size.of(0.4, 20.0), threading.Event()
    with FaultyProxy(control_plane) as proxy:
        kubeconfig = proxy.kubeconfig(engine_token, tmp_path / "kubeconfig")
        with telling(tmp_path, kubeconfig, note=PATIENT) as (running, receiver):
            with Burst(running, pods, size.of(60, 2_000)) as burst:
                burst.has_sent(20)
                proxy.now = kind
                began = time.monotonic()
                while time.monotonic() - began < lasts or not proxy.met[kind]:
                    pause.wait(0.02)  # the proxy injects the fault meanwhile
                proxy.now = None
                burst.has_sent(len(burst.runs) + 5)
            began = time.monotonic()
            drained(running)
            took = time.monotonic() - began
            again = refused(running, burst, kind)
            for run in again:  # as an operator would, once the right is given
                path, as_json = f"/runs/{run}/retry", {"Content-Type": "application/json"}
                assert call(running.admin, "POST", path, b"{}", as_json)[0] == 200
            drained(running)
            assert done_once(running, control_plane.admin, burst, receiver) == 0
    if kind in SILENT:
        assert proxy.met[kind] < 100, "the API server is stormed"
    size.tell(
        lasted_s=lasts, acknowledged=len(burst.runs), met=proxy.met[kind], lost=0, doubled=0,
        refused=len(again), drained_s=round(took, 1),
    )  # fmt: skip
