"""What is in force on a real API server: an undo without the right, a restart, a removed playbook."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import yaml
from click.testing import CliRunner
from engine.actions.rbac import rights, roles
from engine.cli.command_group import cli
from engine.language.folder import Files
from tests.cluster.accounts import wait_for_right
from tests.support.engine import engine
from tests.support.playbooks import new_loader

RBAC = "/apis/rbac.authorization.k8s.io/v1"
PLAYBOOKS = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: note}
spec:
  match: {rules: [Terminal shell in container]}
  actions:
    - action: resource.apply
      with:
        ttl: 1h
        manifest:
          apiVersion: v1
          kind: ConfigMap
          metadata: {name: "incident-%k8s.pod.name", namespace: "%k8s.ns.name"}
          data: {rule: "%rule"}
---
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: revoke}
spec:
  match: {rules: [Attach to cluster-admin Role]}
  actions: [{action: role.revoke}]
"""


class Account:
    """A ServiceAccount with exactly the rights that the playbooks need, and a switch for one right."""

    def __init__(self, admin, namespace):
        self.admin, self.name = admin, f"engine-{namespace}"
        self.user = f"system:serviceaccount:{namespace}:engine"
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        admin.create(accounts, {"metadata": {"name": "engine"}})
        self.needed = rights(new_loader().load(Files("", {"p.yaml": PLAYBOOKS.encode()})).playbooks)
        self.grant(self.needed)
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
        subject = {"kind": "ServiceAccount", "name": "engine", "namespace": namespace}
        binding = {"metadata": {"name": self.name}, "roleRef": reference | {"name": self.name}}
        admin.create(f"{RBAC}/clusterrolebindings", {**binding, "subjects": [subject]})
        self.wait("delete", allowed=True)
        token = admin.create(f"{accounts}/engine/token", {"spec": {"expirationSeconds": 7200}})
        self.token = token["status"]["token"]

    def grant(self, needed):
        (role,) = roles(frozenset(needed), self.name, namespaced=False)
        self.admin.apply(f"{RBAC}/clusterroles/{self.name}", role)

    def wait(self, verb, *, allowed):
        """Wait until the authorizer has read the role."""
        wait_for_right(self.admin, self.user, verb, "configmaps", allowed=allowed)

    def close(self):
        self.admin.delete(f"{RBAC}/clusterrolebindings/{self.name}")
        self.admin.delete(f"{RBAC}/clusterroles/{self.name}")


@pytest.fixture
def account(admin, namespace):
    made = Account(admin, namespace)
    yield made
    made.close()


def alert(rule, **fields):
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"rule": rule, "time": now, "output_fields": fields}


def test_an_undo_waits_for_its_right_over_a_restart_without_the_playbook(
    tmp_path, admin, namespace, account, control_plane
):
    kubeconfig = control_plane.kubeconfig(account.token, tmp_path / "kubeconfig")
    configmap = f"/api/v1/namespaces/{namespace}/configmaps/incident-web"
    flags = ("--kubeconfig", str(kubeconfig))
    with engine(tmp_path, {"p.yaml": PLAYBOOKS}, *flags) as running:

        def tiercel(*arguments):
            result = CliRunner().invoke(cli, [*arguments, "--server", running.admin])
            assert result.exit_code == 0, result.output
            return result.stdout

        fields = {"k8s.ns.name": namespace, "k8s.pod.name": "web"}
        (run,) = running.post(alert("Terminal shell in container", **fields))[2]["runs"]
        running.wait_for_audit(lambda line: line.get("run") == run)
        assert admin.get(configmap)["data"] == {"rule": "Terminal shell in container"}

        account.grant(account.needed - {("delete", "configmaps")})
        account.wait("delete", allowed=False)
        tiercel("undo", run)
        waiting = running.wait_for_audit(lambda line: line.get("state") == "waiting")
        assert "missing right: delete on configmaps" in waiting["message"]
        (found,) = json.loads(tiercel("history", "--in-force", "-o", "json"))
        assert found["object"]["name"] == "incident-web"
        assert (found["change"], found["runs"][0]["run"]) == ("created", run)
        assert "missing right: delete on configmaps" in found["runs"][0]["message"]
        text = tiercel("history", "--in-force", "--namespace", namespace)
        assert f"configmap {namespace}/incident-web  created" in text
        assert f"{run[:12]}  note  resource.apply  until " in text
        assert "not undone after" in text
        assert "Nothing is in force" in tiercel("history", "--in-force", "--namespace", "other")

        running.kill()
        revoke = PLAYBOOKS.partition("---\n")[2]
        (tmp_path / "playbooks" / "p.yaml").write_text(revoke)
        running.restart()
        account.grant(account.needed)
        account.wait("delete", allowed=True)
        tiercel("undo", run)
        undone = running.wait_for_audit(lambda line: line.get("state") == "undone")
        assert undone["message"] == "configmap incident-web deleted"
        assert admin.find(configmap) is None
        assert "Nothing is in force" in tiercel("history", "--in-force")

        user = f"mallory-{namespace}"
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
        binding = {"metadata": {"name": user}, "roleRef": role, "subjects": [subject]}
        admin.create(f"{RBAC}/clusterrolebindings", binding)
        event = alert("Attach to cluster-admin Role", **{"ka.user.name": user})
        (revoked,) = running.post(event)[2]["runs"]
        running.wait_for_audit(lambda line: line.get("run") == revoked)
        assert admin.find(f"{RBAC}/clusterrolebindings/{user}") is None
        assert f"tiercel show {revoked[:12]} --copies" in tiercel("show", revoked)
        (copy,) = yaml.safe_load_all(tiercel("show", revoked, "--copies"))
        assert (copy["metadata"]["name"], copy["subjects"], copy["roleRef"]) == (
            user, [subject], role,
        )  # fmt: skip
