"""role.revoke: every binding that names the subject, and no other."""

from __future__ import annotations

import pytest
from engine.actions import role_revoke
from engine.execution.guardrails import GuardrailChecker
from engine.model.attempt_state import COPIES
from engine.model.own_identity import OwnIdentity
from tests.contracts.test_actions import ACTIONS, act, alert, binding, claim_of, world
from tests.support.fakes import FakeAttemptStore

REVOKE = next(action for action in ACTIONS if action.name == "role.revoke")
MALLORY = {("rolebindings", "demo", "mallory"), ("clusterrolebindings", None, "mallory")}
GROUP = "rbac.authorization.k8s.io"


def revoke(server, given=None, *, store=None, **of):
    checker = of.pop("checker", None)
    return act(server, claim_of(REVOKE, given or {}, **of), checker=checker, store=store)


def bindings(server):
    found = {k for k in server.objects if "bindings" in k[0]}
    return {(k[0].removesuffix(f".{GROUP}"), *k[1:]) for k in found}


def test_the_bindings_of_the_user_of_the_event_are_deleted_after_their_copies_are_saved():
    server, store = world(), FakeAttemptStore()
    server.put(binding("RoleBinding", "other", "alice", namespace="demo"))
    server.put(binding("ClusterRoleBinding", "group") | {"subjects": [{"kind": "Group"}]})
    outcome = revoke(server, store=store)
    assert outcome.state == "done"
    assert outcome.answer == {
        "subject": "mallory",
        "deleted": ["ClusterRoleBinding mallory", "RoleBinding demo/mallory"],
    }
    assert bindings(server) == {
        ("rolebindings", "demo", "other"), ("clusterrolebindings", None, "group"),
    }  # fmt: skip
    assert store.attempt_state[COPIES][1] == {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "mallory", "namespace": "demo"},
        "roleRef": {"kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "User", "name": "mallory"}],
    }


def test_a_group_of_the_same_name_is_another_subject():
    server = world()
    server.put(
        binding("ClusterRoleBinding", "g") | {"subjects": [{"kind": "Group", "name": "mallory"}]}
    )
    revoke(server)
    assert bindings(server) == {("clusterrolebindings", None, "g")}


def test_a_service_account_is_named_as_in_the_audit_log():
    server = world()
    account = {"kind": "ServiceAccount", "namespace": "demo", "name": "web"}
    for name, subject in {"a": account, "b": {**account, "namespace": "prod"}}.items():
        server.put(binding("ClusterRoleBinding", name) | {"subjects": [subject]})
    user = alert(**{"ka.user.name": "system:serviceaccount:demo:web"})
    assert "ClusterRoleBinding a" in revoke(server, event=user).message
    assert ("clusterrolebindings", None, "b") in bindings(server)
    assert ("clusterrolebindings", None, "a") not in bindings(server)


def test_a_binding_of_a_group_of_the_account_stays_and_is_named():
    server = world()
    for name, group in {
        "all": "system:serviceaccounts",
        "ns": "system:serviceaccounts:demo",
    }.items():
        subjects = {"subjects": [{"kind": "Group", "name": group}]}
        server.put(binding("ClusterRoleBinding", name) | subjects)
    other = {"subjects": [{"kind": "Group", "name": "system:serviceaccounts:prod"}]}
    server.put(binding("ClusterRoleBinding", "other") | other)
    user = alert(**{"ka.user.name": "system:serviceaccount:demo:web"})
    outcome = revoke(server, event=user)
    assert outcome.state == "skipped"
    text = "rights of ClusterRoleBinding all, ClusterRoleBinding ns through a group"
    assert outcome.message.endswith(text)
    account = {"kind": "ServiceAccount", "namespace": "demo", "name": "web"}
    server.put(binding("ClusterRoleBinding", "own") | {"subjects": [account]})
    outcome = revoke(server, event=user)
    assert (outcome.state, outcome.message.endswith(text)) == ("done", True)
    names = {name for kind, _, name in bindings(server) if kind == "clusterrolebindings"}
    assert {"all", "ns", "other"} <= names
    assert "through" not in revoke(server).message


@pytest.mark.parametrize("keep", [["mallory"], ["demo/*", "mal*"], ["mallory", "x"]])
def test_kept_bindings_stay(keep):
    server = world()
    assert revoke(server, {"keep": keep}).state == "skipped"
    assert bindings(server) == MALLORY


def test_a_kept_binding_of_one_namespace_stays():
    server = world()
    assert revoke(server, {"keep": ["demo/mallory"]}).state == "done"
    assert bindings(server) == {("rolebindings", "demo", "mallory")}


def protected():
    yield binding("ClusterRoleBinding", "system:node-proxier"), GuardrailChecker()
    labels = {"kubernetes.io/bootstrapping": "rbac-defaults"}
    yield binding("ClusterRoleBinding", "cluster-admin", labels=labels), GuardrailChecker()
    yield binding("RoleBinding", "x", namespace="kube-system"), GuardrailChecker()
    own = OwnIdentity("tiercel", service_account="tiercel")
    ours = binding("ClusterRoleBinding", "tiercel")
    ours["subjects"].append({"kind": "ServiceAccount", "namespace": "tiercel", "name": "tiercel"})
    yield ours, GuardrailChecker(own=own)
    argocd = {"argocd.argoproj.io/instance": "rbac"}
    yield binding("RoleBinding", "x", namespace="demo", labels=argocd), GuardrailChecker()


@pytest.mark.parametrize(("item", "checker"), list(protected()))
def test_a_protected_binding_stays_and_the_others_are_deleted(item, checker):
    server = world()
    key = server.put(item)["metadata"]["name"]
    outcome = revoke(server, checker=checker)
    assert outcome.state == "refused"
    assert f"{key} stays" in outcome.message
    assert {name for _, _, name in bindings(server)} == {key}


def test_a_binding_that_git_manages_is_deleted_on_demand():
    server = world()
    labels = {"kustomize.toolkit.fluxcd.io/name": "rbac"}
    server.put(binding("RoleBinding", "x", namespace="demo", labels=labels))
    assert revoke(server, {"evenIfManaged": True}).state == "done"
    assert bindings(server) == set()


def test_an_event_without_a_user_is_skipped():
    server = world()
    assert revoke(server, event=alert(**{"ka.user.name": "<NA>"})).state == "skipped"
    assert revoke(server, {"subject": "%ka.user.groups"}).state == "skipped"
    assert bindings(server) == MALLORY


def test_the_copies_survive_a_second_attempt():
    server, store = world(), FakeAttemptStore()
    server.answers = [(500, {})]
    assert revoke(server, store=store).state == "waiting"
    saved = list(store.attempt_state[COPIES])
    again = revoke(server, store=store, attempt=2, attempt_state=dict(store.attempt_state))
    assert (again.state, len(again.answer["deleted"])) == ("done", 2)
    assert store.attempt_state[COPIES] == saved
    last = revoke(server, store=store, attempt=3, attempt_state=dict(store.attempt_state))
    assert (last.state, last.message) == ("done", again.message)


def test_a_replaced_binding_is_not_deleted():
    server = world()
    server.interfere = lambda: server.put(binding("ClusterRoleBinding", "mallory", uid="another"))
    revoke(server)
    assert ("clusterrolebindings", None, "mallory") in bindings(server)


def test_too_many_bindings_are_deleted_in_parts(monkeypatch):
    monkeypatch.setattr(role_revoke, "MAX_COPIES", 1)
    server = world()
    outcome = revoke(server)
    assert (outcome.state, outcome.message) == (
        "failed",
        "deleted 1 bindings; 1 more name 'mallory'",
    )
    assert bindings(server) == {("rolebindings", "demo", "mallory")}


def test_a_read_has_pages():
    server = world()
    for number in range(600):
        server.put(binding("RoleBinding", f"b{number}", "alice", namespace="demo"))
    server.put(binding("RoleBinding", "zz", namespace="demo"))
    assert revoke(server).state == "done"
    assert not {n for _, _, n in bindings(server)} & {"zz", "mallory"}
