"""SIGKILL at each call to the API server, and a restart: the step and its undo have the same result."""

from __future__ import annotations

import os
import signal
import threading
from datetime import UTC, datetime

import pytest
import yaml
from tests.soak.faulty_proxy import FaultyProxy
from tests.support.engine import call, engine

CONFIG = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "incident", "namespace": "%k8s.ns.name"},
    "data": {"rule": "%rule"},
}
STEPS = {
    "pod.isolate": {},
    "pod.block": {"destination": "198.51.100.7"},
    "pod.label": {"labels": {"seen": "true", "app": None}},
    "pod.annotate": {"annotations": {"seen": "true"}},
    "node.cordon": {},
    "node.taint": {"key": "tiercel.dev/q", "effect": "PreferNoSchedule"},
    "resource.apply": {"manifest": CONFIG},
}
"""Action -> parameters. A step of these leaves objects that can be compared, and has an undo."""
HEADERS = {"Content-Type": "application/json"}


class KillingProxy(FaultyProxy):
    """Kills the engine at the write with the number ``at``, before or after the API server has it.

    pids: returns the processes to kill. killed: set when they are.
    """

    def __init__(self, plane, pids):
        super().__init__(plane)
        self.at, self.after, self.writes = 0, False, 0
        self.killed, self._pids = threading.Event(), pids

    def arm(self, at, *, after):
        self.killed.clear()
        self.at, self.after, self.writes = at, after, 0

    def answer(self, method, path, headers, body):
        if method == "GET" or "/apis/authorization.k8s.io/" in path:  # the check of the rights
            return super().answer(method, path, headers, body)
        with self._lock:
            self.writes += 1
            kills = self.writes == self.at
        if not kills:
            return super().answer(method, path, headers, body)
        if self.after:
            super().answer(method, path, headers, body)
        for pid in self._pids():
            os.kill(pid, signal.SIGKILL)
        self.killed.set()
        return None


def playbook(action):
    spec = {
        "match": {"rules": ["Terminal shell in container"]},
        "actions": [{"action": action, "with": STEPS[action]}],
    }
    head = {"apiVersion": "tiercel.dev/v1", "kind": "Playbook", "metadata": {"name": "p"}}
    return yaml.safe_dump({**head, "spec": spec})


def restarted(running, proxy, at):
    """Restart the engine after it was killed, if it is to be killed at all."""
    if at:
        assert proxy.killed.wait(60)
        running.wait()
        running.restart()


def state(admin, namespace):
    """Return the objects that the steps change, without what only the server writes."""
    paths = [
        "/api/v1/nodes/worker-2",
        f"/api/v1/namespaces/{namespace}/pods/web",
        f"/api/v1/namespaces/{namespace}/configmaps/incident",
        *(
            f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/{item['metadata']['name']}"
            for item in admin.list(
                f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
            )
        ),
    ]
    found = {path: item for path in paths if (item := admin.find(path))}
    for item in found.values():
        item.pop("status", None)
        for key in ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"):
            item["metadata"].pop(key, None)
        for annotation in ("tiercel.dev/run", "node.alpha.kubernetes.io/ttl"):
            (item["metadata"].get("annotations") or {}).pop(annotation, None)
    node = found[paths[0]]  # its controllers follow with taints of their own
    taints = [one for one in node["spec"].get("taints") or [] if "tiercel" in one["key"]]
    node["spec"]["taints"] = taints
    node["metadata"].setdefault("annotations", {})
    return found


def story(tmp_path, cluster, action, *, at=0, after=False, also_undo=True):
    """Run the step and its undo. Return the objects after each of them, and the numbers of writes.

    at, after: the write of the step at which the engine is killed (0: none). also_undo: kill it there again, at
    its undo.
    """
    plane, admin, namespace = cluster
    tmp_path.mkdir()
    holder = []
    with KillingProxy(plane, lambda: holder[0].pids) as proxy:
        kubeconfig = proxy.kubeconfig(plane.admin_token, tmp_path / "kubeconfig")
        files = {"p.yaml": playbook(action)}
        with engine(tmp_path, files, "--kubeconfig", str(kubeconfig)) as running:
            holder.append(running)
            proxy.arm(at, after=after)
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            fields = {"k8s.ns.name": namespace, "k8s.pod.name": "web"}
            body = {"rule": "Terminal shell in container", "time": now, "output_fields": fields}
            (run,) = running.post({**body, "hostname": "worker-2"})[2]["runs"]
            restarted(running, proxy, at)
            audit = running.wait_for_audit(lambda line: line.get("state") in ("done", "failed"))
            assert audit["state"] == "done", audit["message"]
            done, writes = state(admin, namespace), proxy.writes
            at = at if also_undo else 0
            proxy.arm(at, after=after)
            assert call(running.admin, "POST", f"/runs/{run}/undo", b"{}", HEADERS)[0] == 200
            restarted(running, proxy, at)
            running.wait_for_audit(lambda line: line.get("state") == "undone")
            assert running.get("/in-force")[2] == {"inForce": [], "total": 0}
            return done, state(admin, namespace), (writes, proxy.writes)


@pytest.mark.skipif(os.environ.get("TIERCEL_SOAK") != "1", reason="only in `make soak`")
def test_the_result_is_the_same_after_a_sigkill_at_any_call(
    tmp_path, control_plane, admin, namespace, size
):
    spec = {"nodeName": "worker-2", "containers": [{"name": "c", "image": "nginx"}]}
    labels = {"app": "web"}
    path = f"/api/v1/namespaces/{namespace}/pods"
    admin.create(path, {"metadata": {"name": "web", "labels": labels}, "spec": spec})
    admin.wait_for(f"{path}/web", lambda it: it["status"].get("phase") == "Running")
    cluster, kills = (control_plane, admin, namespace), 0
    for action in size.of(["pod.isolate"], list(STEPS)):
        before = state(admin, namespace)
        # in the suite, the first story already has a kill: after the last call of the step
        kill = size.of({"at": 2, "after": True, "also_undo": False}, {})
        done, undone, writes = story(tmp_path / action, cluster, action, **kill)
        assert (undone, len(done) >= len(before), done != before) == (before, True, True), action
        points = [(at, after) for at in range(1, min(writes) + 1) for after in (False, True)]
        for at, after in size.of([], points):
            again = story(tmp_path / f"{action}-{at}-{after}", cluster, action, at=at, after=after)
            assert again[:2] == (done, undone), (action, at, after)
            kills += 2
    size.tell(kills=kills, wrong_results=0)
