"""Operators with Kubernetes tokens, judged by a real API server."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import yaml
from engine.actions.rbac import ACCESS_REVIEWS, roles
from engine.cluster.access_reviews import AccessReviews
from engine.cluster.client import connect
from engine.server import kubernetes_operators
from engine.server.kubernetes_operators import KubernetesOperators
from engine.server.operator_auth import OperatorsFile
from tests.cluster.accounts import wait_for_right
from tests.server.test_admin import AWAY, JSON, Admin, digest
from tests.server.test_admin import bearer as operator

COMPONENT = Path(__file__).parents[2] / "kustomize/components/kubernetes-operators"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
AUDIENCE = "tiercel"
RUNS = "runs.tiercel.dev"
ENGINE = "/api/v1/namespaces/tiercel/serviceaccounts/reviewer"
"""An account in the engine's namespace, to which the admission policy of kustomize/base applies."""


@pytest.fixture(scope="module")
def accounts(admin, engine_token):  # noqa: ARG001 - creates the engine's namespace and policy
    """ServiceAccounts with rights, and a function that makes a token of one."""
    namespace = f"people-{secrets.token_hex(4)}"
    admin.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    (engine, *_) = yaml.safe_load_all((COMPONENT / "engine.yaml").read_text())
    assert engine["rules"] == roles(ACCESS_REVIEWS, "it", namespaced=False)[0]["rules"]
    operate, view = yaml.safe_load_all((COMPONENT / "operators.yaml").read_text())
    approver = [{**operate["rules"][0], "verbs": ["get", "approve"]}]
    rules = {
        "engine": engine["rules"], "alice": operate["rules"], "vic": view["rules"],
        "ann": approver, "mallory": [], "powerless": [],
    }  # fmt: skip
    for name, granted in rules.items():
        admin.create(path, {"metadata": {"name": name}})
        role = f"{namespace}-{name}"
        admin.create(f"{RBAC}/clusterroles", {"metadata": {"name": role}, "rules": granted})
        bind(admin, namespace, name)
    admin.create(ENGINE.rpartition("/")[0], {"metadata": {"name": "reviewer"}})
    bind(admin, namespace, "engine", ("tiercel", "reviewer"))
    for name, verb in (("alice", "resume"), ("vic", "get"), ("ann", "approve")):
        wait_for_right(admin, f"system:serviceaccount:{namespace}:{name}", verb, RUNS)

    def token(name, audience=AUDIENCE):
        spec = {"audiences": [audience]} if audience else {}
        return admin.create(f"{path}/{name}/token", {"spec": spec})["status"]["token"]

    token.namespace = namespace
    yield token
    admin.delete(f"/api/v1/namespaces/{namespace}")
    for name in rules:
        for kind in ("clusterroles", "clusterrolebindings"):
            admin.delete(f"{RBAC}/{kind}/{namespace}-{name}")
    admin.delete(f"{RBAC}/clusterrolebindings/{namespace}-engine-reviewer")
    admin.delete(ENGINE)


def bind(admin, namespace, name, account=None):
    """Bind the role of an account to it, or to another account (namespace, name)."""
    role = f"{namespace}-{name}"
    reference = {"apiGroup": RBAC.split("/")[2], "kind": "ClusterRole", "name": role}
    where, who = account or (namespace, name)
    subject = {"kind": "ServiceAccount", "namespace": where, "name": who}
    metadata = {"name": f"{role}-{who}" if account else role}
    body = {"metadata": metadata, "roleRef": reference, "subjects": [subject]}
    admin.create(f"{RBAC}/clusterrolebindings", body)


class Counted(AccessReviews):
    """Counts the calls."""

    calls = 0

    def _review(self, *arguments):
        self.calls += 1
        return super()._review(*arguments)


@pytest.fixture(scope="module")
def reviews(accounts, admin, control_plane, tmp_path_factory):  # noqa: ARG001 - the rights
    """Reviews with the rights of the component, and no others."""
    folder = tmp_path_factory.mktemp("reviews")
    token = admin.create(f"{ENGINE}/token", {"spec": {}})["status"]["token"]
    kubeconfig = control_plane.kubeconfig(token, folder / "kubeconfig.json")
    cluster = connect(str(kubeconfig), None)
    return Counted(lambda: cluster, AUDIENCE)


class Port(Admin):
    """An admin port with an operators file that links one Kubernetes user."""

    def __init__(self, tmp_path, reviews, accounts):
        self.file = tmp_path / "operators"
        self.prefix = f"kubernetes:system:serviceaccount:{accounts.namespace}:"
        self.file.write_text(f"ada operate {digest('ada')}\nboss operate {self.prefix}alice\n")
        self.seconds = 0.0
        own = f"system:serviceaccount:{accounts.namespace}:engine"
        operators = KubernetesOperators(
            reviews, OperatorsFile(self.file), own, clock=lambda: self.seconds
        )
        super().__init__(tmp_path, operators)
        self.operators = operators

    def close(self):
        self.operators.close()
        self.reloader.stop()
        self.journal.close()


@pytest.fixture
def port(tmp_path, reviews, accounts):
    made = Port(tmp_path, reviews, accounts)
    yield made
    made.close()


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_the_api_server_decides_what_a_user_may_do(port, accounts):
    run = port.hold()

    def post(name, command):
        headers = JSON | bearer(accounts(name))
        return port.post(f"/runs/{run}/{command}", client=AWAY, headers=headers)

    assert port.get("/runs", AWAY, headers=bearer(accounts("vic")))[0] == 200
    for name, verb in (("vic", "approve"), ("ann", "deny"), ("mallory", "approve")):
        status, _, said = post(name, verb)
        assert (status, said["error"]) == (
            403,
            f"system:serviceaccount:{accounts.namespace}:{name} must not {verb} runs",
        )
        assert verb in said["hint"]
    assert port.journal.counts()["held"] == 1
    assert post("ann", "approve")[0] == 200
    assert port.moments[-1].by == f"{port.prefix}ann"


def test_a_line_of_the_operators_file_names_a_user_and_limits_the_role(port, accounts):
    headers = JSON | bearer(accounts("alice"))
    assert port.post("/pause", client=AWAY, headers=headers)[0] == 200
    assert port.journal.paused()["*"].by == "boss"
    port.file.write_text(f"ada operate {digest('ada')}\nboss view {port.prefix}alice\n")
    status, _, said = port.post("/resume", client=AWAY, headers=headers)
    assert (status, said["error"]) == (403, "boss has the role view, which does not allow commands")
    assert port.post("/resume", client=AWAY, headers=JSON | operator("ada"))[0] == 200


def test_other_tokens_give_no_access(port, accounts, reviews):
    wrong = accounts("alice")
    tokens = {
        "for another audience": accounts("alice", "another"),
        "for the API server": accounts("alice", None),
        "of the engine itself": accounts("engine"),
        "changed": wrong[:-4] + ("AAAA" if wrong[-4:] != "AAAA" else "BBBB"),
        "unknown": "x" * 40,
    }
    for which, token in tokens.items():
        assert port.get("/status", AWAY, headers=bearer(token))[0] == 401, which
    before = reviews.calls
    for header in (
        "Bearer short",
        "Basic eDp5",
        "Bearer " + "x" * 17_000,
        "Bearer " + "x" * 20 + " " + "x" * 20,
    ):
        assert port.get("/status", AWAY, headers={"authorization": header})[0] == 401
    assert port.get("/status", AWAY)[0] == 403
    assert port.get("/status")[0] == 403  # also from this machine
    assert reviews.calls == before


def test_answers_are_cached_briefly_and_a_revoked_right_is_gone_after_that(
    port, accounts, reviews, admin
):
    headers, before = bearer(accounts("ann")), reviews.calls
    for _ in range(5):
        assert port.get("/status", headers=headers)[0] == 200
    assert reviews.calls == before + 2
    admin.delete(f"{RBAC}/clusterrolebindings/{accounts.namespace}-ann")
    user = f"system:serviceaccount:{accounts.namespace}:ann"
    wait_for_right(admin, user, "approve", RUNS, allowed=False)
    assert port.get("/status", headers=headers)[0] == 200
    port.seconds += kubernetes_operators.CACHE_SECONDS
    assert port.get("/status", headers=headers)[0] == 403
    bind(admin, accounts.namespace, "ann")


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(kubernetes_operators, "MAX_CACHED", 3)
    cache = kubernetes_operators._Cache(lambda: 0.0)
    for number in range(10):
        assert cache.get(str(number), lambda number=number: number) == number
        assert len(cache._values) <= 3


@pytest.mark.parametrize("case", ["without rights", "unreachable"])
def test_without_an_answer_of_the_api_server_nothing_is_allowed(
    tmp_path, accounts, control_plane, case
):
    token = accounts("powerless", None)
    kubeconfig = control_plane.kubeconfig(token, tmp_path / "kubeconfig.json")
    if case == "unreachable":
        text = kubeconfig.read_text().replace(control_plane.server, "https://127.0.0.1:1")
        kubeconfig.write_text(text)
    cluster = connect(str(kubeconfig), None)
    port = Port(tmp_path, AccessReviews(lambda: cluster, None), accounts)
    try:
        status, _, said = port.get("/status", headers=bearer(accounts("alice", None)))
        assert status == 503
        assert said["error"].startswith("nothing is allowed without the API server's answer")
        assert ("tokenreviews" in said["error"]) == (case == "without rights")
        assert port.get("/status", headers=operator("ada"))[0] == 200
    finally:
        port.close()
