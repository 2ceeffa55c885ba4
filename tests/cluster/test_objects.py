"""Files of objects: `kubectl get -o yaml`, `-o json`, lists of every kind, and invalid files."""

from __future__ import annotations

import json

import pytest
from engine.cluster import objects
from engine.cluster.api import DEPLOYMENT, NAMESPACE, NETWORK_POLICY, NODE, POD
from engine.cluster.objects import InvalidObjectError, read_objects
from engine.cluster.simulated import StaticCluster

POD_TEXT = """\
apiVersion: v1
kind: Pod
metadata:
  name: web-0
"""


def test_a_file_of_several_kinds_is_read_as_the_server_wrote_it():
    dump = """\
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: v1
  kind: Pod
  metadata:
    name: web-0
    creationTimestamp: 2026-03-01T09:00:00Z
    labels: null
    managedFields: [{fieldsV1: {"f:metadata": {".": {}}}}]
- apiVersion: monitoring.example.com/v1
  kind: AlertConfig
  metadata: {name: oncall, creationTimestamp: null}
  spec: {matchers: [{matchType: =, name: severity}]}
- apiVersion: example.com/v1
  kind: AllowList
  metadata: {name: custom}
"""
    pod, alerts, custom = read_objects(dump.encode())
    assert pod["metadata"]["creationTimestamp"] == "2026-03-01T09:00:00Z"
    assert alerts["spec"]["matchers"][0]["matchType"] == "="
    assert custom["kind"] == "AllowList"


def test_items_of_a_typed_list_have_its_kind():
    items = [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]
    typed = {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items}
    found = StaticCluster(read_objects(json.dumps(typed).encode()))
    assert [pod["metadata"]["name"] for pod in found.list(POD)] == ["a", "b"]
    assert read_objects(b'{"kind": "PodList", "items": null}') == []


def test_an_object_without_a_namespace_is_in_default_everywhere():
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    found = StaticCluster(
        [
            {"kind": "Pod", "metadata": {"name": "a"}},
            {"kind": "Pod", "metadata": {"name": "b", "namespace": None}},
            {**policy, "metadata": {"name": "p", "namespace": ""}},
            {"kind": "Node", "metadata": {"name": "n"}},
        ]
    )
    assert found.get(POD, "a", "default")["metadata"]["namespace"] == "default"
    assert [pod["metadata"]["namespace"] for pod in found.list(POD)] == ["default", "default"]
    assert len(found.list(NETWORK_POLICY, "default")) == 1
    assert "namespace" not in found.get(NODE, "n")["metadata"]
    assert found.get(NAMESPACE, "any") is not None


def test_a_kind_of_another_group_is_another_kind():
    calico = {"apiVersion": "crd.projectcalico.org/v1", "kind": "NetworkPolicy"}
    older = {"apiVersion": "apps/v1beta2", "kind": "Deployment", "metadata": {"name": "web"}}
    found = StaticCluster([{**calico, "metadata": {"name": "p"}}, older, older])
    assert found.list(NETWORK_POLICY) == []
    assert len(found.list(DEPLOYMENT)) == 1


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (POD_TEXT + "  labels:\n    app: true\n", 6, "metadata.labels.app is `true`"),
        (POD_TEXT + "  labels:\n    tier: 5\n", 6, 'quote it: "5"'),
        (POD_TEXT + "  labels:\n    tier:\n", 6, "is `null`, which is not a string"),
        (POD_TEXT + "  labels:\n    1: x\n", 6, "metadata.labels.1 has a name that is not a"),
        (POD_TEXT + "  labels: [app]\n", 5, "metadata.labels is not a mapping"),
        (POD_TEXT + "  annotations: {a: 1.5}\n", 5, "metadata.annotations.a is `1.5`"),
        (POD_TEXT + "  namespace: 12\n", 5, "metadata.namespace is `12`"),
        (POD_TEXT + "  ownerReferences: {kind: a}\n", 5, "ownerReferences is not a list"),
        (POD_TEXT + "status: [ready]\n", 5, "status is not a mapping"),
        (POD_TEXT + "status: {conditions: [Ready]}\n", 5, "status.conditions.0 is not a mapping"),
        ("kind: Pod\nmetadata: {name: 5}\n", 2, "metadata.name is `5`"),
        ("kind: Pod\nmetadata: {}\n", 2, "`Pod` has no metadata.name"),
        ("kind: Pod\n", 1, "has no `kind` or no `metadata`"),
        ("kind: List\nitems:\n- metadata: {name: a}\n", 3, "has no `kind`"),
        ("kind: PodList\nitems: {a: b}\n", 2, "`items` of a List is not a list"),
        ("- a\n- text\n", 1, "an object must be a mapping"),
        ("a: [\n", 2, "neither JSON nor YAML"),
        ("a: !!python/object:x {}\n", 1, "could not determine a constructor"),
        ("[" * 100_000, 1, "nested deeper than 64 levels"),
    ],
)
def test_an_invalid_object_is_an_error_with_its_line(text, line, said):
    with pytest.raises(InvalidObjectError) as caught:
        read_objects(text.encode())
    assert said in str(caught.value)
    assert caught.value.line == line


@pytest.mark.parametrize(
    "text", ["&a [*a]", "- kind: Pod\n- &a {metadata: {name: *a}}", "&a {b: [*a]}"]
)
def test_an_alias_inside_its_own_anchor_is_an_error(text):
    with pytest.raises(
        InvalidObjectError, match="the alias \\*a is inside its own anchor"
    ) as error:
        read_objects(text.encode())
    assert error.value.line == text.count("\n") + 1


def test_values_with_aliases_count_for_each_use(monkeypatch):
    monkeypatch.setattr(objects, "MAX_VALUES", 200)
    levels = ["a0: &a0 [x, x, x]"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 3)}]" for n in range(1, 9)
    ]
    with pytest.raises(InvalidObjectError, match="more than 200 values with aliases written out"):
        read_objects("\n".join(levels).encode())


def test_a_file_has_a_size_limit(monkeypatch):
    monkeypatch.setattr(objects, "MAX_BYTES", 10)
    with pytest.raises(InvalidObjectError, match="larger than"):
        read_objects(b" " * 11)
