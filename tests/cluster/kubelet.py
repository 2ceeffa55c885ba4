"""A simulated scheduler and kubelets of two nodes: binds pods, reports them as running, finishes deletions.

Tests can rely on these rules:

- A pod with ``schedulingGates`` is not bound.
- A pod on another node does not change. The pod garbage collector removes it after 40 s.
- A pod with a finalizer stays in the state Terminating.
- A pod with an image of NO_IMAGE stays in the phase Pending.
- A cordoned node gets no new pods. Taints, resources and volumes have no effect.
- exec and logs work through the API server (see ``binaries/kubelet``). The commands run on this machine, in the
  folder ``kubelet``. The log of a container is the file NAMESPACE_POD_CONTAINER.log in this folder.
- The command of an ephemeral container runs on this machine. Its output is the container's log.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import subprocess
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import urllib3

from tests.cluster import build
from tests.cluster.api import ApiError
from tests.cluster.control_plane import tether

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.api import Api

Object = dict[str, Any]

NODES = {"worker-1": "10.1.0.1", "worker-2": "10.1.0.2"}
"""Node name -> its InternalIP."""

NO_IMAGE = "registry.invalid/"
"""Images whose names begin with this text do not exist."""

PASSED = {404, 409, 422}
"""Statuses that mean that the pod was changed or deleted in the meantime; its next event follows."""


class Kubelet(threading.Thread):
    """The thread of the simulation. A context manager that ends the thread.

    After an outage of the API server, the thread lists all pods again.
    keys: the folder of the API server's keys. Without it, or if the program is not built, there is no exec.
    """

    def __init__(self, api: Api, keys: Path | None = None) -> None:
        super().__init__(name="kubelet", daemon=True)
        self._keys = keys
        self.logs: Path | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._waiting: list[threading.Thread] = []
        self._debugged: dict[str, dict[str, Object]] = {}
        self._lock = threading.Lock()
        self._api = api
        self._stopping = threading.Event()
        self._turns = itertools.count()
        self._addresses = (f"10.244.{n >> 8}.{n & 255}" for n in itertools.count(1))

    def __enter__(self) -> Self:
        port = self._serve_streams()
        for name, address in NODES.items():
            register(self._api, name, address, port)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()
        for process in self._processes:
            process.kill()
            with contextlib.suppress(OSError):
                process.communicate()
        for thread in self._waiting:
            thread.join()

    def _serve_streams(self) -> int | None:
        """Start the program that serves exec and logs. Return its port, None if there is none."""
        program = build.find("kubelet")
        if program is None or self._keys is None:
            return None
        self.logs = self._keys / "kubelet"
        self.logs.mkdir()
        flags = {
            "certificate": self._keys / "server.crt",
            "key": self._keys / "server.key",
            "client-ca": self._keys / "ca.crt",
            "folder": self.logs,
        }
        command = [*tether(), str(program), *(f"-{name}={value}" for name, value in flags.items())]
        with (self._keys / "kubelet.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        self._processes.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline())

    def run(self) -> None:
        """Update every pod until the thread stops. Start again after an error of the API server."""
        while not self._stopping.is_set():
            try:
                for pod in self._pods():
                    self._serve(pod)
            except (ApiError, urllib3.exceptions.HTTPError):
                self._stopping.wait(0.1)

    def _pods(self) -> Iterator[Object]:
        """Yield every pod, then each changed pod, until the thread stops or the server has lost the history."""
        listed = self._api.get("/api/v1/pods")
        version = listed["metadata"]["resourceVersion"]
        yield from listed["items"]
        while not self._stopping.is_set():
            # a watch without events cannot be stopped, so it ends after one second
            for event in self._api.watch("/api/v1/pods", version, seconds=1):
                if event["type"] == "ERROR":
                    return
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "DELETED":
                    yield event["object"]

    def _serve(self, pod: Object) -> None:
        """Move the pod to its next state, if it has one."""
        meta, spec, status = pod["metadata"], pod["spec"], pod["status"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        node = spec.get("nodeName")
        try:
            if node is None:
                if not spec.get("schedulingGates") and "deletionTimestamp" not in meta:
                    self._bind(path, pod)
            elif node not in NODES:
                return
            elif "deletionTimestamp" in meta:
                if meta.get("deletionGracePeriodSeconds") != 0:
                    now = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
                    self._api.delete(path, now)
            elif status.get("phase") == "Pending":
                self._begin(path, pod)
            elif spec.get("ephemeralContainers"):
                self._debug(path, pod)
        except ApiError as error:
            if error.status not in PASSED:
                raise

    def _begin(self, path: str, pod: Object) -> None:
        """Report a pod as running, or once that its image cannot be pulled."""
        if not any(map(is_missing, pod["spec"]["containers"])):
            for container in pod["spec"]["containers"] if self.logs else ():
                self._log_of(pod, container).write_text(f"{container['name']} started\n")
            self._api.patch(f"{path}/status", running(pod, next(self._addresses)))
        elif not pod["status"].get("containerStatuses"):
            self._api.patch(f"{path}/status", waiting(pod))

    def _debug(self, path: str, pod: Object) -> None:
        """Run the commands of new ephemeral containers, and report them as running."""
        with self._lock:
            known = self._debugged.setdefault(pod["metadata"]["uid"], {})
            for container in pod["spec"]["ephemeralContainers"]:
                if container["name"] in known:
                    continue
                if is_missing(container):
                    state = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
                else:
                    state = {"running": {"startedAt": now()}}
                    self._start_command(path, pod, container)
                known[container["name"]] = container_status(pod, container, state)
                self._report(path, pod)

    def _report(self, path: str, pod: Object) -> None:
        statuses = list(self._debugged[pod["metadata"]["uid"]].values())
        status = {"ephemeralContainerStatuses": statuses}
        uid = {"uid": pod["metadata"]["uid"]}
        self._api.patch(f"{path}/status", {"metadata": uid, "status": status})

    def _start_command(self, path: str, pod: Object, container: Object) -> None:
        assert self.logs is not None
        log = self._log_of(pod, container)
        with log.open("wb") as out:
            process = subprocess.Popen(
                container["command"], stdout=out, stderr=subprocess.STDOUT, cwd=self.logs,
                env={"PATH": "/usr/bin:/bin"},
            )  # fmt: skip
        self._processes.append(process)

        def ended() -> None:
            code = process.wait()
            log.with_name(f"{log.name}.ended").touch()
            state = {"terminated": {"exitCode": code & 255, "reason": "Completed"}}
            with self._lock, contextlib.suppress(ApiError, urllib3.exceptions.HTTPError):
                known = self._debugged[pod["metadata"]["uid"]]
                known[container["name"]] = container_status(pod, container, state)
                self._report(path, pod)

        thread = threading.Thread(target=ended, daemon=True)
        self._waiting.append(thread)
        thread.start()

    def _log_of(self, pod: Object, container: Object) -> Path:
        assert self.logs is not None
        meta = pod["metadata"]
        return self.logs / f"{meta['namespace']}_{meta['name']}_{container['name']}.log"

    def _bind(self, path: str, pod: Object) -> None:
        """Bind the pod to the node that its DaemonSet requires, otherwise to the next schedulable node."""
        wanted = pinned(pod["spec"])
        # single reads, because a list can wait 100 ms until the cache of the server is current
        found = {name: self._api.find(f"/api/v1/nodes/{name}") for name in NODES}
        nodes = [
            name for name, node in found.items() if node and not node["spec"].get("unschedulable")
        ]
        if wanted is None and not nodes:
            return
        node = wanted or nodes[next(self._turns) % len(nodes)]
        meta = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        self._api.create(f"{path}/binding", {"metadata": meta, "target": target})


def pinned(spec: Object) -> str | None:
    """Return the node in a pod's affinity for ``metadata.name``, as the DaemonSet controller writes it."""
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    for term in required.get("nodeSelectorTerms", []):
        for field in term.get("matchFields", []):
            if field["key"] == "metadata.name":
                return str(field["values"][0])
    return None


def running(pod: Object, address: str) -> Object:
    """Return a patch of the status subresource that makes a pod Running and Ready at an address."""
    spec = pod["spec"]
    host = NODES[spec["nodeName"]]
    address = host if spec.get("hostNetwork") else address
    done = {"terminated": {"exitCode": 0, "reason": "Completed"}}
    status = {
        "phase": "Running",
        "hostIP": host,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": now(),
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": now()}
            for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ],
        "containerStatuses": [
            container_status(pod, container, {"running": {"startedAt": now()}})
            for container in spec["containers"]
        ],
        "initContainerStatuses": [
            container_status(pod, container, done) for container in spec.get("initContainers", [])
        ],
    }
    # with the uid, the server answers 409 if a new pod has the same name
    return {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}


def is_missing(container: Object) -> bool:
    """Whether the image of a container does not exist."""
    return str(container["image"]).startswith(NO_IMAGE)


def waiting(pod: Object) -> Object:
    """Return a patch of the status subresource for a pod whose image cannot be pulled."""
    image = next(it["image"] for it in pod["spec"]["containers"] if is_missing(it))
    state = {
        "waiting": {"reason": "ErrImagePull", "message": f'failed to pull "{image}": not found'}
    }
    statuses = [
        {**container_status(pod, it, state), "containerID": "", "ready": False}
        for it in pod["spec"]["containers"]
    ]
    conditions = [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]
    status = {"hostIP": NODES[pod["spec"]["nodeName"]], "conditions": conditions}
    uid = {"uid": pod["metadata"]["uid"]}
    return {"metadata": uid, "status": {**status, "containerStatuses": statuses}}


def container_status(pod: Object, container: Object, state: Object) -> Object:
    """Return a container's status; its id is derived from the pod's uid and the container's name."""
    seed = f"{pod['metadata']['uid']}/{container['name']}"
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"sha256:{hashlib.sha256(container['image'].encode()).hexdigest()}",
        "containerID": f"containerd://{hashlib.sha256(seed.encode()).hexdigest()}",
        "ready": True,
        "started": "running" in state,
        "restartCount": 0,
        "state": state,
    }


def register(api: Api, name: str, address: str, port: int | None = None) -> None:
    """Create the Node if it does not exist, and report it Ready. port: of exec and logs, on 127.0.0.1."""
    path = f"/api/v1/nodes/{name}"
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    is_new = api.find(path) is None
    if is_new:
        api.create("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    capacity = {"cpu": "16", "memory": "64Gi", "pods": "1000", "ephemeral-storage": "100Gi"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    status = {
        "capacity": capacity,
        "allocatable": capacity,
        "conditions": [{**ready, "lastHeartbeatTime": now(), "lastTransitionTime": now()}],
    }
    if is_new or port:  # else the node has those of the kubelet that serves exec
        status["addresses"] = [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": name},
            *([{"type": "ExternalIP", "address": "127.0.0.1"}] if port else []),
        ]
        status["daemonEndpoints"] = {"kubeletEndpoint": {"Port": port or 10250}}
    api.patch(f"{path}/status", {"status": status})


def now() -> str:
    """Return the current time as RFC 3339 in UTC with whole seconds, as in ``metav1.Time``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
