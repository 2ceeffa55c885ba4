"""Argo CD over many commits, every kind of bad commit, and an ApplicationSet.

It has no small size: tests/argocd tells the same story once.
"""

from __future__ import annotations

import json
import time

import pytest
import yaml
from tests.argocd import story as repository
from tests.argocd.argocd import APPLICATIONS, ARGOCD
from tests.argocd.node import CORE
from tests.argocd.story import APP, OVERLAY, PLAYBOOK, VALUES
from tests.cluster.fixtures import require
from tests.kustomize.rendering import KUSTOMIZE, render

CYCLES = 20


@pytest.fixture
def story(tmp_path, size):
    if not size.full:
        pytest.skip("only in `make soak`")
    require("control-plane", "kustomize", "argocd")
    with repository.story(tmp_path, with_application_sets=True) as made:
        yield made


def test_many_commits_and_reverts_are_each_in_force_when_synced(story, size):
    seconds = []
    for number in range(CYCLES):
        for revision in (
            story.commit(f"Word {number}", {VALUES: f"mode: enforce\nnumber: {number}\n"}),
            None,
        ):
            began = time.monotonic()
            story.wait_until_synced(revision or story.revert())
            seconds.append(time.monotonic() - began)
            assert story.status()["playbooks"]["digest"] == story.digest()
    size.tell(commits=len(seconds), seconds_each=round(sum(seconds) / len(seconds), 1))


def test_a_bad_commit_stops_at_presync_and_changes_nothing(story):
    before = story.status()["playbooks"]
    config_map = story.admin.get(f"{CORE}/configmaps/tiercel-playbooks")
    text = (story.git.folder / PLAYBOOK).read_text()
    bad = text.replace("actions:", "actoins:")
    application, output = story.commit_bad("A spelling mistake", {PLAYBOOK: bad})
    line = text.splitlines().index("  actions:") + 1
    assert f"quarantine.yaml:{line}:3: error: " in output
    assert "there is no key `actoins` here (actions)" in output
    # Argo CD shows which hook failed. It applied nothing, and the engine keeps its playbooks.
    assert story.failed_hooks(application) == ["tiercel-check"]
    assert application["status"]["sync"]["status"] == "OutOfSync"
    assert story.admin.get(f"{CORE}/configmaps/tiercel-playbooks") == config_map
    assert story.status()["playbooks"] == before

    story.wait_until_synced(story.commit("Correct it", {PLAYBOOK: text}))
    assert story.status()["playbooks"]["digest"] == before["digest"]


def test_every_bad_commit_keeps_the_old_set(story):
    before = story.status()["playbooks"]["digest"]
    text = (story.git.folder / PLAYBOOK).read_text()
    listed = (story.git.folder / OVERLAY / "kustomization.yaml").read_text()

    def failed(files, message):
        """Commit, wait for the failed sync, check that the engine keeps its set, and revert."""
        application, output = story.commit_bad("Bad", files)
        assert message in output + application["status"]["operationState"]["message"]
        assert story.status()["playbooks"]["digest"] == before
        story.wait_until_synced(story.revert())

    # A test that fails.
    failed({PLAYBOOK: text.replace("equals: demo", "equals: shop")}, "quarantine")
    # No playbooks are left.
    nothing = listed.replace("quarantine.yaml, contain.yaml, quarantine.test.yaml, ", "")
    failed({f"{OVERLAY}/kustomization.yaml": nothing}, "there are no documents here")
    # Two that do not render, and two that the API server does not take: Argo CD does not even start a sync.
    for files in (
        {f"{OVERLAY}/contain.yaml": "# " + "x" * 1_100_000 + "\n"},
        {f"{OVERLAY}/contain.yaml": "# " + "x" * 3_200_000 + "\n"},
        {f"{OVERLAY}/kustomization.yaml": listed.replace("contain.yaml", "missing.yaml")},
        {f"{OVERLAY}/kustomization.yaml": listed.partition("configMapGenerator")[0]},
    ):
        story.commit("Cannot be compared", files)
        story.argocd.wait_for(APP, is_not_compared, story.node.work)
        assert story.status()["playbooks"]["digest"] == before
        story.wait_until_synced(story.revert())

    # A Secret is not in the project. Nothing is applied.
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "leaked", "namespace": "tiercel"},
    }
    with_secret = listed.replace("resources:\n", "resources:\n  - secret.yaml\n")
    files = {
        f"{OVERLAY}/secret.yaml": yaml.safe_dump(secret),
        f"{OVERLAY}/kustomization.yaml": with_secret,
    }
    application, _ = story.commit_bad("A Secret", files)
    results = application["status"]["operationState"]["syncResult"]["resources"]
    [refused] = [it for it in results if it["kind"] == "Secret"]
    assert "is not permitted in project tiercel" in refused["message"]
    assert story.admin.find(f"{CORE}/secrets/leaked") is None


def is_not_compared(application):
    conditions = application["status"].get("conditions", [])
    return any(it["type"] == "ComparisonError" for it in conditions)


def test_an_application_set_has_an_application_for_each_labelled_cluster(story):
    [body] = [
        it for it in render(KUSTOMIZE / "argocd" / "clusters") if it["kind"] == "ApplicationSet"
    ]
    body["spec"]["template"]["spec"]["source"]["repoURL"] = story.git.url
    del body["spec"]["template"]["spec"]["syncPolicy"][
        "automated"
    ]  # only the Applications are of interest
    for name, environment in (("east", "prod"), ("west", "dev"), ("unmanaged", None)):
        labels = {"argocd.argoproj.io/secret-type": "cluster"}
        if environment:
            labels["tiercel.dev/environment"] = environment
        config = {"tlsClientConfig": {"insecure": True}}
        data = {"name": name, "server": f"https://{name}.example.com", "config": json.dumps(config)}
        secret = {"metadata": {"name": name, "labels": labels}, "stringData": data}
        story.admin.create("/api/v1/namespaces/argocd/secrets", secret)
    story.admin.create(f"{ARGOCD}/applicationsets", body)

    def made(found):
        return {
            it["metadata"]["name"]: (
                it["spec"]["source"]["path"],
                it["spec"]["destination"]["server"],
            )
            for it in found["items"]
            if it["metadata"]["name"].startswith("tiercel-")
        }

    expected = {
        "tiercel-east": ("overlays/prod", "https://east.example.com"),
        "tiercel-west": ("overlays/dev", "https://west.example.com"),
    }
    story.admin.wait_for(APPLICATIONS, lambda it: made(it) == expected, timeout=60.0)
