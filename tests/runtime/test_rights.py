"""The engine checks its rights at start and at each reload, on a real API server."""

from __future__ import annotations

import secrets

import pytest
from click.testing import CliRunner
from engine.actions.rbac import account_roles, rights_by_account
from engine.cli.command_group import cli
from engine.cluster.client import connect
from engine.execution.rights_check import MAX_REVIEWS, AccountRights, check_rights
from engine.language.folder import Files
from tests.cluster.accounts import apply_manifests, create_account, token_of, wait_for_right
from tests.support.engine import engine, wait_until
from tests.support.playbooks import new_loader

DELETE = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: delete}
spec: {match: {rules: [a]}, actions: [{action: pod.delete}]}
"""
LABEL = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: label}
spec:
  match: {rules: [a]}
  runAs: responder
  actions: [{action: pod.label, with: {labels: {a: b}}}]
"""
NEEDED = rights_by_account(
    new_loader().load(Files("", {"a.yaml": f"{DELETE}---\n{LABEL}".encode()})).playbooks
)


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
def bind(admin, home):
    """Return a function that gives the accounts their roles, and waits until they have them."""
    made = set()

    def bound(own, accounts, *, namespaced=False):
        name = f"role-{home}"
        manifests = account_roles(
            {"engine": own, **accounts}, name, (home, "engine"), namespaced=namespaced
        )
        for one in manifests:
            if one["kind"].startswith("Role") and "namespace" not in one["metadata"]:
                one["metadata"]["namespace"] = "default"
        rules = next(one for one in manifests if "resourceNames" in str(one.get("rules")))["rules"]
        rules[0]["resourceNames"] = sorted(accounts) or ["none"]
        made.update(apply_manifests(admin, manifests))
        for account, needed in {"engine": own, **accounts}.items():
            for verb, resource in needed:
                place = {"namespace": "default"} if namespaced else {}
                user = f"system:serviceaccount:{home}:{account}"
                wait_for_right(admin, user, verb, resource, **place)
        for account in accounts:
            user = f"system:serviceaccount:{home}:engine"
            wait_for_right(
                admin, user, "impersonate", "serviceaccounts", namespace=home, name=account
            )

    yield bound
    for path in made:
        admin.delete(path)


@pytest.fixture
def kubeconfig(admin, home, control_plane, tmp_path):
    return control_plane.kubeconfig(token_of(admin, home, "engine"), tmp_path / "engine.json")


class Counting:
    """A cluster that counts the calls to the API server."""

    def __init__(self, cluster, calls=None):
        self._cluster, self.calls = cluster, [] if calls is None else calls

    def with_timeout(self, seconds):
        return Counting(self._cluster.with_timeout(seconds), self.calls)

    def impersonate(self, user):
        return Counting(self._cluster.impersonate(user), self.calls)

    def send(self, call):
        self.calls.append(call.resource)
        return self._cluster.send(call)


def accounts_with(running, account, holds=lambda _: True):
    """Return the accounts in /status, once the last one has this name and the first one has a property.

    The worker process writes the log, and its report reaches the process of /status at the same time.
    """
    accounts = []

    def found():
        accounts[:] = running.get("/status")[2]["rights"]["accounts"]
        return accounts and accounts[-1]["account"] == account and holds(accounts[0])

    wait_until(found, lambda: accounts)
    return accounts


def test_status_metrics_and_log_name_what_is_missing_and_what_is_in_excess(
    home, bind, kubeconfig, tmp_path
):
    extra = ("get", "configmaps")
    bind(NEEDED[""] - {("delete", "pods")} | {extra}, {"responder": NEEDED["responder"]})
    folder = {"delete.yaml": DELETE, "label.yaml": LABEL}
    env = {"TIERCEL_POD_NAMESPACE": home}
    with engine(tmp_path, folder, "--kubeconfig", str(kubeconfig), env=env) as running:
        logged = running.wait_for_log(lambda line: line.get("event") == "rights_missing")
        assert (logged["account"], logged["missing"]) == (None, ["delete on pods"])
        assert running.wait_for_log(lambda line: line.get("event") == "rights_in_excess")
        running.wait_for_log(
            lambda line: line.get("event") == "rights_checked" and line["account"] == "responder"
        )
        own, responder = accounts_with(running, "responder")
        assert own == {
            "account": None, "missing": ["delete on pods"], "excess": ["get on configmaps"],
            "byNamespace": [], "error": None,
        }  # fmt: skip
        assert responder == {
            "account": "responder", "missing": [], "excess": [], "byNamespace": [], "error": None
        }  # fmt: skip
        metrics = running.get("/metrics")[2]
        assert 'tiercel_rights_missing{account=""} 1.0' in metrics
        assert 'tiercel_rights_excess{account=""} 1.0' in metrics
        assert 'tiercel_rights_known{account="responder"} 1.0' in metrics
        shown = CliRunner().invoke(cli, ["status", "--server", running.admin]).output
        assert "rights     missing: delete on pods; excess: get on configmaps" in shown
        assert "rights     responder: as the playbooks need" in shown

        # without the playbook that deletes, the engine needs no right of its own but impersonation
        (tmp_path / "playbooks" / "delete.yaml").unlink()
        running.wait_for_log(
            lambda line: line.get("event") == "rights_in_excess" and len(line["excess"]) > 1
        )
        own, _ = accounts_with(running, "responder", lambda own: own["missing"] == [])
        assert set(own["excess"]) == {
            f"{verb} on {resource}"
            for verb, resource in NEEDED[""] - {("delete", "pods")} | {extra}
        }


def test_the_rights_of_every_account_take_a_bounded_number_of_calls(home, bind, kubeconfig):
    bind(NEEDED[""] - {("get", "nodes")}, {"responder": frozenset()})
    cluster = Counting(connect(str(kubeconfig), None))
    own, other, responder = check_rights(
        cluster, home, {**NEEDED, "other": frozenset({("get", "pods")})}, 0.0
    ).accounts
    assert own.missing == ("get on nodes", "impersonate on serviceaccounts/other")
    assert "missing right: impersonate on serviceaccounts/other" in other.error
    assert set(responder.missing) == {f"{verb} on {what}" for verb, what in NEEDED["responder"]}
    rules = cluster.calls.count("selfsubjectrulesreviews")
    assert rules == 4  # two of the engine: in every namespace, and in its own
    assert len(cluster.calls) == rules + 2 + len(NEEDED["responder"])  # only what is missing

    many = frozenset(("get", f"things{n}.example.com") for n in range(MAX_REVIEWS + 1))
    cluster = Counting(connect(str(kubeconfig), None))
    (own,) = check_rights(cluster, home, {"": many}, 0.0).accounts
    assert f"not checked: more than {MAX_REVIEWS} rights" in own.error
    assert len(cluster.calls) == MAX_REVIEWS + 1


def test_rights_that_roles_give_in_some_namespaces_are_not_missing(home, bind, kubeconfig):
    bind(NEEDED[""], {}, namespaced=True)
    (own,) = check_rights(connect(str(kubeconfig), None), home, {"": NEEDED[""]}, 0.0).accounts
    assert own == AccountRights("", by_namespace=("delete on pods", "get on pods", "list on pods"))


def test_the_rights_are_unknown_while_the_api_server_does_not_answer(control_plane, tmp_path):
    path = control_plane.kubeconfig("token", tmp_path / "closed.json")
    path.write_text(path.read_text().replace(control_plane.server, "https://127.0.0.1:1"))
    report = check_rights(connect(str(path), None), "tiercel", NEEDED, 0.0)
    assert not report.complete
    assert [one.account for one in report.accounts] == ["", "responder"]
    assert all("API server" in one.error for one in report.accounts)
