"""SIGKILL at each call to the API server, and a restart: the step and its undo have the same result."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
import yaml
from tests.soak.killing import KillingProxy, Kills
from tests.support.engine import call, engine

CONFIG = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "incident", "namespace": "%k8s.ns.name"},
    "data": {"rule": "%rule"},
}
UNDONE = {
    "pod.isolate": {},
    "pod.block": {"destination": "198.51.100.7"},
    "pod.label": {"labels": {"seen": "true", "app": None}},
    "pod.annotate": {"annotations": {"seen": "true"}},
    "node.cordon": {},
    "node.taint": {"key": "tiercel.dev/q", "effect": "PreferNoSchedule"},
    "node.drain": {"grace": 0},
    "resource.apply": {"manifest": CONFIG},
    "workload.scale": {"replicas": 0},
}
"""Action -> parameters. The undo of a step leaves the objects as they were."""
NOT_UNDONE = {
    "kubernetes.event": {"message": "seen"},
    "pod.delete": {"onlyIfOwned": False, "grace": 0},
    "pod.evict": {"onlyIfOwned": False, "grace": 0},
    "resource.delete": {"kinds": ["ConfigMap"]},
    "role.revoke": {},
    "workload.restart": {},
}
"""Action -> parameters of a step without an undo. Its targets are created again for each story."""
STEPS = {**UNDONE, **NOT_UNDONE}
NODE = "/api/v1/nodes/worker-2"
RBAC = "rbac.authorization.k8s.io"
POD_SPEC = {
    "nodeName": "worker-2",
    "containers": [{"name": "c", "image": "nginx"}],
    "automountServiceAccountToken": False,
}
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
HEADERS = {"Content-Type": "application/json"}
RULE = "Terminal shell in container"
MANAGED = "app.kubernetes.io%2Fmanaged-by%3Dtiercel"
ENDS = ("done", "failed", "skipped", "refused")


def is_write(method, path):
    """Whether a call counts: every write, without those that check the rights."""
    return method != "GET" and "/apis/authorization.k8s.io/" not in path


def playbook(action):
    spec = {
        "match": {"rules": [RULE]},
        "actions": [{"action": action, "with": STEPS[action]}],
    }
    head = {"apiVersion": "tiercel.dev/v1", "kind": "Playbook", "metadata": {"name": "p"}}
    return yaml.safe_dump({**head, "spec": spec})


def targets(admin, namespace, action):
    """Create the targets of a step that do not exist. Return the fields of an event about them."""
    core, apps, bindings = paths_of(namespace)
    if admin.find(f"{core}/pods/web") is None:
        admin.create(
            f"{core}/pods",
            {"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": POD_SPEC},
        )
    admin.wait_for(f"{core}/pods/web", lambda it: it["status"].get("phase") == "Running")
    if admin.find(f"{core}/configmaps/settings") is None:
        admin.create(f"{core}/configmaps", {"metadata": {"name": "settings"}})
    if admin.find(f"{bindings}/mallory") is None:
        role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "view"}
        subject = {"apiGroup": RBAC, "kind": "User", "name": "mallory"}
        head = {"metadata": {"name": "mallory"}}
        admin.create(bindings, {**head, "roleRef": role, "subjects": [subject]})
    for event in admin.list(f"{core}/events?labelSelector={MANAGED}"):
        admin.delete(f"{core}/events/{event['metadata']['name']}")
    if action.startswith("workload."):
        return {"k8s.ns.name": namespace, "k8s.pod.name": owned_pod(admin, core, apps)}
    if action == "resource.delete":
        target = {"resource": "configmaps", "namespace": namespace, "name": "settings"}
        return {f"ka.target.{key}": value for key, value in target.items()}
    if action == "role.revoke":
        return {"ka.user.name": "mallory"}
    return {"k8s.ns.name": namespace, "k8s.pod.name": "web"}


def owned_pod(admin, core, apps):
    """Return the name of the pod of the Deployment, which is created if it does not exist."""
    if admin.find(f"{apps}/app") is None:
        labels = {"app": "owned"}
        template = {"metadata": {"labels": labels}, "spec": POD_SPEC}
        spec = {"selector": {"matchLabels": labels}, "template": template}
        admin.create(apps, {"metadata": {"name": "app"}, "spec": spec})
    admin.wait_for(f"{apps}/app", is_rolled_out)
    pods = admin.wait_for(
        f"{core}/pods?labelSelector=app%3Downed", lambda it: len(it["items"]) == 1
    )
    return pods["items"][0]["metadata"]["name"]


def is_rolled_out(deployment):
    status = deployment["status"]
    is_current = status.get("observedGeneration") == deployment["metadata"]["generation"]
    counts = [status.get(key) for key in ("replicas", "updatedReplicas", "readyReplicas")]
    return is_current and counts == [1, 1, 1]


def paths_of(namespace):
    """Return the paths of the namespace, of its Deployments and of its RoleBindings."""
    inner = f"namespaces/{namespace}"
    return (
        f"/api/v1/{inner}",
        f"/apis/apps/v1/{inner}/deployments",
        f"/apis/{RBAC}/v1/{inner}/rolebindings",
    )


def state(admin, namespace):
    """Return the objects that the steps change, without what only the server writes."""
    core, apps, bindings = paths_of(namespace)
    policies = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    paths = [
        NODE,
        f"{core}/pods/web",
        f"{core}/configmaps/incident",
        f"{core}/configmaps/settings",
        f"{bindings}/mallory",
        f"{apps}/app",
        *(f"{policies}/{item['metadata']['name']}" for item in admin.list(policies)),
    ]
    found = {path: item for path in paths if (item := admin.find(path))}
    for item in found.values():
        item.pop("status", None)
        for key in ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"):
            item["metadata"].pop(key, None)
        annotations = item["metadata"].get("annotations") or {}
        for annotation in (
            "tiercel.dev/run", "node.alpha.kubernetes.io/ttl", "deployment.kubernetes.io/revision",
        ):  # fmt: skip
            annotations.pop(annotation, None)
        item["metadata"]["annotations"] = annotations
    node = found[NODE]  # its controllers follow with taints of their own
    taints = [one for one in node["spec"].get("taints") or [] if "tiercel" in one["key"]]
    node["spec"]["taints"] = taints
    if f"{apps}/app" in found:
        template = found[f"{apps}/app"]["spec"]["template"]["metadata"]
        if RESTARTED_AT in (template.get("annotations") or {}):
            template["annotations"][RESTARTED_AT] = "the time of the run"
    events = admin.list(f"{core}/events?labelSelector={MANAGED}")
    found["events"] = [(it["involvedObject"]["name"], it["message"], it["count"]) for it in events]
    return found


def story(tmp_path, cluster, action, *, kills=(0, 0), after=False):
    """Run the step and its undo. Return the objects after each of them, and the numbers of writes.

    kills: the write of the step, and of its undo, at which the engine is killed (0: none). after: kill it after
    the API server has the write. The objects after the undo are None without an undo.
    """
    plane, admin, namespace = cluster
    tmp_path.mkdir()
    kills_at = Kills()
    with KillingProxy(plane, kills_at, is_write) as proxy:
        kubeconfig = proxy.kubeconfig(plane.admin_token, tmp_path / "kubeconfig")
        files = {"p.yaml": playbook(action)}
        with engine(tmp_path, files, "--kubeconfig", str(kubeconfig)) as running:
            kills_at.running = running
            fields = targets(admin, namespace, action)
            kills_at.arm(kills[0], after=after)
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            source = "k8s_audit" if any(key.startswith("ka.") for key in fields) else "syscall"
            body = {"rule": RULE, "time": now, "source": source, "output_fields": fields}
            (run,) = running.post({**body, "hostname": "worker-2"})[2]["runs"]
            kills_at.restart()
            audit = running.wait_for_audit(lambda line: line.get("state") in ENDS)
            assert audit["state"] == "done", audit["message"]
            done, writes = state(admin, namespace), kills_at.calls
            if action in NOT_UNDONE:
                return done, None, (writes, 0)
            kills_at.arm(kills[1], after=after)
            assert call(running.admin, "POST", f"/runs/{run}/undo", b"{}", HEADERS)[0] == 200
            kills_at.restart()
            running.wait_for_audit(lambda line: line.get("state") == "undone")
            assert running.get("/in-force")[2] == {"inForce": [], "total": 0}
            return done, state(admin, namespace), (writes, kills_at.calls)


@pytest.mark.skipif(os.environ.get("TIERCEL_SOAK") != "1", reason="only in `make soak`")
def test_the_result_is_the_same_after_a_sigkill_at_any_call(
    tmp_path, control_plane, admin, namespace, size
):
    cluster, kills = (control_plane, admin, namespace), 0
    for action in size.of(["pod.isolate"], list(STEPS)):
        targets(admin, namespace, action)
        before = state(admin, namespace)
        # in the suite, the first story already has a kill: after the last call of the step
        first = size.of({"kills": (2, 0), "after": True}, {})
        done, undone, writes = story(tmp_path / action, cluster, action, **first)
        assert done != before, action
        if action == "node.drain":  # the evicted pods do not come back
            assert undone[NODE] == before[NODE]
        elif action in UNDONE:
            assert undone == before, action
        points = [(at, after) for at in range(1, max(writes) + 1) for after in (False, True)]
        for at, after in size.of([], points):
            at_each = tuple(at if at <= number else 0 for number in writes)
            folder = tmp_path / f"{action}-{at}-{after}"
            again = story(folder, cluster, action, kills=at_each, after=after)
            assert again[:2] == (done, undone), (action, at, after)
            kills += sum(map(bool, at_each))
    size.tell(kills=kills, wrong_results=0)
