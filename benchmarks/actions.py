"""Measure the attempts a second of each action that acts on the API server, against bare calls in the same run.

python benchmarks/actions.py [--targets 300] [--rounds 3] [--actions pod.label,pod.exec]

It needs `make control-plane`.

Each action gets a burst of events, each with a target of its own. The bare calls are the requests of the same
step for other targets: reads, writes, and the write of its artifact. The engine's own client sends them from 16
threads (the default of --workers), directly before and after the burst. It decodes the answers to both, because
a call returns an object. The engine saves each step and its undo before the calls; the bare calls save nothing.
The target is a ratio of 0.6. The ratio is the median over the rounds.

Not measured: pod.debug, because its time is that of the kubelet, which pulls an image and runs a command.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datetime import UTC, datetime

import msgspec
import yaml
from benchmarks.common import report
from engine.actions.registry import load_actions
from engine.artifacts.api import ArtifactRecorder
from engine.artifacts.live_store import LiveArtifactStore
from engine.cluster.api import CallRecorder
from engine.cluster.circuit_breaker import CircuitBreaker
from engine.cluster.client import KubernetesCluster
from engine.cluster.kubeconfig import Credentials, read_access
from engine.cluster.rate_limiter import RateLimiter
from engine.cluster.requests import ApiServerState, parse_json
from engine.cluster.transport import ApiServer
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.language.compile import playbook_from_snapshot
from engine.model.event import parse_event
from engine.model.run import Claim, Run
from engine.outbound.api import RequestRecorder
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import NODES, Kubelet
from tests.support.engine import engine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

THREADS = 16
"""The default of ``serve --workers``."""
NAMESPACE = "bench"
NODE = "bench"
CACHED = {f"/api/v1/nodes/{name}" for name in (NODE, *NODES)} | {f"/api/v1/namespaces/{NAMESPACE}"}
"""What all targets share. The engine reads it once."""
APPS = f"/apis/apps/v1/namespaces/{NAMESPACE}"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
BINDINGS = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings"
POLICIES = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies"
CONTAINERS = [{"name": "web", "image": "web"}]
HEAD = {"apiVersion": "tiercel.dev/v1"}
GUARDRAILS = {**HEAD, "kind": "Guardrails", "metadata": {"name": "g"}, "spec": {"budgets": []}}


def make_pod(admin: Any, name: str, owner: Any = None) -> None:
    """Create a pod on a node that no kubelet runs."""
    metadata: dict[str, Any] = {"name": name, "labels": {"app": name}}
    if owner:
        metadata["ownerReferences"] = [reference(owner)]
    admin.create(
        f"{CORE}/pods",
        {"metadata": metadata, "spec": {"nodeName": NODE, "containers": CONTAINERS}},
    )


def make_running_pod(admin: Any, name: str) -> None:
    """Create a pod that the kubelet stand-in runs, with a log of its own."""
    admin.create(f"{CORE}/pods", {"metadata": {"name": name}, "spec": {"containers": CONTAINERS}})
    admin.wait_for(f"{CORE}/pods/{name}", lambda it: it["status"].get("containerStatuses"))


def make_owned_pod(admin: Any, name: str) -> None:
    """Create a Deployment, its ReplicaSet and a pod. No controller acts on them."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": CONTAINERS}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    top = admin.create(f"{APPS}/deployments", {"metadata": {"name": name}, "spec": spec})
    owned = {"metadata": {"name": name, "ownerReferences": [reference(top)]}, "spec": spec}
    make_pod(admin, name, admin.create(f"{APPS}/replicasets", owned))


def make_node(admin: Any, name: str) -> None:
    """Create a node without pods."""
    admin.create("/api/v1/nodes", {"metadata": {"name": name}})


def make_config_map(admin: Any, name: str) -> None:
    """Create a ConfigMap."""
    admin.create(f"{CORE}/configmaps", {"metadata": {"name": name}})


def make_binding(admin: Any, name: str) -> None:
    """Create a RoleBinding of a user of its own."""
    group = "rbac.authorization.k8s.io"
    role = {"apiGroup": group, "kind": "ClusterRole", "name": "view"}
    subject = {"apiGroup": group, "kind": "User", "name": name}
    admin.create(BINDINGS, {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})


def reference(item: Any) -> dict[str, Any]:
    """Return the owner reference of a controller."""
    metadata = item["metadata"]
    return {
        "apiVersion": item["apiVersion"], "kind": item["kind"], "name": metadata["name"],
        "uid": metadata["uid"], "controller": True,
    }  # fmt: skip


def pod_fields(name: str) -> dict[str, Any]:
    """Return the fields of an event about a pod."""
    return {"k8s.ns.name": NAMESPACE, "k8s.pod.name": name}


def audit_fields(name: str) -> dict[str, Any]:
    """Return the fields of an audit event about a ConfigMap."""
    target = {"resource": "configmaps", "namespace": NAMESPACE, "name": name}
    return {f"ka.target.{key}": value for key, value in target.items()}


@dataclass(frozen=True)
class Subject:
    """What an action is measured with.

    make: creates a target with a name. fields: the fields of an event about it; None for the host of the event.
    streams: whether the action reads logs or runs commands, so its requests are sent once to learn them.
    """

    parameters: Mapping[str, Any]
    make: Callable[[Any, str], None] = make_pod
    fields: Callable[[str], dict[str, Any]] | None = pod_fields
    streams: bool = False


MANIFEST = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "incident-%k8s.pod.name", "namespace": "%k8s.ns.name"},
    "data": {"rule": "%rule"},
}
ARTIFACT = "file://{folder}/%{{run.id}}"
SUBJECTS = {
    "kubernetes.event": Subject({"message": "seen"}),
    "node.cordon": Subject({}, make_node, None),
    "node.drain": Subject({}, make_node, None),
    "node.taint": Subject({"key": "tiercel.dev/q", "effect": "NoSchedule"}, make_node, None),
    "pod.annotate": Subject({"annotations": {"seen": "true"}}),
    "pod.block": Subject({"destination": "198.51.100.7"}),
    "pod.capture": Subject(
        {"what": ["manifest", "events", "logs"], "artifact": ARTIFACT},
        make_running_pod,
        streams=True,
    ),
    "pod.delete": Subject({"onlyIfOwned": False}),
    "pod.evict": Subject({"onlyIfOwned": False}),
    "pod.exec": Subject({"command": ["true"]}, make_running_pod, streams=True),
    "pod.isolate": Subject({}),
    "pod.label": Subject({"labels": {"seen": "true"}}),
    "pod.logs": Subject({"lines": 10}, make_running_pod, streams=True),
    "resource.apply": Subject({"manifest": MANIFEST}),
    "resource.delete": Subject({"kinds": ["ConfigMap"]}, make_config_map, audit_fields),
    "role.revoke": Subject({}, make_binding, lambda name: {"ka.user.name": name}),
    "workload.restart": Subject({}, make_owned_pod),
    "workload.scale": Subject({"replicas": 0}, make_owned_pod),
}


def playbook(action: str, folder: Path) -> dict[str, Any]:
    """Return a playbook with one step, for the events of a rule with the name of the action."""
    given = {
        key: value.format(folder=folder) if isinstance(value, str) and key == "artifact" else value
        for key, value in SUBJECTS[action].parameters.items()
    }
    spec = {"match": {"rules": [action]}, "actions": [{"action": action, "with": given}]}
    name = action.replace(".", "-")
    return {**HEAD, "kind": "Playbook", "metadata": {"name": name}, "spec": spec}


def event_about(action: str, name: str, number: int) -> dict[str, Any]:
    """Return the body of an event about a target."""
    fields = SUBJECTS[action].fields
    source = "k8s_audit" if action in ("resource.delete", "role.revoke") else "syscall"
    now = datetime.now(UTC).isoformat()[:19]
    return {
        "rule": action, "time": f"{now}.{number:09d}Z", "source": source,
        "hostname": "" if fields else name, "output_fields": fields(name) if fields else {},
    }  # fmt: skip


class RecordingServer(ApiServer):
    """A connection to the API server that records its reads and streams."""

    def learn(self) -> list[Callable[[], None]]:
        """Begin a new list. Return the list, to which the requests are added as functions that repeat them."""
        self.requests: list[Callable[[], None]] = []
        return self.requests

    def request(self, method: str, path: str, *rest: Any) -> Any:
        """Send a request, and record it if it is a read of one target."""
        reply = super().request(method, path, *rest)
        if method == "GET" and path not in CACHED:

            def repeat() -> None:
                again = ApiServer.request(self, method, path, *rest)
                parse_json(again.data, again.credentials)
                check(again.status)

            self.requests.append(repeat)
        return reply

    def open_stream(self, path: str, query: Any, seconds: float, *, websocket: bool) -> Any:
        """Open a stream, and record it."""

        def repeat() -> None:
            opened = ApiServer.open_stream(self, path, query, seconds, websocket=websocket)
            try:
                for _ in opened.stream.pieces:
                    pass
            finally:
                opened.close()

        self.requests.append(repeat)
        return super().open_stream(path, query, seconds, websocket=websocket)


class RecordingStore(LiveArtifactStore):
    """A store of artifacts that records its writes. requests: the list to which they are added."""

    def __init__(self, requests: list[Callable[[], None]]) -> None:
        super().__init__(None)
        self._requests = requests

    def with_timeout(self, seconds: float) -> RecordingStore:
        """Return this store, which has no need of another timeout."""
        del seconds
        return self

    def write(self, url: Any, chunks: Any, *, reserve: Any, media_type: str) -> Any:
        """Store the bytes, and record the write of the same bytes."""
        kept = [*chunks]

        def repeat() -> None:
            LiveArtifactStore.write(self, url, kept, reserve=None, media_type=media_type)

        self._requests.append(repeat)
        return super().write(url, kept, reserve=reserve, media_type=media_type)


def check(status: int) -> None:
    """Raise for an answer that is not a success. A read may find nothing."""
    if status >= 300 and status != 404:
        raise AssertionError(f"the API server answers {status}")


class Bare:
    """Sends the calls of a step without the engine."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        def read() -> Any:
            access = read_access(str(kubeconfig), None)
            access.settings.connection_pool_maxsize = THREADS
            return access

        self._folder = folder
        self._server = RecordingServer(Credentials(read))
        state = ApiServerState(CircuitBreaker(time.monotonic), RateLimiter(1e6))
        self._cluster = KubernetesCluster(self._server, state)

    def learn(self, action: str, name: str) -> list[Callable[[], None]]:
        """Return functions that send the requests of a step for a target, the reads first.

        A preview finds the requests. It sends the reads, and of the other requests only streams.
        """
        requests = self._server.learn()
        streams = SUBJECTS[action].streams
        http = RequestRecorder(None)
        clients = Clients(
            CallRecorder(self._cluster, self._cluster if streams else None), http, dry=not streams,
            artifacts=ArtifactRecorder(http.requests, RecordingStore(requests) if streams else None),
        )  # fmt: skip
        snapshot = msgspec.json.encode(playbook(action, self._folder))
        event = parse_event(event_about(action, name, 0))
        run = Run(
            f"{name:0>32}", playbook_from_snapshot(snapshot, load_actions()), event, 0.0, name
        )
        outcome = attempt(
            Claim(run, 0, began=time.time()), clients, GuardrailChecker(), time.time()
        )
        if outcome.state not in ("planned", "done"):
            raise AssertionError(f"{action} on {name}: {outcome.state}: {outcome.message}")
        writes = () if streams else outcome.calls
        return [*requests, *(lambda call=call: self._cluster.send(call) for call in writes)]

    def rate(self, learned: list[list[Callable[[], None]]]) -> float:
        """Return the targets a second."""

        def send(requests: list[Callable[[], None]]) -> None:
            for request in requests:
                request()

        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(send, learned))
        return len(learned) / (time.perf_counter() - began)


def burst(running: Any, action: str, names: list[str]) -> float:
    """Return the steps a second, from the first POST to the end of the last run."""
    bodies = [event_about(action, name, number) for number, name in enumerate(names)]
    began = time.perf_counter()
    runs: set[str] = set()
    for start in range(0, len(bodies), 100):
        runs |= set(running.post(bodies[start : start + 100])[2]["runs"])
    assert len(runs) == len(names)
    finished: set[str] = set()

    def last(line: dict[str, Any]) -> bool:
        if line.get("run") in runs and line.get("state") in (
            "done",
            "failed",
            "skipped",
            "refused",
        ):
            assert line["state"] == "done", line
            finished.add(line["run"])
        return len(finished) == len(names)

    running.wait_for_audit(last, 300)
    return len(names) / (time.perf_counter() - began)


def measure(
    action: str, plane: Any, running: Any, bare: Bare, targets: int, rounds: int
) -> dict[str, Any]:
    """Return the figures of an action, the medians of the rounds."""
    half = max(targets // 2, 1)
    found = []
    for number in range(rounds):
        start = f"{action.replace('.', '-')}-{number}"
        names = [f"{start}-{target}" for target in range(targets + 2 * half)]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: SUBJECTS[action].make(plane.admin, name), names))
        own, before, after = (
            names[:targets],
            names[targets : targets + half],
            names[targets + half :],
        )
        learned = [[bare.learn(action, name) for name in some] for some in (before, after)]
        first = bare.rate(learned[0])
        done = burst(running, action, own)
        around = statistics.mean((first, bare.rate(learned[1])))
        found.append((around, done, done / around))
        plane.admin.delete(
            POLICIES
        )  # an attempt reads all of them, so each round begins without any
    around, done, ratio = (statistics.median(values) for values in zip(*found, strict=True))
    return {
        "requests": len(learned[0][0]),
        "bare_per_s": round(around),
        "steps_per_s": round(done),
        "ratio": round(ratio, 2),
        "ratios": [round(one[2], 2) for one in found],
    }


def measure_alone(action: str, targets: int, rounds: int) -> dict[str, Any]:
    """Measure an action on an API server of its own, because the objects and watches of others take time."""
    with (
        tempfile.TemporaryDirectory() as name,
        ControlPlane(Path(name)) as plane,
        Kubelet(plane.admin, Path(name)) if SUBJECTS[action].streams else nullcontext(),
    ):
        folder = Path(name)
        plane.admin.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        make_node(plane.admin, NODE)
        plane.stop_controllers()  # they would react to what is measured, and take its CPU time
        kubeconfig = plane.kubeconfig(plane.admin_token, folder / "kubeconfig.json")
        (artifacts := folder / "artifacts").mkdir()
        files = {
            "playbook.yaml": yaml.safe_dump(playbook(action, artifacts)),
            "guardrails.yaml": yaml.safe_dump(GUARDRAILS),
        }
        flags = ["--kubeconfig", str(kubeconfig), "--kube-qps", "10000"]
        flags += ["--artifact-stores", f"file://{artifacts}"]
        with engine(folder, files, *flags) as running:
            return measure(action, plane, running, Bare(kubeconfig, artifacts), targets, rounds)


def main() -> None:
    """Measure all actions, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--targets", type=int, default=300, help="targets of each burst")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the median counts")
    parser.add_argument("--actions", default=",".join(SUBJECTS), help="separated by commas")
    given = parser.parse_args()
    figures = {
        one: measure_alone(one, given.targets, given.rounds) for one in given.actions.split(",")
    }
    lowest = min(figures, key=lambda one: figures[one]["ratio"])
    report(
        "actions",
        {
            "targets": given.targets,
            "rounds": given.rounds,
            "lowest_ratio": [lowest, figures[lowest]["ratio"]],
            "actions": figures,
        },
    )


if __name__ == "__main__":
    main()
