"""The whole life of a change, from the commit to the reaction and back, on a real API server.

git, kustomize, kubectl, the API server and the engine are real. The kubelet's mounts, Falcosidekick (its
recorded requests), Slack and Loki are stand-ins. tests/argocd runs a commit through the real Argo CD.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from engine.cluster.network_policies import Peer, is_allowed
from tests.gitops import life, sidekick

from stand_ins import Loki, Slack

DRY_RUN = "  mode: dryRun\n"
PLAYBOOK = "playbooks/quarantine-shells.yaml"
STEPS = ("pod.isolate", "pod.label", "slack.post", "kubernetes.event")

pytestmark = pytest.mark.cluster


@pytest.fixture
def repository(tmp_path):
    """A repository made from the template. The first commit only plans the quarantine."""
    life.needs()
    folder = tmp_path / "mirror"
    folder.mkdir()
    made = life.Repository.start(tmp_path / "team", life.Mirror(folder))
    text = made.read(PLAYBOOK).replace("spec:\n", f"spec:\n{DRY_RUN}", 1)
    made.commit("Watch shells before we act", {PLAYBOOK: text})
    return made


@pytest.fixture
def pods(admin, namespace):
    """Three running pods with a label: the paths of the pods and of the NetworkPolicies."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    for name in ("api-0", "api-1", "api-2"):
        spec = {"containers": [{"name": "api", "image": "registry.example.com/payments/api:1.4.2"}]}
        admin.create(path, {"metadata": {"name": name, "labels": {"app": "api"}}, "spec": spec})
    admin.wait_for(
        path, lambda it: [pod["status"].get("phase") for pod in it["items"]] == ["Running"] * 3
    )
    policies = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    return SimpleNamespace(namespace=namespace, path=path, policies=policies)


@pytest.fixture
def stand_ins():
    with Loki() as loki, Slack() as slack:
        yield loki, slack


@pytest.fixture
def installation(tmp_path, control_plane, repository, stand_ins):
    """The production overlay, in force."""
    with life.Installation(tmp_path, control_plane) as made:
        made.create_secrets(slack=stand_ins[1].webhook)
        made.install(repository.render("prod"))
        yield made


@pytest.fixture
def see(installation, stand_ins, admin, namespace):
    """A function that opens a shell in a pod. It returns the states of the run's steps."""
    loki, _ = stand_ins

    def shell_in(name):
        pod = admin.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        body = sidekick.shell_in(pod)
        status, _, answer = sidekick.send(installation.engine.events, loki.url, life.TOKEN, body)
        assert (status, answer["accepted"], answer["errors"]) == (202, 1, [])
        [run] = answer["runs"]
        lines = installation.engine.wait_for_steps(run, STEPS)
        for line in lines:
            sidekick.collect(loki.url, line)
        return {it["step"]: it["state"] for it in lines}

    return shell_in


def test_a_commit_changes_the_reaction_and_its_revert_restores_the_old_one(
    repository, installation, stand_ins, see, pods, admin
):
    loki, slack = stand_ins
    assert set(see("api-0").values()) == {"planned"}
    assert (admin.list(pods.policies), list(slack.messages)) == ([], [])

    revision = repository.commit(
        "Act on shells", {PLAYBOOK: repository.read(PLAYBOOK).replace(DRY_RUN, "")}
    )
    installation.sync(repository.render("prod"))
    assert installation.status()["playbooks"]["revision"] == revision
    assert see("api-1") == dict.fromkeys(STEPS, "done")

    pod = admin.get(f"{pods.path}/api-1")
    [policy] = admin.list(pods.policies)
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert not is_allowed([policy], pod, "Egress", Peer(ip="213.215.222.58"), 443)
    assert pod["metadata"]["labels"]["quarantine"] == "true"
    assert "quarantine" not in admin.get(f"{pods.path}/api-0")["metadata"]["labels"]
    [message] = slack.messages
    assert f"Quarantined {pods.namespace}/api-1 (Terminal shell in container)" in message["text"]
    found = loki.query(f'{{k8s_ns_name="{pods.namespace}",k8s_pod_name="api-1"}}')
    assert [labels["source"] for labels, _ in found] == ["syscall"] + ["tiercel"] * 4
    assert [json.loads(entry.line)["step"] for _, entry in found[1:]] == list(STEPS)
    runs = 'tiercel_runs_total{outcome="done",playbook="quarantine-shells"} 1.0'
    assert runs in installation.admin_page("/metrics")

    repository.revert()
    installation.sync(repository.render("prod"))
    assert set(see("api-2").values()) == {"planned"}
    # The quarantine of the other pod is not undone: it ends with its ttl, or with `tiercel undo`.
    assert admin.list(pods.policies) == [policy]
    assert len(slack.messages) == 1


@pytest.mark.usefixtures("pods")
def test_a_commit_that_fails_its_check_changes_nothing(repository, installation, see, admin):
    before, applied = installation.status()["playbooks"], life.mounted(admin)
    broken = repository.read(PLAYBOOK).replace("    rules: [", "    rule: [").replace(DRY_RUN, "")
    repository.commit("Misspell a key", {PLAYBOOK: broken})
    objects = repository.render("prod")
    line = broken[: broken.index("    rule: [")].count("\n") + 1
    with pytest.raises(life.CommandError) as failed:
        installation.sync(objects)
    assert f"quarantine-shells.yaml:{line}:5: " in failed.value.output
    assert "rules" in failed.value.output
    assert life.mounted(admin) == applied
    assert installation.status()["playbooks"] == before
    assert set(see("api-0").values()) == {"planned"}

    # A valid playbook that fails its own test does not pass either.
    silent = (
        repository.read(PLAYBOOK)
        .replace("    rule: [", "    rules: [")
        .replace("Terminal shell in container", "Terminal shell")
    )
    repository.commit("Name a rule that does not exist", {PLAYBOOK: silent})
    with pytest.raises(life.CommandError, match="a shell in a pod cuts its egress"):
        installation.sync(repository.render("prod"))

    # Without the hook, the engine itself refuses the set. It keeps the old one and says why.
    installation.apply(objects)
    installation.mount()
    installation.engine.wait_for_log(lambda it: it.get("event") == "playbooks_refused")
    after = installation.status()["playbooks"]
    assert after["digest"] == before["digest"]
    assert f"quarantine-shells.yaml:{line}:5" in str(after["error"])
    assert set(see("api-1").values()) == {"planned"}

    # The next good commit is in force.
    repository.commit("Act on shells", {PLAYBOOK: broken.replace("    rule: [", "    rules: [")})
    installation.sync(repository.render("prod"))
    assert see("api-2") == dict.fromkeys(STEPS, "done")
