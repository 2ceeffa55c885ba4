"""What the troubleshooting and backup pages say is what the commands and the real API server do."""

from __future__ import annotations

import re

import pytest
import yaml
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.cluster.api import Api, ApiError
from tests.support.engine import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
PLAYBOOK = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: a}
spec:
  match: {rules: [Terminal shell in container]}
  actions: [{action: pod.labl, with: {labels: {a: b}}}]
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Write a file and run `tiercel check` on a path; returns the lines of the report."""
    monkeypatch.chdir(tmp_path)

    def run(target, file, text):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
        done = CliRunner().invoke(cli, ["check", target], prog_name="tiercel")
        assert done.exit_code == 1
        return done.stdout.splitlines()

    return run


def test_a_broken_playbook_is_reported_as_on_the_page(check):
    assert "\n".join(check("a.yaml", "a.yaml", PLAYBOOK)) in PAGE


def test_a_folder_without_playbooks_is_reported_as_on_the_page(check):
    line = check("playbooks", "playbooks/values.yaml", "a: b")[0]
    assert line.startswith("playbooks:1:1: error: ")
    assert line.removeprefix("playbooks") in PAGE


def test_a_file_of_more_than_one_mebibyte_is_reported_as_on_the_page(check):
    assert check("one.yaml", "one.yaml", "#" * (1 << 20) + "\n")[0] in PAGE


@pytest.mark.parametrize("size", [3 << 19, 3 << 20])
def test_the_api_server_refuses_a_large_config_map_with_the_message_on_the_page(
    admin, namespace, size
):
    path = f"/api/v1/namespaces/{namespace}/configmaps/tiercel-playbooks"
    head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tiercel-playbooks"}}
    files = {f"{number}.yaml": "#" * (size // 4 + 1) for number in range(4)}
    with pytest.raises(ApiError) as raised:
        admin.apply(path, {**head, "data": files})
    assert raised.value.body["message"] in PAGE
    assert admin.find(path) is None


def test_a_job_without_rights_is_refused_with_the_message_on_the_page(
    control_plane, engine_token, namespace
):
    pod = {"restartPolicy": "Never", "containers": [{"name": "check", "image": "tiercel"}]}
    job = {"metadata": {"name": "tiercel-check"}, "spec": {"template": {"spec": pod}}}
    account = Api(control_plane.server, engine_token, control_plane.ca)
    with pytest.raises(ApiError) as raised:
        account.create(f"/apis/batch/v1/namespaces/{namespace}/jobs", job)
    account.close()
    said = raised.value.body["message"].replace(f'"{namespace}"', '"tiercel"')
    controller = "system:serviceaccount:argocd:argocd-application-controller"
    assert said.replace("system:serviceaccount:tiercel:tiercel", controller) in PAGE


def test_a_job_without_its_security_context_is_refused_with_the_message_on_the_page(
    admin, namespace
):
    labels = {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    admin.patch(f"/api/v1/namespaces/{namespace}", {"metadata": labels})
    containers = [{"name": "check", "image": "tiercel"}]
    pod = {"metadata": {"name": "tiercel-check-abc12"}, "spec": {"containers": containers}}
    with pytest.raises(ApiError) as raised:
        admin.create(f"/api/v1/namespaces/{namespace}/pods", pod)
    said, _, _ = raised.value.body["message"].partition("unrestricted capabilities")
    assert said in PAGE


def test_the_pod_that_restores_a_journal_is_admitted_in_the_namespace_of_the_engine(
    admin, namespace
):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/backup.md").read_text(), re.DOTALL)
    (pod,) = [one for one in map(yaml.safe_load, blocks) if one["kind"] == "Pod"]
    labels = {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    admin.patch(f"/api/v1/namespaces/{namespace}", {"metadata": labels})
    pod["metadata"]["namespace"] = namespace
    made = admin.create(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)
    (volume,) = made["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == "journal-tiercel-0"
