"""Changes below a running engine: tokens, the certificate of the API server, half-open connections."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from urllib.parse import urlsplit

from tests.cluster.fixtures import ACCOUNT
from tests.soak.burst import Burst, done_once, drained, telling
from tests.support.engine import engine
from tests.support.intake import PLAYBOOK, alert

_ADDRESSES = 8
"""Addresses of the peers. The connections of one address are limited."""


class Crowd:
    """Half-open connections. Half of them send nothing, the others begin a head."""

    def __init__(self, events, many):
        address = urlsplit(events)
        self._address = (address.hostname, address.port)
        self._open = [self._another(number) for number in range(many)]

    def _another(self, number):
        source = f"127.0.0.{1 + number % _ADDRESSES}"
        half = socket.create_connection(self._address, source_address=(source, 0))
        if number % 2:
            half.sendall(b"POST /events HTTP/1.1\r\nhost: t\r\n")
        half.setblocking(False)
        return half

    def fill(self):
        """Reopen the connections that the engine closed. A head has 10 s, and the test may be slow."""
        for number, half in enumerate(self._open):
            with contextlib.suppress(BlockingIOError):
                with contextlib.suppress(ConnectionError):
                    half.recv(4096)
                half.close()
                self._open[number] = self._another(number)

    def close(self):
        for half in self._open:
            half.close()


def test_half_open_connections_delay_no_sender(tmp_path, size):
    many, times, seen = size.of(100, 2_000), [], []
    with (
        engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as running,
        contextlib.closing(Crowd(running.events, many)) as crowd,
    ):
        for part in range(10):
            crowd.fill()
            there = re.search(
                r"^tiercel_connections (\S+)", running.get("/metrics")[2], re.MULTILINE
            )
            seen.append(float(there[1]))
            for number in range(20):
                began = time.perf_counter()
                assert running.post(alert(part * 20 + number))[0] == 202
                times.append(time.perf_counter() - began)
        assert (
            max(seen) >= 0.9 * many
        )  # on a slow machine the engine closes some before they are counted
        assert running.terminate() == 0
    times.sort()
    p99 = times[len(times) * 99 // 100] * 1000
    size.tell(half_open=many, posted=len(times), post_p99_ms=round(p99, 1))


def test_tokens_are_rotated_under_load_and_no_event_is_refused(tmp_path, size):
    rounds = size.of(3, 30)
    tokens = tmp_path / "tokens"

    def give(*names):
        (tmp_path / "new").write_text("".join(f"{name}\n" for name in names))
        (tmp_path / "new").replace(tokens)

    give("token-of-round-0")
    stopping, shown, answers = threading.Event(), ["token-of-round-0"], []

    def send():
        number = 0
        while not stopping.is_set():
            number += 1
            headers = {"Authorization": f"Bearer {shown[0]}"}
            answers.append(running.post(alert(number), headers=headers)[0])

    flags = ("--dry-run", "--token-file", str(tokens))
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, *flags) as running:
        thread = threading.Thread(target=send)
        thread.start()
        try:
            for number in range(1, rounds + 1):
                for names in (
                    (f"token-of-round-{number - 1}", f"token-of-round-{number}"),
                    (f"token-of-round-{number}",),
                ):
                    give(*names)
                    shown[0] = f"token-of-round-{number}"
                    goal = len(answers) + 10
                    while len(answers) < goal:
                        stopping.wait(0.005)
        finally:
            stopping.set()
            thread.join()
        old = {"Authorization": f"Bearer token-of-round-{rounds - 1}"}
        assert running.post(alert(0), headers=old)[0] == 401
    assert set(answers) == {202}
    size.tell(rotations=rounds, posted=len(answers), refused=0)


def test_the_certificate_of_the_api_server_is_renewed_during_a_burst(
    tmp_path, control_plane, pods, engine_kubeconfig, size
):
    rounds, namespace = size.of(1, 5), pods
    certificate = control_plane.folder / "server.crt"
    with telling(tmp_path, engine_kubeconfig) as (running, receiver):
        with Burst(running, namespace, size.of(200, 3_000)) as burst:
            for _ in range(rounds):
                burst.has_sent(len(burst.runs) + 20)
                before = certificate.read_bytes()
                control_plane.stop_api()
                control_plane.renew()
                control_plane.start_api()
                assert certificate.read_bytes() != before
                burst.has_sent(len(burst.runs) + 20)
        drained(running)
        assert done_once(running, control_plane.admin, burst, receiver) == 0
    size.tell(renewals=rounds, acknowledged=len(burst.runs), lost=0, doubled=0)


def test_the_token_of_the_engine_is_read_again_when_the_old_one_is_revoked(
    tmp_path, control_plane, pods, engine_token, size
):
    del engine_token  # but the account and its rights are there
    rounds, admin, file = size.of(1, 5), control_plane.admin, tmp_path / "token"

    def rotate():
        """Write another token to the file, as the kubelet does, and return a function that revokes it."""
        secrets = "/api/v1/namespaces/tiercel/secrets"
        secret = admin.create(secrets, {"metadata": {"generateName": "bound-"}})["metadata"]
        bound = {"apiVersion": "v1", "kind": "Secret", "name": secret["name"], "uid": secret["uid"]}
        asked = {"expirationSeconds": 7200, "boundObjectRef": bound}
        token = admin.create(f"{ACCOUNT}/token", {"spec": asked})["status"]["token"]
        (tmp_path / "next").write_text(token)
        (tmp_path / "next").replace(file)
        return lambda: admin.delete(f"{secrets}/{secret['name']}")

    revoke = rotate()
    kubeconfig = control_plane.kubeconfig("", tmp_path / "kubeconfig")
    config = json.loads(kubeconfig.read_text())
    config["users"][0]["user"] = {"tokenFile": str(file)}
    kubeconfig.write_text(json.dumps(config))
    with telling(tmp_path, kubeconfig) as (running, receiver):
        with Burst(running, pods, size.of(100, 2_000)) as burst:
            for _ in range(rounds):
                burst.has_sent(len(burst.runs) + 20)
                revoke_next = rotate()
                revoke()
                control_plane.stop_api()  # else it knows the old token for 10 s more
                control_plane.start_api()
                revoke = revoke_next
                burst.has_sent(len(burst.runs) + 20)
        drained(running)
        assert done_once(running, admin, burst, receiver) == 0
    size.tell(rotations=rounds, acknowledged=len(burst.runs), lost=0, doubled=0)
