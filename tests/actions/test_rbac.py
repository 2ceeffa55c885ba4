"""The RBAC role that playbooks need."""

from __future__ import annotations

import pytest
import yaml
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.cluster.api import FIELD_MANAGER
from tests.contracts.test_actions import (
    ACTIONS,
    act,
    claim_of,
    every_action,
    scenarios,
    variants,
    world,
)
from tests.language.test_loader import playbook
from tests.support.fakes import FakeAttemptStore

WORKLOADS = {"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"}
ON_OWNER = {"annotations": {"a": "b"}, "on": "owner"}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "forensics", "namespace": "demo"},
}


def rbac(tmp_path, *steps, flags=(), **spec):
    document = playbook("p", actions=list(steps), **spec)
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    done = CliRunner().invoke(cli, ["rbac", str(tmp_path), *flags], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all(done.stdout))


def granted(*roles):
    return {
        (verb, f"{resource}.{group}" if group else resource)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@every_action
def test_role_has_the_rights_that_an_action_uses(tmp_path, action):
    for given in variants(action):
        (role,) = rbac(tmp_path, {"action": action.name, "with": given})
        assert role["kind"] == "ClusterRole"
        for server, event in scenarios():
            act(server, claim_of(action, given, event), store=FakeAttemptStore())
            assert server.asked <= granted(role), (action.name, given)


def test_messages_need_no_rights(tmp_path):
    (role,) = rbac(tmp_path, {"action": "http.request", "with": {"url": "https://x.example/"}})
    assert role["rules"] == []


def test_disabled_playbook_needs_no_rights(tmp_path):
    assert granted(*rbac(tmp_path, {"action": "pod.delete"}, mode="disabled")) == set()


def test_namespaced_splits_the_rights_into_two_roles(tmp_path):
    step = {"action": "pod.isolate"}
    (whole,) = rbac(tmp_path, step, flags=["--name", "mine"])
    inner, outer = rbac(tmp_path, step, flags=["--name", "mine", "--namespaced"])
    assert (inner["kind"], outer["kind"], inner["metadata"]["name"]) == (
        "Role",
        "ClusterRole",
        "mine",
    )
    assert granted(inner, outer) == granted(whole)
    policies = ("list", "networkpolicies.networking.k8s.io")  # listed if the journal was lost
    assert granted(outer) == {("get", "namespaces"), ("get", "nodes"), policies}
    inner, outer = rbac(
        tmp_path, {"action": "pod.label", "with": {"labels": {"a": "b"}}}, flags=["--namespaced"]
    )
    assert granted(outer) == {("get", "namespaces"), ("get", "nodes")}


def test_disruptive_request_needs_the_rights_to_find_and_check_its_pod(tmp_path):
    given = {"url": "https://x.example/", "effect": "disrupt"}
    (role,) = rbac(tmp_path, {"action": "http.request", "with": given})
    assert granted(role) == {
        ("get", "pods"), ("list", "pods"), ("get", "nodes"), ("get", "namespaces"),
    }  # fmt: skip


def test_argocd_ignores_only_what_the_playbooks_change(tmp_path):
    steps = [
        {"action": "workload.scale", "with": {"replicas": 0, "evenIfManaged": True}},
        {"action": "pod.isolate"},
        {"action": "node.cordon"},
    ]
    [found] = rbac(tmp_path, *steps, flags=["--argocd"])
    assert {(it["group"], it["kind"]) for it in found["ignoreDifferences"]} == {
        ("apps", "Deployment"), ("apps", "ReplicaSet"), ("apps", "StatefulSet"), ("", "Node"),
    }  # fmt: skip
    assert {name for it in found["ignoreDifferences"] for name in it["managedFieldsManagers"]} == {
        FIELD_MANAGER
    }
    [none] = rbac(tmp_path, {"action": "pod.isolate"}, flags=["--argocd"])
    assert none == {"ignoreDifferences": []}


def test_each_account_of_run_as_has_a_role_and_the_engine_may_impersonate_it(tmp_path):
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump(playbook("own", actions=[{"action": "pod.delete"}]))
    )
    flags = ["--name", "mine", "--service-account", "security:engine"]
    own, role, bound, impersonate, may = rbac(
        tmp_path, {"action": "pod.isolate"}, flags=flags, runAs="responder"
    )
    policies = (
        "list",
        "networkpolicies.networking.k8s.io",
    )  # the engine adopts with its own rights
    assert ("delete", "pods") in granted(own)
    assert ("patch", "pods") not in granted(own)
    assert {right for right in granted(own) if "networkpolicies" in right[1]} == {policies}
    assert ("patch", "pods") in granted(role)
    assert ("delete", "pods") not in granted(role)
    assert (bound["kind"], bound["roleRef"]["name"]) == ("ClusterRoleBinding", "mine-responder")
    assert bound["subjects"] == [
        {"kind": "ServiceAccount", "namespace": "security", "name": "responder"}
    ]
    assert (impersonate["kind"], impersonate["metadata"]["namespace"]) == ("Role", "security")
    assert impersonate["rules"] == [
        {
            "apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"],
            "resourceNames": ["responder"],
        }
    ]  # fmt: skip
    assert may["subjects"][0]["name"] == "engine"
    flags.append("--namespaced")
    kinds = [
        one["kind"] for one in rbac(tmp_path, {"action": "pod.isolate"}, flags=flags, runAs="a")
    ]
    assert kinds == [
        "Role", "ClusterRole", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding",
        "Role", "RoleBinding",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "kinds"),
    [
        ({"action": "workload.scale"}, set()),
        (
            {"action": "workload.restart", "with": {"evenIfManaged": True}},
            WORKLOADS - {"ReplicaSet"},
        ),
        ({"action": "pod.label", "with": {"labels": {"a": "b"}}}, set()),
        ({"action": "pod.label", "with": {"labels": {"a": "b"}, "on": "owner"}}, set()),
        (
            {"action": "pod.annotate", "with": ON_OWNER | {"evenIfManaged": True}},
            WORKLOADS | {"Job", "CronJob"},
        ),
        ({"action": "pod.annotate", "with": ON_OWNER | {"on": "namespace"}}, {"Namespace"}),
        ({"action": "pod.annotate", "with": ON_OWNER | {"on": "node"}}, {"Node"}),
        ({"action": "node.drain"}, {"Node"}),
        ({"action": "node.taint", "with": {"key": "a", "effect": "NoSchedule"}}, {"Node"}),
        ({"action": "role.revoke", "with": {"evenIfManaged": True}}, set()),
        ({"action": "resource.apply", "with": {"manifest": DEPLOYMENT}}, set()),
    ],
)
def test_argocd_needs_no_exception_for_what_the_step_is_refused_to_change(tmp_path, step, kinds):
    [found] = rbac(tmp_path, step, flags=["--argocd"])
    assert found.keys() == {"ignoreDifferences"}
    assert {it["kind"] for it in found["ignoreDifferences"]} == kinds
    assert all(
        it.keys() == {"group", "kind", "managedFieldsManagers"}
        and it["managedFieldsManagers"] == [FIELD_MANAGER]
        for it in found["ignoreDifferences"]
    )


def test_the_bindings_of_a_user_are_listed_in_all_namespaces(tmp_path):
    inner, outer = rbac(tmp_path, {"action": "role.revoke"}, flags=["--namespaced"])
    assert granted(inner) == {("delete", "rolebindings.rbac.authorization.k8s.io")}
    assert ("list", "rolebindings.rbac.authorization.k8s.io") in granted(outer)


MARKS_OF_TOOLS = [
    ("annotations", "argocd.argoproj.io/tracking-id"),
    ("labels", "app.kubernetes.io/instance"),
    ("labels", "argocd.argoproj.io/instance"),
    ("labels", "kustomize.toolkit.fluxcd.io/name"),
    ("labels", "helm.toolkit.fluxcd.io/name"),
    ("labels", "fluxcd.controlplane.io/name"),
]


@pytest.mark.parametrize(("part", "mark"), MARKS_OF_TOOLS)
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("workload.scale", {}),
        ("workload.restart", {}),
        ("pod.label", {"labels": {"a": "b"}, "on": "owner"}),
        ("pod.annotate", ON_OWNER),
        ("resource.delete", {"kinds": ["ConfigMap"]}),
    ],
)
def test_a_managed_object_is_changed_only_on_demand(part, mark, name, given):
    """`resource.apply` and `role.revoke` are tested in their own files."""
    action = next(one for one in ACTIONS if one.name == name)
    server = world("StatefulSet")
    for item in server.objects.values():
        if item["kind"] in ("StatefulSet", "ConfigMap"):
            item["metadata"][part] = {mark: "shop"}
    before = server.state()
    refused = act(server, claim_of(action, given))
    assert (refused.state, "evenIfManaged" in refused.message) == ("refused", True)
    assert server.state() == before
    assert act(server, claim_of(action, {**given, "evenIfManaged": True})).state == "done"
