"""pod.isolate and pod.block with every provider, on a real API server with the real kinds and exact rights."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from engine.actions.detach import REMOVED_LABELS
from engine.actions.quarantine import QUARANTINE
from engine.actions.rbac import rights, roles
from engine.actions.registry import load_actions
from engine.cluster.api import CallRecorder
from engine.cluster.client import connect
from engine.cluster.label_selectors import matches, parse_selector
from engine.cluster.policy_providers.registry import PROVIDERS
from engine.cluster.undo import EXPIRES_AT
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.model.event import parse_event
from engine.outbound.api import RequestRecorder
from tests.cluster.accounts import create_account, token_of, wait_for_right
from tests.cluster.custom_kinds import POLICIES
from tests.contracts.test_actions import claim_of
from tests.support.fakes import FakeAttemptStore, FakeHttpClient

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.api import Api

pytestmark = pytest.mark.cluster
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ISOLATE, BLOCK = load_actions()["pod.isolate"], load_actions()["pod.block"]
ALLOW = {
    "dns": True, "cidrs": ["192.0.2.0/24", "2001:db8::/32"], "namespaces": ["kube-system", "monitoring"],
    "ports": [443, 8443],
}  # fmt: skip
every_provider = pytest.mark.parametrize("provider", PROVIDERS)


@dataclass
class Site:
    """A namespace of the API server, and accounts with exactly the rights of a step."""

    admin: Api
    control_plane: Any
    folder: Path
    namespace: str
    accounts: dict[frozenset[tuple[str, str]], Any] = field(default_factory=dict)

    def pod(self, **labels: str) -> Any:
        """Create a pod without a controller."""
        spec = {"containers": [{"name": "c", "image": "nginx"}]}
        metadata = {"name": f"web-{secrets.token_hex(3)}", "labels": labels}
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return self.admin.create(path, {"metadata": metadata, "spec": spec})

    def read(self, pod: Any) -> Any:
        """Read the pod again."""
        return self.admin.get(f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}")

    def cluster(self, needed: frozenset[tuple[str, str]]) -> Any:
        """Return the cluster as an account with these rights, and with no other."""
        if needed not in self.accounts:
            self.accounts[needed] = self._account(needed)
        return self.accounts[needed]

    def _account(self, needed: frozenset[tuple[str, str]]) -> Any:
        name = f"{self.namespace}-{len(self.accounts)}"
        create_account(self.admin, self.namespace, name)
        (role,) = roles(needed, name, namespaced=False)
        self.admin.create(f"{RBAC}/clusterroles", role)
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
        self.admin.create(f"{RBAC}/clusterrolebindings", binding)
        for verb, resource in needed:
            user = f"system:serviceaccount:{self.namespace}:{name}"
            wait_for_right(self.admin, user, verb, resource)
        token = token_of(self.admin, self.namespace, name)
        return connect(str(self.control_plane.kubeconfig(token, self.folder / name)), None)

    def close(self) -> None:
        """Delete what is not in the namespace."""
        for number in range(len(self.accounts)):
            self.admin.delete(f"{RBAC}/clusterrolebindings/{self.namespace}-{number}")
            self.admin.delete(f"{RBAC}/clusterroles/{self.namespace}-{number}")
        self.admin.delete(f"/api/v1/namespaces/{self.namespace}")


@pytest.fixture(scope="module")
def site(admin, control_plane, tmp_path_factory):
    POLICIES.install(admin)
    namespace = f"policies-{secrets.token_hex(4)}"
    admin.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    found = Site(admin, control_plane, tmp_path_factory.mktemp("accounts"), namespace)
    yield found
    found.close()
    POLICIES.uninstall(admin)


class Holds:
    """The runs of one step on one pod, with their undo intents."""

    def __init__(self, site, action, pod, given):
        self.site, self.action, self.pod, self.given = site, action, pod, given
        self.store, self._numbers = FakeAttemptStore(), itertools.count()
        self.cluster = site.cluster(rights([self.claim().run.playbook]))

    def claim(self, run="event", given=None, **fields):
        metadata = self.pod["metadata"]
        names = {"k8s.ns.name": metadata["namespace"], "k8s.pod.name": metadata["name"]}
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        event = {"rule": "Terminal shell", "time": now, "output_fields": {**names, **fields}}
        given = self.given if given is None else given
        return claim_of(self.action, given, parse_event(event), run=run)

    def act(self, claim, *, dry=False):
        writes = self.cluster.with_dry_run() if dry else self.cluster
        clients = Clients(
            CallRecorder(self.cluster, writes), RequestRecorder(FakeHttpClient()), dry
        )
        now = datetime.now(UTC).timestamp()
        return attempt(claim, clients, GuardrailChecker(), now, self.store)

    def begin(self, given=None, **fields):
        """Run the step once more. Return its claim."""
        claim = self.claim(str(next(self._numbers)), given, **fields)
        outcome = self.act(claim)
        assert outcome.state == "done", outcome.message
        return claim

    def end(self, claim):
        undoing = self.store.undoing(claim)
        outcome = self.act(undoing)
        for _ in range(20):  # a controller may change the pod at the same time; the engine retries
            if outcome.state == "waiting":
                outcome = self.act(undoing)
        assert outcome.state == "undone", outcome.message
        self.store.let_go(undoing)
        return outcome.message


def path_of(call):
    """Return the path of the object that an apply creates."""
    namespace = f"/namespaces/{call.namespace}" if call.namespace else ""
    return f"/apis/{call.api_version}{namespace}/{call.resource}/{call.name}"


def content(pod):
    """Return what the engine may change in a pod. The test's kubelet sets the rest."""
    return {key: pod["metadata"].get(key) for key in ("labels", "annotations", "ownerReferences")}


STEPS = [
    pytest.param(ISOLATE, {}, id="isolate"),
    pytest.param(ISOLATE, {"allow": ALLOW}, id="isolate with exceptions"),
    pytest.param(BLOCK, {"destination": "2001:db8::7"}, id="block"),
    pytest.param(BLOCK, {"destination": "203.0.113.0/24", "ports": [443, 22]}, id="block ports"),
]


@every_provider
@pytest.mark.parametrize(("action", "given"), STEPS)
def test_the_server_stores_what_is_sent_and_two_runs_hold_it(site, action, given, provider):
    pod = site.pod(app="web")
    holds = Holds(site, action, pod, {**given, "provider": provider, "ttl": "1h"})
    planned = holds.act(holds.claim(), dry=True)
    assert planned.state == "planned", planned.message
    label, apply = planned.calls
    path = path_of(apply)
    assert site.admin.find(path) is None
    assert content(site.read(pod)) == content(pod)
    first, second = holds.begin(), holds.begin(given={**holds.given, "ttl": "2h"})
    policy = site.admin.get(path)
    # nothing was pruned: the kind has all of the fields; NetworkPolicies omit empty lists
    assert policy["spec"] == {k: v for k, v in apply.body["spec"].items() if v != []}
    value = label.body["metadata"]["labels"][QUARANTINE]
    assert site.read(pod)["metadata"]["labels"] == {"app": "web", QUARANTINE: value}
    assert value in str(policy["spec"])
    if apply.namespace:
        assert policy["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]
    holds.end(second)
    left = site.admin.get(path)
    assert left["spec"] == policy["spec"]
    assert (
        left["metadata"]["annotations"][EXPIRES_AT] < policy["metadata"]["annotations"][EXPIRES_AT]
    )
    assert QUARANTINE in site.read(pod)["metadata"]["labels"]
    third = holds.begin(given={**holds.given, "ttl": "3h"})  # the undo did not take over the field
    holds.end(first)
    holds.end(third)
    assert site.admin.find(path) is None
    assert content(site.read(pod)) == content(pod)


@every_provider
def test_each_run_of_a_block_ends_with_its_own_destination(site, provider):
    pod = site.pod(app="web")
    holds = Holds(site, BLOCK, pod, {"provider": provider, "ttl": "1h"})
    path = path_of(holds.act(holds.claim(**{"fd.rip": "198.51.100.1"}), dry=True).calls[1])
    one = holds.begin(**{"fd.rip": "198.51.100.1"})
    alone = site.admin.get(path)["spec"]
    six = holds.begin(**{"fd.name": "10.1.0.5:40000->[2001:db8::9]:443", "fd.lip": "10.1.0.5"})
    both = str(site.admin.get(path)["spec"])
    assert "198.51.100.1/32" in both
    assert "2001:db8::9/128" in both
    holds.end(six)
    assert site.admin.get(path)["spec"] == alone
    again = holds.begin(**{"fd.sip": "2001:db8::9"})
    holds.end(one)
    left = str(site.admin.get(path)["spec"])
    assert "2001:db8::9/128" in left
    assert "198.51.100.1/32" not in left
    holds.end(again)
    assert site.admin.find(path) is None
    assert content(site.read(pod)) == content(pod)


@every_provider
def test_an_object_of_the_name_that_is_not_ours_is_left_alone(site, provider):
    pod = site.pod(app="web")
    for action, more in ((ISOLATE, {}), (BLOCK, {"destination": "192.0.2.7"})):
        holds = Holds(site, action, pod, {**more, "provider": provider})
        apply = holds.act(holds.claim(), dry=True).calls[1]
        collection = path_of(apply).rpartition("/")[0]
        metadata = {"name": apply.name, "labels": {"app": "theirs"}}
        theirs = site.admin.create(collection, {**apply.body, "metadata": metadata})
        outcome = holds.act(holds.claim())
        assert outcome.state == "failed"
        assert "not created by Tiercel" in outcome.message
        assert site.admin.get(path_of(apply)) == theirs
        assert content(site.read(pod)) == content(pod)
        site.admin.delete(path_of(apply))


def test_auto_takes_the_first_kind_that_is_served_and_reports_it(site):
    holds = Holds(site, ISOLATE, site.pod(app="web"), {"provider": "auto", "ingress": "keep"})
    claim = holds.claim()
    outcome = holds.act(claim)
    assert outcome.state == "done", outcome.message
    assert outcome.message.endswith("(provider: cluster)")
    assert outcome.answer["provider"] == "cluster"
    holds.end(claim)
    holds.cluster = site.cluster(holds_without(holds, "clusternetworkpolicies"))
    assert "missing right: get" in holds.act(holds.claim(run="b")).message


def holds_without(holds, resource):
    needed = rights([holds.claim().run.playbook])
    return frozenset(right for right in needed if not right[1].startswith(resource))


def test_a_block_of_calico_leaves_the_rest_to_the_policies_that_select_the_pod(site):
    pod = site.pod(app="calico")
    holds = Holds(site, BLOCK, pod, {"provider": "calico", "destination": "192.0.2.7"})
    deny = {"action": "Deny", "destination": {"nets": ["192.0.2.7/32"]}}

    def planned():
        outcome = holds.act(holds.claim(), dry=True)
        return outcome.calls[1].body["spec"]["egress"] if outcome.calls else outcome.message

    assert planned() == [deny, {"action": "Allow"}]
    collection = "/apis/crd.projectcalico.org/v1/globalnetworkpolicies"
    name = f"gnp-{site.namespace}"
    spec = {"selector": f"app == 'calico' && projectcalico.org/namespace == '{site.namespace}'"}
    egress = {"types": ["Egress"], "egress": [{"action": "Allow"}]}
    site.admin.create(collection, {
        "apiVersion": "crd.projectcalico.org/v1", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": name}, "spec": {**spec, **egress},
    })  # fmt: skip
    assert planned() == [deny]
    site.admin.patch(f"{collection}/{name}", {"spec": {"selector": "app ==="}})
    assert "not known whether it selects" in planned()
    site.admin.patch(f"{collection}/{name}", {"spec": {"selector": "app == 'other'"}})
    assert planned() == [deny, {"action": "Allow"}]
    site.admin.delete(f"{collection}/{name}")


@pytest.fixture
def deployment(site):
    """A Deployment with one pod that a Service and a NetworkPolicy select."""
    name = f"app-{secrets.token_hex(3)}"
    labels = {"app": name, "tier": "front"}
    containers = [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}]}]
    spec = {
        "replicas": 1, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
    }  # fmt: skip
    home = f"/apis/apps/v1/namespaces/{site.namespace}/deployments"
    site.admin.create(home, {"metadata": {"name": name}, "spec": spec})
    service = {"selector": {"tier": "front"}, "ports": [{"port": 80}]}
    core = f"/api/v1/namespaces/{site.namespace}"
    site.admin.create(f"{core}/services", {"metadata": {"name": name}, "spec": service})
    policies = f"/apis/networking.k8s.io/v1/namespaces/{site.namespace}/networkpolicies"
    wide = {
        "podSelector": {"matchLabels": {"app": name}},
        "policyTypes": ["Egress"],
        "egress": [{}],
    }
    site.admin.create(policies, {"metadata": {"name": name}, "spec": wide})
    site.admin.wait_for(f"{home}/{name}", lambda it: it["status"].get("readyReplicas") == 1)
    yield pods_of(site, name)[0]
    site.admin.delete(f"{policies}/{name}")
    site.admin.delete(f"{core}/services/{name}")
    site.admin.delete(f"{home}/{name}")


def pods_of(site, app):
    path = f"/api/v1/namespaces/{site.namespace}/pods?labelSelector=app%3D{app}"
    return [it for it in site.admin.list(path) if "deletionTimestamp" not in it["metadata"]]


def test_a_detached_pod_is_replaced_and_stays_until_undo_returns_it(site, deployment):
    pod, app = deployment, deployment["metadata"]["labels"]["app"]
    additive = Holds(site, ISOLATE, pod, {"ingress": "keep"})
    open_ = additive.act(additive.claim(run="additive"))
    assert (open_.state, "detach: true" in open_.message) == ("failed", True), open_.message
    additive.end(additive.claim(run="additive"))
    holds = Holds(site, ISOLATE, pod, {"ingress": "keep", "detach": True, "ttl": "1h"})
    first, second = holds.begin(), holds.begin()
    found = site.read(pod)["metadata"]
    assert found["labels"].keys() == {QUARANTINE}
    removed = pod["metadata"]["labels"]
    assert (
        f'"pod-template-hash": "{removed["pod-template-hash"]}"'
        in found["annotations"][REMOVED_LABELS]
    )
    home = f"/api/v1/namespaces/{site.namespace}/pods"
    site.admin.wait_for(
        f"{home}?labelSelector=app%3D{app}",
        lambda it: (
            [p["metadata"]["uid"] for p in it["items"]] not in ([], [pod["metadata"]["uid"]])
        ),
    )
    site.admin.wait_for(
        f"{home}/{pod['metadata']['name']}", lambda it: not it["metadata"].get("ownerReferences")
    )
    holds.end(first)
    assert site.read(pod)["metadata"]["labels"].keys() == {QUARANTINE}
    holds.end(second)
    back = site.read(pod)["metadata"]
    assert back["labels"] == removed
    assert REMOVED_LABELS not in (back.get("annotations") or {})


def test_owner_selects_also_the_pods_that_replace_the_pod(site, deployment):
    pod, app = deployment, deployment["metadata"]["labels"]["app"]
    holds = Holds(site, ISOLATE, pod, {"egress": "keep", "selector": "owner"})
    claim = holds.claim()
    outcome = holds.act(claim)
    assert outcome.state == "done", outcome.message
    (apply,) = outcome.calls  # nothing is labelled
    policy = site.admin.get(path_of(apply))
    (owner,) = policy["metadata"]["ownerReferences"]
    assert owner["uid"] == pod["metadata"]["ownerReferences"][0]["uid"]
    site.admin.delete(f"/api/v1/namespaces/{site.namespace}/pods/{pod['metadata']['name']}")
    site.admin.wait_for(
        f"/api/v1/namespaces/{site.namespace}/pods?labelSelector=app%3D{app}",
        lambda it: {p["metadata"]["uid"] for p in it["items"]} - {pod["metadata"]["uid"]},
    )
    selector = parse_selector(policy["spec"]["podSelector"])
    (replacement,) = (
        p for p in pods_of(site, app) if p["metadata"]["uid"] != pod["metadata"]["uid"]
    )
    assert matches(selector, replacement["metadata"]["labels"])
    assert site.admin.find(path_of(apply)) is not None
    holds.end(claim)
    assert site.admin.find(path_of(apply)) is None


def test_match_labels_select_what_they_say_and_nothing_owns_the_policy(site):
    pod = site.pod(app="shop", tier="back")
    given = {"selector": {"matchLabels": {"app": "shop"}}, "ttl": "1h"}
    holds = Holds(site, ISOLATE, pod, given)
    claim = holds.claim()
    (apply,) = holds.act(claim).calls
    policy = site.admin.get(path_of(apply))
    assert policy["spec"]["podSelector"] == {"matchLabels": {"app": "shop"}}
    assert "ownerReferences" not in policy["metadata"]
    holds.end(claim)
    assert site.admin.find(path_of(apply)) is None
    other = Holds(site, ISOLATE, pod, {"selector": {"matchLabels": {"app": "other"}}})
    assert other.act(other.claim()).state == "refused"
