"""``spec.runAs`` on a real API server: calls have the rights of the account, and no others."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.cluster.api import NAMESPACE, POD
from engine.cluster.client import connect
from engine.cluster.impersonation import as_account
from engine.model.calls import Call
from engine.model.errors import PermanentError

from tests.cluster.accounts import apply_manifests, create_account, token_of, wait_for_right
from tests.support.engine import engine, write_playbooks

LABEL = "{action: pod.label, with: {labels: {seen: 'true'}, ttl: 1h}}"


def playbook(name, step, run_as=""):
    """A playbook whose rule has its own name."""
    return f"""\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {{name: {name}}}
spec:
  match: {{rules: [{name}]}}
  {f"runAs: {run_as}" if run_as else ""}
  actions: [{step}]
"""


@pytest.fixture
def home(admin):
    """The engine's namespace, with the ServiceAccounts ``engine`` and ``responder``."""
    name = f"home-{secrets.token_hex(4)}"
    admin.create("/api/v1/namespaces", {"metadata": {"name": name}})
    for account in ("engine", "responder"):
        create_account(admin, name, account)
    yield name
    admin.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def pod(admin, namespace):
    spec = {"containers": [{"name": "c", "image": "nginx"}]}
    path = f"/api/v1/namespaces/{namespace}/pods"
    admin.create(path, {"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": spec})
    return lambda: admin.get(f"{path}/web")


@pytest.fixture
def granted(admin, home, tmp_path, control_plane):
    """Apply the output of ``tiercel rbac`` for a folder; return a kubeconfig of the engine's account."""
    made = []

    def grant(folder):
        name = f"role-{home}"
        flags = ["--name", name, "--service-account", f"{home}:engine"]
        printed = CliRunner().invoke(cli, ["rbac", str(folder), *flags], catch_exceptions=False)
        manifests = list(yaml.safe_load_all(printed.stdout))
        own = {"kind": "ClusterRole", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
        manifests.append(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": name},
                "roleRef": own,
                "subjects": [{"kind": "ServiceAccount", "name": "engine", "namespace": home}],
            }
        )
        made.extend(apply_manifests(admin, manifests))
        wait_for_right(admin, f"system:serviceaccount:{home}:responder", "patch", "pods")
        wait_for_right(
            admin, f"system:serviceaccount:{home}:engine", "impersonate", "serviceaccounts",
            namespace=home, name="responder",
        )  # fmt: skip
        token = token_of(admin, home, "engine")
        return control_plane.kubeconfig(token, tmp_path / "engine.json")

    yield grant
    for path in made:
        admin.delete(path)


def alert(rule, namespace):
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    fields = {"k8s.ns.name": namespace, "k8s.pod.name": "web"}
    return {"rule": rule, "time": now, "output_fields": fields}


def test_steps_have_only_the_rights_of_the_account(
    home, namespace, pod, granted, tmp_path, monkeypatch
):
    folder = write_playbooks(
        tmp_path / "playbooks",
        {
            "mark.yaml": playbook("mark", LABEL, "responder"),
            "own.yaml": playbook("own", "{action: pod.delete, with: {onlyIfOwned: false}}"),
            "wide.yaml": playbook("wide", "{action: kubernetes.event, with: {message: x}}"),
        },
    )
    kubeconfig = granted(folder)
    # the engine's own account has the rights of these two, and the account does not
    (folder / "wide.yaml").write_text(
        playbook("wide", "{action: pod.delete, with: {onlyIfOwned: false}}", "responder")
    )
    (folder / "nobody.yaml").write_text(playbook("nobody", LABEL, "nobody"))
    env = {"TIERCEL_POD_NAMESPACE": home, "TIERCEL_SERVICE_ACCOUNT": "engine"}
    with engine(tmp_path, folder, "--kubeconfig", str(kubeconfig), env=env) as running:

        def ended(rule):
            running.post(alert(rule, namespace))
            return running.wait_for_audit(lambda line: line.get("playbook") == rule)

        done = ended("mark")
        assert (done["state"], done["runAs"]) == ("done", "responder"), done["message"]
        assert pod()["metadata"]["labels"]["seen"] == "true"
        refused = ended("wide")
        assert refused["state"] == "failed"
        assert (
            f"missing right: delete on pods; the ServiceAccount {home}/responder"
            in (refused["message"])
        )
        assert "deletionTimestamp" not in pod()["metadata"]
        unknown = ended("nobody")
        assert unknown["state"] == "failed"
        assert (
            f"missing right: impersonate on serviceaccounts/nobody in the namespace {home}"
            in (unknown["message"])
        )
        # a restart and a removed playbook do not change the account of an undo
        (folder / "mark.yaml").unlink()
        running.restart()
        command = ["undo", done["run"], "--server", running.admin]
        assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0
        undone = running.wait_for_audit(lambda line: line.get("state") == "undone")
        assert undone["runAs"] == "responder"
        assert "seen" not in pod()["metadata"]["labels"]
        shown = CliRunner().invoke(
            cli, ["show", done["run"], "--server", running.admin], catch_exceptions=False
        )
        assert "runs as   ServiceAccount responder" in shown.output

    monkeypatch.setenv("TIERCEL_POD_NAMESPACE", home)
    (tmp_path / "event.json").write_text(json.dumps(alert("wide", namespace)))
    plan = ["plan", str(folder), str(tmp_path / "event.json"), "--server", "-o", "json"]
    planned = CliRunner().invoke(cli, [*plan, "--kubeconfig", str(kubeconfig)])
    (run,) = json.loads(planned.stdout)["runs"]
    assert run["steps"][0]["state"] == "failed"
    assert f"{home}/responder" in run["steps"][0]["message"]
    monkeypatch.delenv("TIERCEL_POD_NAMESPACE")
    planned = CliRunner().invoke(cli, [*plan, "--kubeconfig", str(kubeconfig)])
    (run,) = json.loads(planned.stdout)["runs"]
    assert "set TIERCEL_POD_NAMESPACE" in run["steps"][0]["message"]


def test_an_account_does_not_read_what_the_engine_has_cached(control_plane, tmp_path, home):
    access = control_plane.kubeconfig(control_plane.admin_token, tmp_path / "admin.json")
    cluster = connect(str(access), None)
    assert cluster.get(NAMESPACE, home)
    account = as_account(cluster, home, "responder")
    with pytest.raises(PermanentError, match="missing right: get on namespaces; the ServiceAcc"):
        account.get(NAMESPACE, home)
    assert cluster.get(NAMESPACE, home)
    for one in (account.with_dry_run(), account.with_timeout(9.0)):
        with pytest.raises(PermanentError, match=f"{home}/responder"):
            one.get(POD, "x", home)


def test_without_the_namespace_of_the_engine_no_call_is_sent():
    sent = []
    cluster = SimpleNamespace(impersonate=sent.append)
    account = as_account(cluster, None, "responder")
    for use in (
        lambda: account.get(POD, "a", "b"),
        lambda: account.list(POD),
        lambda: account.send(Call("delete", "v1", "pods", "a", "b")),
    ):
        with pytest.raises(PermanentError, match=r"runAs: responder: .* set TIERCEL_POD_NAMESPACE"):
            use()
    assert not sent
