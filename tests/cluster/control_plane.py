"""A real control plane: etcd, kube-apiserver and kube-controller-manager as processes."""

from __future__ import annotations

import base64
import json
import os
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
START_WITHIN = 60.0
"""Seconds until a process must be ready. It usually takes 3 s on 2 cores."""

GO_MEMORY = {"GOGC": "off", "GOMEMLIMIT": "640MiB"}
"""Variables for programs in Go: they collect no garbage below this size. Saves a third of their CPU time."""

# No kubelet sends heartbeats. These two controllers would taint the nodes after 50 s and evict their pods.
# The admission plugin ServiceAccount would refuse pods until their namespace has its default account.
CONTROLLERS = "*,-node-lifecycle-controller,-taint-eviction-controller"
CONTROLLER_MANAGER = "system:kube-controller-manager"
"""Its user in every cluster. Audit logs and admission policies know it by this name."""
ADMISSION_OFF = "ServiceAccount,TaintNodesByCondition"


class StartError(Exception):
    """A process ended or was not ready in time. The message contains the end of its log."""


class ControlPlane:
    """A control plane on free ports of 127.0.0.1. A context manager that ends its processes.

    folder: for the keys, the data of etcd, and ``NAME.log`` of each process. binary: returns the paths of
    etcd, kube-apiserver and kube-controller-manager. If one of them does not start, the context manager ends
    the others and raises StartError.
    """

    def __init__(self, folder: Path, binary: Callable[[str], Path | None] = build.find) -> None:
        self.folder = folder
        self.ca = folder / "ca.crt"
        self.admin_token = secrets.token_urlsafe(24)
        self._controllers_token = secrets.token_urlsafe(24)
        self._binary = binary
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port, self.etcd_port, self._peer_port = free_ports(3)
        self.server = f"https://127.0.0.1:{self._port}"
        self.admin = Api(self.server, self.admin_token, self.ca)

    def __enter__(self) -> Self:
        try:
            make_keys(self.folder)
            users = {"admin": self.admin_token, CONTROLLER_MANAGER: self._controllers_token}
            lines = [f'{token},{user},{user},"system:masters"\n' for user, token in users.items()]
            (self.folder / "tokens.csv").write_text("".join(lines))
            self._start_etcd()
            self.start_api()
        except BaseException:  # also Ctrl-C must end all processes
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def kubeconfig(self, token: str, path: Path) -> Path:
        """Write a kubeconfig with one context, for this server and this token. Return ``path``."""
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
        """Start the API server, also after ``stop_api``, with the same port and data. Wait until it is ready."""
        keys = self.folder
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            # otherwise it needs a default route, which a machine without a network does not have
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
            # the stand-in of the kubelets, see tests/cluster/kubelet.py; the pair has no extended key usage
            "--kubelet-preferred-address-types=ExternalIP",
            f"--kubelet-certificate-authority={self.ca}",
            f"--kubelet-client-certificate={keys / 'server.crt'}",
            f"--kubelet-client-key={keys / 'server.key'}",
            "--allow-privileged=true",  # as in every real cluster; PodSecurity decides instead
        )
        self._until_ready("kube-apiserver", lambda: self.admin.get("/readyz") == "ok")
        # After an outage, the controllers double their wait with each attempt. Without a restart they would
        # take up to half a minute.
        self._stop("kube-controller-manager")
        self._start_controllers()

    def stop_api(self) -> None:
        """Kill the API server, as in an outage. etcd and the controllers continue."""
        self._stop("kube-apiserver")

    def stop_controllers(self) -> None:
        """Kill the controllers. Then nothing but the caller changes objects."""
        self._stop("kube-controller-manager")

    def renew(self) -> None:
        """Write another certificate and key for the API server. They take effect at its next start."""
        make_server_pair(self.folder)

    def stop(self) -> None:
        """End every process and wait for it."""
        for name in reversed(list(self._processes)):
            self._stop(name)
        self.admin.close()

    def running(self) -> list[str]:
        """Return the names of the processes that were started and not stopped."""
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
            f"--kubeconfig={self.kubeconfig(self._controllers_token, self.folder / 'controllers.json')}",
            "--leader-elect=false",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            f"--root-ca-file={self.ca}",
            "--secure-port=0",
            f"--controllers={CONTROLLERS}",
            "--kube-api-qps=500",  # with the default of 20, tests would wait
            "--kube-api-burst=1000",
        )
        # it has no port for a probe; it creates this account first
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
                env=os.environ | GO_MEMORY,
                start_new_session=True,  # so that Ctrl-C ends the tests first; they end these processes in order
            )

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def _until_ready(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until ``ready`` returns true. Raises StartError if the process ends, or after a minute."""
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline:
            code = self._processes[name].poll()
            if code is not None:
                raise StartError(f"{name} ended with {code}:\n{self._tail(name)}")
            try:
                if ready():
                    return
            except (ApiError, urllib3.exceptions.HTTPError):
                pass  # it does not listen yet, or is not ready
            threading.Event().wait(0.05)
        raise StartError(f"{name} was not ready after {START_WITHIN} s:\n{self._tail(name)}")

    def _tail(self, name: str, lines: int = 30) -> str:
        log = (self.folder / f"{name}.log").read_text(errors="replace")
        return "\n".join(log.splitlines()[-lines:])


def tether() -> list[str]:
    """Return a prefix for a command. With it, the kernel kills the command when its parent ends.

    The prefix is empty outside the main thread, because for the kernel the parent is the *thread*.
    """
    setpriv = shutil.which("setpriv")  # util-linux
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "KILL", "--"]


def free_ports(count: int) -> list[int]:
    """Return free ports of 127.0.0.1.

    The ports are below 32768. The kernel gives the ports above to clients. One of them could take the port of
    the API server during an outage, or connect to itself.
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
