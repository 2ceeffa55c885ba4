"""Bad commits and a bad cluster, as docs/troubleshooting.md describes them, on a real API server."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from tests.cluster.api import Api, ApiError
from tests.cluster.kubelet import NO_IMAGE
from tests.gitops import life

GENERATOR = "playbooks/kustomization.yaml"
JOBS = "/apis/batch/v1/namespaces/tiercel/jobs"
POD = "/api/v1/namespaces/tiercel/pods/tiercel-0"

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    life.needs()
    folder = tmp_path_factory.mktemp("mirror")
    return life.Repository.start(folder / "team", life.Mirror(folder))


@pytest.fixture(scope="module")
def installation(tmp_path_factory, control_plane, repository):
    """The development overlay of the template, in force."""
    with life.Installation(tmp_path_factory.mktemp("cluster"), control_plane) as made:
        made.create_secrets()
        made.install(repository.render("dev"))
        yield made


def with_files(repository, **files):
    """Commit files of playbooks/, and list exactly them and values.yaml. Returns the rendered objects."""
    listed = yaml.safe_load(repository.read(GENERATOR))
    generator = listed["configMapGenerator"][0]
    gone = {f"playbooks/{name}": None for name in generator["files"] if name != "values.yaml"}
    generator["files"] = ["values.yaml", *files]
    written = {f"playbooks/{name}": text for name, text in files.items()}
    repository.commit("Change files", {**gone, **written, GENERATOR: yaml.safe_dump(listed)})
    objects = repository.render("dev")
    repository.revert()
    return objects


def test_a_commit_that_removes_every_playbook_is_not_synced_and_does_not_come_into_force(
    repository, installation
):
    before = installation.status()["playbooks"]
    objects = with_files(repository)
    with pytest.raises(life.CommandError, match=r"there are no documents here.*\[nothing-found\]"):
        installation.check(objects)

    installation.apply(objects)  # as without the hook
    installation.mount()
    installation.engine.wait_for_log(lambda it: it.get("event") == "playbooks_refused")
    now = installation.status()["playbooks"]
    assert "has no playbook" in str(now["error"])
    assert (now["digest"], now["revision"]) == (before["digest"], before["revision"])
    objects = repository.render("dev")
    installation.apply(objects)
    installation.mount()
    installation.engine.wait_for_log(
        lambda it: it.get("event") == "playbooks_loaded" and it["revision"] == repository.revision
    )
    assert installation.status()["playbooks"]["error"] is None


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (3 << 20, "Request entity too large"),
        (1 << 20, "Too long: may not be more than 1048576 bytes"),
    ],
)
def test_a_commit_that_is_too_large_is_refused_by_the_api_server(
    repository, installation, admin, size, message
):
    before = life.mounted(admin)
    hook = copy.deepcopy(life.one(repository.render("dev"), "ConfigMap", life.CANDIDATE))
    hook["data"]["large.yaml"] = "#" * size
    # The ConfigMap of the hook comes first. Argo CD does not apply anything else.
    flags = ("apply", "--server-side", "-f", "-")
    with pytest.raises(life.CommandError, match=message):
        life.kubectl(installation.kubeconfig, *flags, given=json.dumps(hook))
    assert life.mounted(admin) == before


def test_an_edit_by_hand_is_in_force_until_the_next_sync_and_has_a_digest_of_no_commit(
    repository, installation, admin
):
    before = installation.status()["playbooks"]
    edited = {"data": {"values.yaml": "protectedNamespaces: [kube-system]\nquarantineFor: 1m\n"}}
    admin.patch(f"{life.CONFIG_MAPS}/{life.PLAYBOOKS}", edited)
    objects = repository.render("dev")
    installation.mount()
    installation.engine.wait_for_log(
        lambda it: it.get("event") == "playbooks_loaded" and it["digest"] != before["digest"]
    )
    now = installation.status()["playbooks"]
    assert now["revision"] == before["revision"]  # the edit did not change the key
    installation.apply(objects)  # what selfHeal does
    installation.mount()
    installation.wait_until_in_force(objects)
    assert installation.status()["playbooks"]["digest"] == before["digest"]


@pytest.fixture
def job(repository, installation, admin):
    """The PreSync Job of the template. It is removed afterwards."""
    del installation  # its namespace has the Pod Security level
    yield copy.deepcopy(life.one(repository.render("dev"), "Job", "tiercel-check"))
    if admin.find(f"{JOBS}/tiercel-check"):
        admin.delete(f"{JOBS}/tiercel-check?propagationPolicy=Background")


def test_without_the_right_to_create_jobs_the_hook_is_refused(control_plane, admin, job):
    admin.apply("/api/v1/namespaces/tiercel/serviceaccounts/nobody", {
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"},
    })  # fmt: skip
    path = "/api/v1/namespaces/tiercel/serviceaccounts/nobody/token"
    token = admin.create(path, {"spec": {}})["status"]["token"]
    nobody = Api(control_plane.server, token, control_plane.ca)
    with pytest.raises(ApiError, match="cannot create resource"):
        nobody.create(JOBS, job)
    nobody.close()


def test_a_hook_that_pod_security_does_not_admit_fails_after_its_deadline(admin, job):
    job["spec"]["template"]["spec"].pop("securityContext")
    job["spec"]["activeDeadlineSeconds"] = 1
    admin.create(JOBS, job)
    events = admin.wait_for(
        "/api/v1/namespaces/tiercel/events?fieldSelector=reason=FailedCreate",
        lambda it: bool(it["items"]),
    )
    assert 'violates PodSecurity "restricted:latest"' in events["items"][0]["message"]
    ended = admin.wait_for(
        f"{JOBS}/tiercel-check", lambda it: len(it["status"].get("conditions", ())) > 1, life.GUARD
    )
    assert {it["reason"] for it in ended["status"]["conditions"]} == {"DeadlineExceeded"}


def test_a_hook_whose_image_does_not_exist_fails_after_its_deadline(admin, job):
    spec = job["spec"]["template"]["spec"]
    for container in [*spec["initContainers"], *spec["containers"]]:
        container["image"] = f"{NO_IMAGE}tiercel:0.0.0"
    job["spec"]["activeDeadlineSeconds"] = 1
    admin.create(JOBS, job)
    ended = admin.wait_for(
        f"{JOBS}/tiercel-check", lambda it: len(it["status"].get("conditions", ())) > 1, life.GUARD
    )
    assert {it["reason"] for it in ended["status"]["conditions"]} == {"DeadlineExceeded"}


def test_the_revert_of_a_commit_with_an_image_that_does_not_exist_replaces_the_pod(
    repository, installation, admin
):
    objects = repository.render("dev")
    broken = copy.deepcopy(objects)
    [container] = life.one(broken, "StatefulSet", "tiercel")["spec"]["template"]["spec"][
        "containers"
    ]
    image, container["image"] = container["image"], f"{NO_IMAGE}tiercel:0.0.0"
    installation.apply(broken)

    def waits(pod):
        [status] = (pod or {"status": {}})["status"].get("containerStatuses", [{}])
        return status.get("state", {}).get("waiting", {}).get("reason") == "ErrImagePull"

    admin.wait_for(POD, waits)
    installation.apply(objects)
    pod = admin.wait_for(POD, lambda pod: pod and pod["status"].get("phase") == "Running")
    assert pod["spec"]["containers"][0]["image"] == image
