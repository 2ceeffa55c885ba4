"""A real control plane: etcd, kube-apiserver and kube-controller-manager as processes."""

from __future__ import annotations

import base64
import json
import random
import secrets
import shutil
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Self

import urllib3

from tests.cluster import build
from tests.cluster.api import Api, ApiError
from tests.cluster.keys import make_keys, make_server_pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ISSUER = "https://kubernetes.default.svc.cluster.local"
START_WITHIN = 60.0  # seconds; 3 are usual on 2 cores

# No kubelet sends heartbeats here: with these two the nodes would be tainted after 50 s and their
# pods evicted. ServiceAccount would refuse pods until their namespace has its default account.
CONTROLLERS = "*,-node-lifecycle-controller,-taint-eviction-controller"
ADMISSION_OFF = "ServiceAccount,TaintNodesByCondition"


class StartError(Exception):
    """A process ended or was not ready in time. The message contains the end of its log."""


class ControlPlane:
    """A control plane on free ports of 127.0.0.1. A context manager that kills it at the end.

    folder: takes the keys, etcd's data and ``NAME.log`` of each process. binary: gives the paths of
    etcd, kube-apiserver and kube-controller-manager. Entering raises StartError where one of them
    does not start, and leaves nothing running then.
    """

    def __init__(self, folder: Path, binary: Callable[[str], Path | None] = build.find) -> None:
        self.folder = folder
        self.ca = folder / "ca.crt"
        self.admin_token = secrets.token_urlsafe(24)
        self._binary = binary
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port, self.etcd_port, self._peer_port = free_ports(3)
        self.server = f"https://127.0.0.1:{self._port}"
        self.admin = Api(self.server, self.admin_token, self.ca)

    def __enter__(self) -> Self:
        try:
            make_keys(self.folder)
            users = f'{self.admin_token},admin,admin,"system:masters"\n'
            (self.folder / "tokens.csv").write_text(users)
            self._start_etcd()
            self.start_api()
        except BaseException:  # a Ctrl-C, too, must leave no process behind
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def kubeconfig(self, token: str, path: Path) -> Path:
        """Write a kubeconfig whose one context is that token's at this server; gives ``path``."""
        ca = base64.b64encode(self.ca.read_bytes()).decode()
        cluster = {"server": self.server, "certificate-authority-data": ca}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
            "current-context": "tests",
        }
        path.write_text(json.dumps(config))  # JSON is YAML
        path.chmod(0o600)
        return path

    def start_api(self) -> None:
        """Start the API server, also after ``stop_api``, on the same port and data; wait for it."""
        keys = self.folder
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            # Else it looks for a default route, which a machine without a network has not.
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={keys / 'server.crt'}",
            f"--tls-private-key-file={keys / 'server.key'}",
            f"--client-ca-file={self.ca}",
            f"--token-auth-file={keys / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={keys / 'accounts.key'}",
            f"--service-account-signing-key-file={keys / 'accounts.key'}",
            f"--disable-admission-plugins={ADMISSION_OFF}",
            "--allow-privileged=true",  # as in every real cluster; PodSecurity decides instead
        )
        self._until_ready("kube-apiserver", lambda: self.admin.get("/readyz") == "ok")
        # Anew after an outage, too: by themselves they may take half a minute to come back, for they
        # wait twice as long after each attempt.
        self._stop("kube-controller-manager")
        self._start_controllers()

    def stop_api(self) -> None:
        """End the API server at once, as an outage would; etcd and the controllers go on."""
        self._stop("kube-apiserver")

    def renew(self) -> None:
        """Another certificate and key for the API server, in force once it is started again."""
        make_server_pair(self.folder)

    def stop(self) -> None:
        """End every process; nothing is left to wait for."""
        for name in reversed(list(self._processes)):
            self._stop(name)
        self.admin.close()

    def running(self) -> list[str]:
        """The names of the processes that have been started and not been stopped."""
        return sorted(self._processes)

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, self._peer_port))
        self._start(
            "etcd",
            "--unsafe-no-fsync",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )
        with urllib3.PoolManager() as pool:
            self._until_ready(
                "etcd", lambda: pool.request("GET", f"{client}/readyz", retries=False).status == 200
            )

    def _start_controllers(self) -> None:
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig(self.admin_token, self.folder / 'controllers.json')}",
            "--leader-elect=false",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            f"--root-ca-file={self.ca}",
            "--secure-port=0",
            f"--controllers={CONTROLLERS}",
            "--kube-api-qps=500",  # its own 20 would make tests wait
            "--kube-api-burst=1000",
        )
        # Without a port it cannot be asked; the account is the first thing that it makes.
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._until_ready("kube-controller-manager", lambda: self.admin.find(account) is not None)

    def _start(self, name: str, *flags: str) -> None:
        program = self._binary(name)
        if program is None:
            raise StartError(f"{name} is not built: run `make control-plane`")
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*tether(), str(program), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C ends the tests first, and these in order
            )

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def _until_ready(self, name: str, ready: Callable[[], bool]) -> None:
        """Return when ``ready``; raises StartError if the process ends, or after a minute."""
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline:
            code = self._processes[name].poll()
            if code is not None:
                raise StartError(f"{name} ended with {code}:\n{self._tail(name)}")
            try:
                if ready():
                    return
            except (ApiError, urllib3.exceptions.HTTPError):
                pass  # not listening, or not ready yet
            threading.Event().wait(0.05)
        raise StartError(f"{name} was not ready after {START_WITHIN} s:\n{self._tail(name)}")

    def _tail(self, name: str, lines: int = 30) -> str:
        log = (self.folder / f"{name}.log").read_text(errors="replace")
        return "\n".join(log.splitlines()[-lines:])


def tether() -> list[str]:
    """Return a prefix for a command so that the kernel kills it when its parent process dies.

    Only for the main thread: the kernel means the *thread* that made it.
    """
    setpriv = shutil.which("setpriv")  # util-linux
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "KILL", "--"]


def free_ports(count: int) -> list[int]:
    """Return free ports of 127.0.0.1.

    Below 32768, from where on the kernel picks clients' own ports: there another connection could
    take the API server's port in an outage, or a client that knocks at a closed port reach itself.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20000, 32768)  # noqa: S311
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
