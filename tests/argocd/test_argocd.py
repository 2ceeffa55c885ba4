"""From a commit to a running engine, with the real Argo CD, on a real API server.

The engine, the commands of the Jobs, git and kustomize are real too. Only the kubelet is a stand-in (node.py).
"""

from __future__ import annotations

import pytest
from engine.cluster.network_policies import Peer, is_allowed
from tests.argocd import story as repository
from tests.argocd.node import CORE
from tests.argocd.story import APP, DEMO, STEPS, VALUES
from tests.cluster.fixtures import require

pytestmark = pytest.mark.cluster
DEPLOYMENTS = "/apis/apps/v1/namespaces/demo/deployments"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/demo/networkpolicies"


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    require("control-plane", "kustomize", "argocd")
    with repository.story(tmp_path_factory.mktemp("argocd")) as made:
        yield made


def test_synced_means_in_force_and_a_revert_restores_the_old_reaction(story):
    before = story.digest()
    assert story.status()["playbooks"]["digest"] == before
    assert story.shell_in(story.pod("plain")) == dict.fromkeys(STEPS, "planned")

    revision = story.commit("Act on shells", {VALUES: "mode: enforce\n"})
    story.wait_until_synced(revision)
    assert story.digest() != before
    playbooks = story.status()["playbooks"]
    assert (playbooks["digest"], playbooks["revision"]) == (story.digest(), revision)
    # The Job waited for the kubelet, with an operator's token that can only view.
    last = story.node.run_of("tiercel-in-force")
    assert f"Waiting for {story.digest()}: the engine uses {before}" in last.output
    assert last.code == 0

    pod = story.pod("contained")
    assert story.shell_in(pod) == dict.fromkeys(STEPS, "done")
    assert_is_contained(story, pod)
    assert story.labels(pod)["quarantine"] == "true"
    name = pod["metadata"]["name"]
    [message] = story.slack.messages
    assert message["text"] == f"Quarantined demo/{name} (Terminal shell in container)"
    found = story.loki.query(f'{{k8s_ns_name="demo",k8s_pod_name="{name}"}}')
    assert [labels["source"] for labels, _ in found] == ["syscall", *["tiercel"] * len(STEPS)]
    metric = 'tiercel_runs_total{outcome="done",playbook="quarantine"} 1.0'
    assert metric in story.admin_page("/metrics")

    revision = story.revert()
    story.wait_until_synced(revision)
    playbooks = story.status()["playbooks"]
    assert (playbooks["digest"], playbooks["revision"]) == (before, revision)
    assert story.shell_in(story.pod("ignored")) == dict.fromkeys(STEPS, "planned")
    assert len(story.slack.messages) == 1


def assert_is_contained(story, pod):
    """Assert that NetworkPolicies of Tiercel cut the egress of the pod."""
    policies = story.admin.list(POLICIES)
    managers = {it["metadata"]["labels"]["app.kubernetes.io/managed-by"] for it in policies}
    assert managers == {"tiercel"}
    found = story.admin.get(f"/api/v1/namespaces/demo/pods/{pod['metadata']['name']}")
    assert not is_allowed(policies, found, "Egress", Peer(ip="213.215.222.58"), 443)


def test_self_heal_reverts_drift_and_keeps_a_containment(story):
    contained = story.pod("contained")
    assert story.send(contained, "Connection to vistatech.it", "isolate").startswith("done")
    policies = story.admin.list(POLICIES)
    for name in ("plain", "ignored"):
        assert story.send(story.pod(name), "Outbound scan", "scale").startswith("done")

    # Git says one replica. ignoreDifferences names one of the two Deployments that the engine scaled.
    story.argocd.wait_for(DEMO, lambda _: deployment(story, "plain")["spec"]["replicas"] == 1)
    # A change by hand is reverted everywhere. So Argo CD has applied all Deployments since the containment.
    for name in repository.WORKLOADS:
        path = f"{DEPLOYMENTS}/{name}?fieldManager=kubectl"
        story.admin.patch(path, {"metadata": {"labels": {"tier": "by-hand"}}})
    for name in repository.WORKLOADS:
        story.argocd.wait_for(DEMO, lambda _, name=name: tier(story, name) == "web")
    story.argocd.refresh(DEMO, "hard")
    story.argocd.wait_for(DEMO, is_compared_and_synced)
    assert deployment(story, "ignored")["spec"]["replicas"] == 2
    assert "tiercel.dev/quarantine" in story.labels(contained)
    assert story.admin.list(POLICIES) == policies
    assert_is_contained(story, contained)

    # A playbook that somebody edits in the cluster is restored. The hooks do not run for this.
    runs = len(story.node.runs)
    path = f"{CORE}/configmaps/tiercel-playbooks"
    before = story.admin.get(path)["data"]
    story.admin.patch(
        f"{path}?fieldManager=kubectl", {"data": {"quarantine.yaml": "kind: Nothing\n"}}
    )
    story.argocd.wait_for(APP, lambda _: story.admin.get(path)["data"] == before, story.node.work)
    assert len(story.node.runs) == runs


def is_compared_and_synced(application):
    annotations = application["metadata"].get("annotations", {})
    status = application["status"]
    return "argocd.argoproj.io/refresh" not in annotations and status["sync"]["status"] == "Synced"


def deployment(story, name):
    return story.admin.get(f"{DEPLOYMENTS}/{name}")


def tier(story, name):
    return deployment(story, name)["metadata"]["labels"]["tier"]
