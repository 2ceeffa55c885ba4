"""What is asked of every action; a new file in engine/actions is tested by being there."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
import yaml
from engine.actions.composite_parameters import ChoiceOr, Json, ListOf, MapOf, Record, SecretOr
from engine.actions.manifest import Manifest
from engine.actions.owners import OWNERS
from engine.actions.parameters import Choice, Text
from engine.actions.registry import load_actions
from engine.cluster.api import NAMESPACE, NODE, CallRecorder
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.language.findings import Findings
from engine.language.folder import Files
from engine.language.yaml_source import Document
from engine.model.event import parse_event
from engine.model.own_identity import OwnIdentity
from engine.model.playbook import Match, Playbook, Retry, Step
from engine.model.run import Claim, Run, run_id, undo_id
from engine.outbound.api import RequestRecorder
from tests.support.fakes import ApiServer, FakeAttemptStore, FakeHttpClient
from tests.support.json_schema import validator_of
from tests.support.playbooks import new_loader

ACTIONS = sorted(load_actions().values(), key=lambda action: action.name)
NOW = 1_772_359_201.0
CONTAINER = "0a1b2c3d4e5f"
ENGINE = {("get", "namespaces"), ("get", "nodes"), ("list", "pods")}
"""What the engine reads before any action: guardrails, and which pod is meant."""

HOSTILE = {
    "NUL": "a\0b",
    "newline": "a\nX-Evil: 1\r\n\r\nkind: Secret",
    "parent": "../../../kube-system/secrets",
    "dots": "..",
    "dot": ".",
    "long": "x" * 200_000,
    "right-to-left": "safe\u202egnp.exe\u2066",
    "rule": "%rule %{k8s.pod.name} %steps.a.state",
    "value": "${secret} $${x}",
    "host": "evil.example/?a=b#c@[::1]:80",
    "mention": "<!channel> <https://evil.example|ok> &",
    "quote": '"}}]\\"\u0085',
    "wide": "😀" * 5000,
    "empty": "",
}

every_action = pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
every_target = pytest.mark.parametrize(
    "action",
    [a for a in ACTIONS if {"pod", "subject"} & set(a.acts_with) and a.effect != "observe"],
    ids=lambda action: action.name,
)
every_undoable = pytest.mark.parametrize(
    "action", [a for a in ACTIONS if a.undoable], ids=lambda action: action.name
)


def reference(kind, name):
    api = OWNERS[kind].api_version
    return {"apiVersion": api, "kind": kind, "name": name, "uid": f"{name}-uid", "controller": True}


def owner(kind, name, *above):
    references = {"uid": f"{name}-uid", "ownerReferences": list(above)}
    metadata = {"name": name, "namespace": "demo", **references}
    status = {"readyReplicas": 3, "ready": 3, "numberReady": 3, "desiredNumberScheduled": 3}
    spec = {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}}
    return {"kind": kind, "metadata": metadata, "spec": spec, "status": status}


def a_pod(controller="ReplicaSet", **metadata):
    owners = [reference(controller, "web")] if controller else []
    return {
        "kind": "Pod",
        "metadata": {
            "name": "web-0",
            "namespace": "demo",
            "creationTimestamp": "2026-03-01T09:00:00Z",
            "labels": {"app": "web"},
            "ownerReferences": owners,
            **metadata,
        },
        "spec": {"nodeName": "worker-1", "containers": [{"name": "web"}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"containerID": f"containerd://{CONTAINER}{'0' * 52}"}],
        },
    }


def binding(kind, name, user="mallory", **metadata):
    """Return a RoleBinding or ClusterRoleBinding that names a user."""
    subjects = [{"kind": "User", "name": user}]
    role = {"kind": "ClusterRole", "name": "admin"}
    head = {"kind": kind, "metadata": {"name": name, **metadata}}
    return {**head, "roleRef": role, "subjects": subjects}


PROVIDERS = (
    "policy.networking.k8s.io/v1alpha2", "cilium.io/v2", "projectcalico.org/v3",
    "crd.projectcalico.org/v1",
)  # fmt: skip
"""The apiVersions of the kinds that may cut a pod off."""


def world(controller="ReplicaSet", pod=None, served=PROVIDERS):
    """A pod, the controller that owns it, what owns that, its node and its namespace."""
    above = {"ReplicaSet": "Deployment", "Job": "CronJob"}.get(controller)
    objects = [
        {"kind": "Namespace", "metadata": {"name": "demo"}},
        {"kind": "Node", "metadata": {"name": "worker-1"}, "spec": {}},
        {"kind": "NetworkPolicy", "metadata": {"name": "other", "namespace": "demo"}}
        | {"spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"]}},
        {"kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "demo"}},
        {"kind": "Service", "metadata": {"name": "settings", "namespace": "demo"}},
        binding("RoleBinding", "mallory", namespace="demo"),
        binding("ClusterRoleBinding", "mallory"),
        pod or a_pod(controller),
    ]
    if controller:
        objects.append(owner(controller, "web", *([reference(above, "app")] if above else [])))
    if above:
        objects.append(owner(above, "app"))
    server = ApiServer(*objects)
    server.served = set(served)
    return server


def alert(**fields):
    told = {"k8s.ns.name": "demo", "k8s.pod.name": "web-0", "proc.cmdline": "sh"}
    told |= {"ka.user.name": "mallory", "fd.rip": "198.51.100.7"}
    return parse_event(
        {
            "rule": "Terminal shell",
            "time": "2026-03-01T10:00:00Z",
            "hostname": "worker-1",
            "output_fields": {**told, **fields},
        }
    )


def audited(resource="configmaps", **fields):
    """Return an event of the audit log about an object."""
    told = {"resource": resource, "namespace": "demo", "name": "settings", **fields}
    return parse_event(
        {
            "rule": "Create Privileged ConfigMap",
            "time": "2026-03-01T10:00:00Z",
            "source": "k8s_audit",
            "output_fields": {f"ka.target.{key}": value for key, value in told.items()},
        }
    )


ON_THE_NODE = alert(**{"k8s.ns.name": None, "k8s.pod.name": None})


def compiled(action, given):
    findings = Findings(Document("a.yaml", None))
    return action.compile(given, ("with",), findings, ()), findings.entries


def approved(action):
    """Return the attempt state of an approved step, if the action waits for an approval."""
    waits = action.name == "approval.wait"
    return {"verdict": ["it", "approve", "alice", ""]} if waits else {}


def claim_of(action, given=None, event=None, **of):
    parameters, wrong = compiled(action, action.example if given is None else given)
    assert not wrong
    retry = Retry(unknown=of.pop("unknown", False))
    step = Step("it", action.name, parameters, effect=action.effect, retry=retry)
    event = event or (audited() if "resource" in action.acts_with else alert())
    run = Run(
        run_id(of.pop("run", "event"), "p"),
        Playbook("p", Match(), (step,)),
        event,
        NOW,
        "demo/web-0",
    )
    return Claim(run, 0, began=NOW, **of)


def act(server, claim, http=None, *, checker=None, store=None, cluster=None):
    """One live attempt. cluster: the client; by default a new one."""
    cluster = cluster or server.cluster
    clients = Clients(
        CallRecorder(cluster, cluster), RequestRecorder(http or FakeHttpClient()), dry=False
    )
    return attempt(claim, clients, checker or GuardrailChecker(), NOW, store or FakeAttemptStore())


def complete(server, claim, http=None, store=None):
    """Attempt the step until it is over. The kubelets remove the evicted pods in between."""
    store, calls = store or FakeAttemptStore(), ()
    while True:
        outcome = act(server, claim, http, store=store)
        calls += outcome.calls
        if claim.step.action != "node.drain" or outcome.state != "waiting":
            return replace(outcome, calls=calls)
        server.let_go()
        claim = replace(claim, attempt=claim.attempt + 1, attempt_state=dict(store.attempt_state))


def undo(server, claim, store):
    """One attempt to undo what the step of the claim has changed."""
    undoing = store.undoing(claim)
    outcome = act(server, undoing, store=store)
    if outcome.state == "undone":
        store.let_go(undoing)
    return outcome


def plan(server, claim, forward=None):
    """One attempt that must change nothing."""
    clients = Clients(CallRecorder(server.cluster, forward), RequestRecorder(), dry=True)
    return attempt(claim, clients, GuardrailChecker(), NOW)


def variants(action):
    """The example, and the example with every word that a choice knows."""
    yield dict(action.example)
    for name, parameter in action.parameters.items():
        if isinstance(parameter.type, (Choice, ChoiceOr)):
            for word in parameter.type.words:
                given = {**action.example, name: word}
                if not compiled(action, given)[1]:
                    yield given
    least = {n: action.example[n] for n, p in action.parameters.items() if p.required}
    if not compiled(action, least)[1]:
        yield least


def scenarios():
    """Servers and events that between them lead an action everywhere."""
    for controller in (*OWNERS, None):
        yield world(controller), alert()
    alone = world()
    alone.put(owner("ReplicaSet", "web"))
    yield alone, alert()
    yield world(), ON_THE_NODE
    yield world(), audited()
    yield world(), audited("services")
    for number in range(len(PROVIDERS) + 1):
        yield world(served=PROVIDERS[number:]), alert()
    by_container = {"k8s.ns.name": None, "k8s.pod.name": None, "container.id": CONTAINER}
    yield world(), alert(**by_container)


@every_action
def test_the_example_is_a_valid_step(action):
    spec = {
        "match": {"everything": True},
        "throttle": {"once": "1m"},
        "conditions": [{"field": "k8s.ns.name", "equals": "demo"}],
        "actions": [{"action": action.name, "with": dict(action.example)}],
    }
    head = {"apiVersion": "tiercel.dev/v1", "kind": "Playbook", "metadata": {"name": "p"}}
    text = yaml.safe_dump({**head, "spec": spec}).encode()
    found = new_loader().load(Files("", {"p.yaml": text}))
    assert not found.findings
    assert found.playbooks[0].steps[0].action == action.name


@every_action
def test_the_example_fits_the_schema_that_editors_get(action):
    validator = validator_of(action.schema())
    assert not list(validator.iter_errors(dict(action.example)))
    assert list(validator.iter_errors({**action.example, "no-such-key": 1}))


@every_action
def test_everything_an_author_writes_is_described(action):
    def docs(kind):
        if isinstance(kind, Record):
            yield from ((key, kind.docs.get(key)) for key in kind.keys)

    assert action.doc.split("\n")[0].rstrip().endswith(".")
    for parameter in action.parameters.values():
        assert parameter.doc, parameter.name
        for key, doc in docs(parameter.type):
            assert doc, key


@every_action
def test_it_asks_for_exactly_the_rights_it_declares(action):
    for given in variants(action):
        declared = action.needs(compiled(action, given)[0])
        asked = set()
        for server, event in scenarios():
            claim, store = claim_of(action, given, event), FakeAttemptStore()
            act(server, claim, store=store)
            act(server, claim, store=store)
            undo(server, claim, store)
            asked |= server.asked
        assert asked - ENGINE <= declared, given
        assert declared <= asked, given


@every_action
def test_a_dry_run_makes_the_calls_of_the_live_one_and_changes_nothing(action):
    for given in variants(action):
        for (planned_on, event), (live_on, _) in zip(scenarios(), scenarios(), strict=True):
            before = planned_on.state()
            planned = plan(planned_on, claim_of(action, given, event))
            asked = plan(
                planned_on, claim_of(action, given, event), planned_on.cluster.with_dry_run()
            )
            assert planned_on.state() == before
            assert not planned_on.wrote + planned_on.streams
            live = complete(live_on, claim_of(action, given, event))
            assert planned.calls == asked.calls == live.calls
            assert planned.requests == asked.requests == live.requests
            assert planned.message == asked.message
            assert live.message.startswith(planned.message)  # an answer has a status besides
            assert planned.state.replace("planned", "done") == live.state


@pytest.mark.parametrize(
    "action",
    [a for a in ACTIONS if {"cluster", "http"} & set(a.acts_with)],
    ids=lambda action: action.name,
)
def test_the_example_does_something(action):
    server, http = world(), FakeHttpClient()
    assert complete(server, claim_of(action), http).state == "done"
    assert server.wrote or http.sent or server.streams


@every_action
def test_what_is_run_twice_leaves_what_one_run_leaves(action):
    if not action.repeatable:
        http, server = FakeHttpClient(), world()
        outcome = act(server, claim_of(action, interrupted=True, attempt=2), http)
        assert (outcome.state, http.sent + server.streams) == ("failed", [])
        assert "may have run" in outcome.message
        again = act(server, claim_of(action, interrupted=True, attempt=2, unknown=True), http)
        assert (again.state, len(http.sent + server.streams)) == ("done", 1)
        assert again.message.endswith("an interrupted attempt may have run, too")
        return
    for given in variants(action):
        server, store = world(), FakeAttemptStore()
        store.attempt_state.update(approved(action))
        first = complete(
            server, claim_of(action, given, attempt_state=approved(action)), store=store
        )
        once = server.state()
        again = claim_of(
            action, given, attempt=2, interrupted=True, attempt_state=store.attempt_state
        )
        second = complete(server, again, store=store)
        assert server.state() == once
        assert (second.state, first.state) == ("done", "done")


def left(action, server):
    """Return what an undo restores. Evicted pods do not come back."""
    is_drain = action.name == "node.drain"
    return {k: v for k, v in server.state().items() if not is_drain or k[0] != "pods"}


@every_undoable
def test_undone_leaves_what_was_there_before(action):
    for given in variants(action):
        server, store = world(), FakeAttemptStore()
        before = left(action, server)
        claim = claim_of(action, given)
        act(server, claim, store=store)
        assert left(action, server) != before
        assert undo(server, claim, store).state == "undone"
        assert left(action, server) == before
        # and once more, after a crash: nothing is left to do
        assert undo(server, claim, store).state == "undone"
        assert left(action, server) == before


@every_undoable
def test_of_two_that_hold_a_thing_the_last_to_let_go_undoes_it(action):
    server, store = world(), FakeAttemptStore()
    before = left(action, server)
    pod = {"k8s.ns.name": None, "k8s.pod.name": None} if action.name == "node.drain" else {}
    claims = [claim_of(action, event=alert(**pod, **{"proc.pid": n}), run=str(n)) for n in (1, 2)]
    for claim in claims:
        act(server, claim, store=store)
        store.attempt_state.clear()  # each run has its own
    both = left(action, server)
    undo(server, claims[0], store)
    assert left(action, server) == both
    undo(server, claims[1], store)
    assert left(action, server) == before


@every_undoable
def test_a_pod_that_took_the_place_of_the_one_that_was_changed_is_not_changed_back(action):
    server, store = world(), FakeAttemptStore()
    claim = claim_of(action)
    act(server, claim, store=store)
    server.put(a_pod(uid="another", labels={"tiercel.dev/quarantine": "theirs"}))
    pod = copy.deepcopy(server.find("Pod", "web-0", "demo"))
    assert undo(server, claim, store).state == "undone"
    assert server.find("Pod", "web-0", "demo") == pod


@every_undoable
def test_undoing_waits_for_the_server_and_never_gives_up(action):
    server, store = world(), FakeAttemptStore()
    claim = claim_of(action)
    act(server, claim, store=store)
    server.answers = [(500, {})]
    outcome = act(server, replace(store.undoing(claim), attempt=99, answers=98), store=store)
    assert (outcome.state, outcome.retry_in is not None) == ("waiting", True)


CORDONED, LABELLED = ("spec", "unschedulable", True), ("metadata", "labels", {"team": "theirs"})
CACHED = {
    "node.cordon": ({}, ("Node", "worker-1"), CORDONED),
    "node.drain": ({}, ("Node", "worker-1"), CORDONED),
    "pod.label": ({"labels": {"team": "ours"}, "on": "node"}, ("Node", "worker-1"), LABELLED),
    "pod.annotate": (
        {"annotations": {"team": "ours"}, "on": "namespace"},
        ("Namespace", "demo"),
        ("metadata", "annotations", {"team": "theirs"}),
    ),
}
"""Action -> parameters, a changed object that clients cache, and what a person changes in it."""


def caching(server):
    """Return a client that has read the node and the namespace and caches them."""
    cluster = server.connect(cache_seconds=60.0)
    for kind, name in ((NODE, "worker-1"), (NAMESPACE, "demo")):
        assert cluster.get(kind, name) == cluster.get(kind, name)
    return cluster


@pytest.mark.parametrize("action", CACHED)
def test_an_undo_keeps_what_a_person_changed_just_before_the_step(action):
    given, where, (part, key, theirs) = CACHED[action]
    server, store, claim = world(), FakeAttemptStore(), claim_of(load_actions()[action], given)
    cluster = caching(server)
    server.find(*where).setdefault(part, {})[key] = theirs
    act(server, claim, store=store, cluster=cluster)
    assert act(server, store.undoing(claim), store=store, cluster=cluster).state == "undone"
    assert server.find(*where)[part][key] == theirs


@pytest.mark.parametrize("action", CACHED)
def test_another_replica_that_has_read_the_object_before_the_step_undoes_it(action):
    given, where, (part, key, _) = CACHED[action]
    server, store, claim = world(), FakeAttemptStore(), claim_of(load_actions()[action], given)
    before, other = server.find(*where)[part].get(key), caching(server)
    act(server, claim, store=store)
    assert server.find(*where)[part].get(key) != before
    assert act(server, store.undoing(claim), store=store, cluster=other).state == "undone"
    assert not server.find(*where)[part].get(key)


NOT_KUBERNETES = [b"", b"<html>Sign in</html>", b"[]", b"7", b"{}", b'{"metadata": []}',
                  b'{"metadata": {"name": "other"}, "items": 7}', b'{"items": [7]}']  # fmt: skip


@every_undoable
def test_an_undo_waits_for_an_answer_of_kubernetes(action):
    server, store = world(), FakeAttemptStore()
    claim = claim_of(action)
    act(server, claim, store=store)
    for server.body in NOT_KUBERNETES:
        outcome = act(server, store.undoing(claim), store=store)
        assert (outcome.state, outcome.error) == ("waiting", None)
    server.body = None
    assert act(server, store.undoing(claim), store=store).state == "undone"


@pytest.mark.parametrize(
    "action", [a for a in ACTIONS if "cluster" in a.acts_with], ids=lambda a: a.name
)
@pytest.mark.parametrize("methods", [{"GET"}, {"POST", "PATCH", "DELETE"}], ids=["reads", "writes"])
def test_an_answer_that_is_not_of_kubernetes_is_never_success(action, methods):
    for body in NOT_KUBERNETES:
        server = world()
        before = server.state()
        server.body, server.body_methods = body, methods
        outcome = act(server, claim_of(action))
        is_met = "GET" in methods or any(call.resource != "pods/exec" for call in outcome.calls)
        assert (outcome.state == "waiting") == is_met, (body, outcome.message)
        assert outcome.error is None
        assert server.state() == before


@every_undoable
def test_an_undo_that_is_not_allowed_waits_and_says_which_right_is_missing(action):
    server, store = world(), FakeAttemptStore()
    claim = claim_of(action)
    act(server, claim, store=store)
    server.answers = [(403, {})] * 9
    undoing = store.undoing(claim)
    first = act(server, undoing, store=store)
    assert (first.state, first.retry_in) == ("waiting", 5.0)
    assert "missing right: " in first.message
    assert act(server, replace(undoing, attempt=99), store=store).retry_in == 600.0
    server.answers = []
    assert act(server, undoing, store=store).state == "undone"


@every_undoable
def test_an_undo_after_an_undo_reports_the_same(action):
    server, store = world(), FakeAttemptStore()
    claim = claim_of(action)
    act(server, claim, store=store)
    undoing = store.undoing(claim)
    first = act(server, undoing, store=store)
    again = act(server, undoing, store=store)
    assert (again.state, "in the meantime" in again.message) == ("undone", False)
    # a destination is an annotation of the policy that holds it, so it is gone with the policy
    expected = re.sub(r"block\.\S+ of (\S+ \S+) removed", r"\1 is gone", first.message)
    assert again.message == expected.replace("deleted", "is gone")


@every_undoable
def test_what_somebody_else_changed_stays_and_is_reported(action):
    server, store = world(), FakeAttemptStore()
    claim = claim_of(action)
    act(server, claim, store=store)
    _, changes = store.intents[undo_id(claim.run.id, "it")]
    for change in changes:
        taken_over(server, change)
    before = server.state()
    outcome = undo(server, claim, store)
    assert (outcome.state, server.state()) == ("undone", before)
    assert outcome.message.count(" stays, because ") == len(changes)


def taken_over(server, change):
    """Give what a change sets another value, as a user with kubectl does."""
    item = server.find(change.kind.kind, change.name, change.namespace)
    if not change.path:
        item["metadata"]["labels"] = {"app": "theirs"}
        return
    *parents, last = change.path
    for key in parents:
        item = item.setdefault(key, {})
    if change.item:
        item[last] = [{**one, "value": "theirs"} for one in item[last]]
    elif isinstance(change.put, (bool, int)) or last == "replicas":
        item[last] = 7
    else:
        item[last] = "theirs"


COMPANIONS = {
    **{
        (f"pod.{name}", "artifact"): {"artifact": "s3://forensics/%proc.cmdline/out"}
        for name in ("exec", "logs", "capture", "debug")
    },
    ("slack.post", "channel"): {"webhook": None, "token": {"fromSecret": "bot"}},
    ("http.request", "auth"): {
        "headers": None,
        "auth": {"basic": {"username": "%proc.cmdline", "password": {"fromSecret": "p"}}},
    },
    ("http.request", "url"): {"url": "https://tickets.example.com/api/pods/%proc.cmdline/close"},
}
"""What a parameter must be written with, where the action's check asks for it."""


def templated(kind):
    """A value of the kind with an event's text wherever one may stand; None where none may."""
    if isinstance(kind, Text):
        return "%proc.cmdline"
    if isinstance(kind, (SecretOr, ChoiceOr)):
        return templated(kind.other)
    if isinstance(kind, Manifest):
        metadata = {"name": "incident", "namespace": "demo", "annotations": {"x": "%proc.cmdline"}}
        head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        return {**head, "data": {"command": "it ran %proc.cmdline"}}
    if isinstance(kind, ListOf):
        inner = templated(kind.item)
        return None if inner is None else [inner]
    if isinstance(kind, MapOf):
        inner = templated(kind.item)
        return None if inner is None else {"example.com": inner}
    if isinstance(kind, Json):
        return [{"type": "section", "text": "it says %proc.cmdline"}]
    if isinstance(kind, Record):
        return {k: v for k, inner in kind.keys.items() if (v := templated(inner))} or None
    return None


def with_event_text():
    for action in ACTIONS:
        for name, parameter in action.parameters.items():
            value = templated(parameter.type)
            if value is not None:
                more = COMPANIONS.get((action.name, name), {})
                given = {**action.example, name: value, **more}
                given = {k: v for k, v in given.items() if v is not None}
                yield pytest.param(action, given, id=f"{action.name} {name}")


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from strings(inner)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(("action", "given"), list(with_event_text()))
def test_hostile_text_ends_in_a_refusal_or_in_the_very_object_that_harmless_text_makes(
    action, given, text
):
    harmless, hostile = world(), world()
    harmless_outside, hostile_outside = FakeHttpClient(), FakeHttpClient()
    expected = complete(harmless, claim_of(action, given), harmless_outside)
    outcome = complete(
        hostile, claim_of(action, given, alert(**{"proc.cmdline": text})), hostile_outside
    )
    assert not hostile.refused
    if outcome.state == "refused":
        assert not hostile.wrote
        assert not hostile_outside.sent
        return
    assert outcome.state == expected.state, outcome
    assert hostile.wrote == harmless.wrote
    assert [path for path, _ in hostile.streams] == [path for path, _ in harmless.streams]
    assert hostile.objects.keys() == harmless.objects.keys()
    assert len(hostile_outside.sent) == len(harmless_outside.sent)
    for sent, meant in zip(hostile_outside.sent, harmless_outside.sent, strict=True):
        if action.name == "http.request":
            assert_same_place(sent, meant)
        assert not any("<!" in part or "<http" in part for part in slack_texts(action, sent))
    assert max(map(len, strings([call.body for call in outcome.calls])), default=0) < 5000


def slack_texts(action, sent):
    return strings(sent[0]) if action.name == "slack.post" else ()


def assert_same_place(sent, meant):
    here, there = urlsplit(sent[1]), urlsplit(meant[1])
    assert (here.scheme, here.netloc) == (there.scheme, there.netloc)
    assert here.path.count("/") == there.path.count("/")
    assert not {".", ".."} & set(map(unquote, here.path.split("/")))
    assert (here.query, here.fragment) == (there.query, there.fragment)
    assert sent[2].keys() == meant[2].keys()
    assert not any(set("\r\n\0") & set(v) for v in sent[2].values() if isinstance(v, str))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@every_target
def test_a_hostile_name_of_a_pod_is_never_asked_for(action, text):
    for fields in ({"k8s.pod.name": text}, {"k8s.ns.name": text}):
        server = world()
        before = server.state()
        outcome = act(server, claim_of(action, event=alert(**fields)))
        if text and "subject" not in action.acts_with:
            assert outcome.state == "skipped"
        if outcome.state != "done":
            assert server.state() == before
        assert set(server.wrote) <= {k for k in server.objects if k not in before}


@every_target
def test_an_object_of_the_name_that_is_not_ours_is_left_alone(action):
    tried = world()
    there = tried.state().keys()
    act(tried, claim_of(action))
    made = [copy.deepcopy(v) for k, v in tried.objects.items() if k not in there]
    for item in made:
        item["metadata"]["labels"] = {"app": "theirs"}
        item["metadata"]["annotations"] = {}
        item["metadata"].pop("uid")
        server = world()
        server.put(item)
        before = server.state()
        outcome = act(server, claim_of(action))
        assert server.state() == before
        assert outcome.state == "failed"
        assert "not created by Tiercel" in outcome.message


@every_action
def test_what_it_makes_carries_our_marks_and_nobody_elses(action):
    server = world()
    there = server.state().keys()
    claim = claim_of(action)
    act(server, claim)
    for key in server.objects.keys() - there:
        metadata = server.objects[key]["metadata"]
        assert metadata["labels"] == {
            "app.kubernetes.io/managed-by": "tiercel",
            "tiercel.dev/playbook": "p",
        }
        assert metadata["annotations"]["tiercel.dev/run"] == claim.run.id
        assert metadata["annotations"]["tiercel.dev/rule"] == "Terminal shell"
        assert not {"tiercel.dev/blob", "tiercel.dev/revision"} & metadata["annotations"].keys()


@every_action
def test_what_it_makes_carries_the_blob_and_the_revision_if_they_are_known(action):
    server = world()
    there = server.state().keys()
    claim = claim_of(action)
    blob, revision = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", "v1.2"
    playbook = replace(claim.run.playbook, blob=blob)
    run = msgspec.structs.replace(claim.run, playbook=playbook, revision=revision)
    act(server, replace(claim, run=run))
    for key in server.objects.keys() - there:
        annotations = server.objects[key]["metadata"]["annotations"]
        assert annotations["tiercel.dev/blob"] == blob
        assert annotations["tiercel.dev/revision"] == revision


@every_target
def test_a_pod_that_took_the_place_of_the_one_first_found_is_left_alone(action):
    server = world()
    before = server.state()
    outcome = act(server, claim_of(action, attempt_state={"uid": "the-one-before"}, attempt=2))
    assert outcome.state == "skipped"
    assert server.state() == before


@every_target
def test_a_pod_that_takes_the_place_at_the_last_moment_is_left_alone(action):
    server = world()
    server.interfere = lambda: server.put(a_pod(uid="another"))
    act(server, claim_of(action))
    assert server.find("Pod", "web-0", "demo") == {"apiVersion": "v1", **a_pod(uid="another")}


@every_target
def test_a_pod_that_terminates_is_left_alone(action):
    server = world(pod=a_pod(deletionTimestamp="2026-03-01T09:59:59Z"))
    before = server.state()
    assert act(server, claim_of(action)).state == "skipped"
    assert server.state() == before


def protected():
    label = {"tiercel.dev/protected": "true"}
    system = a_pod()
    system["metadata"]["namespace"] = "kube-system"
    there = alert(**{"k8s.ns.name": "kube-system"})
    yield "kube-system", world(pod=system), there, GuardrailChecker()
    server = world()
    server.put({"kind": "Namespace", "metadata": {"name": "demo", "labels": label}})
    yield "namespace by label", server, alert(), GuardrailChecker()
    server = world()
    server.put({"kind": "Node", "metadata": {"name": "worker-1", "labels": label}})
    yield "node by label", server, alert(), GuardrailChecker()
    mirror = a_pod(annotations={"kubernetes.io/config.mirror": "abc"})
    yield "mirror pod", world(pod=mirror), alert(), GuardrailChecker()
    yield "our own namespace", world(), alert(), GuardrailChecker(own=OwnIdentity("demo"))


@every_target
def test_what_is_protected_is_left_alone(action):
    for which, server, event, checker in protected():
        before = server.state()
        outcome = act(server, claim_of(action, event=event), checker=checker)
        assert outcome.state == "refused", which
        assert "protected" in outcome.message or "mirror" in outcome.message
        assert server.state() == before


@every_action
def test_a_server_that_is_down_uses_no_attempt_up(action):
    if "cluster" not in action.acts_with:
        return
    server = world()
    server.answers = [(503, {"Retry-After": "70"})]
    outcome = act(server, claim_of(action, answers=3))
    assert (outcome.state, outcome.answered) == ("waiting", False)
    assert outcome.retry_in >= 70
