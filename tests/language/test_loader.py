from __future__ import annotations

import copy

import pytest
import yaml
from engine.language import loader as loaders
from engine.language.folder import Files
from engine.model.errors import PlaybookError

from tests.support.json_schema import language_validator
from tests.support.playbooks import new_loader, playbook_from_snapshot

LABEL = [{"action": "pod.label", "with": {"labels": {"a": "b"}}}]


def files(**documents):
    return {
        f"{name}.yaml": yaml.safe_dump(document).encode() for name, document in documents.items()
    }


def playbook(name, kind="Playbook", **spec):
    spec = {"match": {"rules": ["R"]}, "actions": LABEL} | spec
    return copy.deepcopy(
        {"apiVersion": "tiercel.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    )


def reported(found):
    return [(f.where.file, f.where.line, f.code) for f in found.findings]


def load(**documents):
    return new_loader().load(Files("", files(**documents)))


def loaded(text, **more):
    return new_loader().load(Files("", {"a.yaml": text.encode(), **more}))


BASE = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: a}
spec:
  match: {rules: [R]}
  actions: [{action: pod.label, with: {labels: {a: b}}}]
"""


def test_each_mistake_of_a_folder_is_reported_once_at_its_place():
    text = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: A_b}
spec:
  match: {priority: Warnin, priorty: x}
  mode: on
  conditions:
    - {field: a, equal: 1}
    - {field: b, cidr: [10.0.0.1/8]}
  throttle: {once: ten}
  actions:
    - &x {action: pod.lable, timeout: 1:30}
    - {<<: *x, name: again}
    - {action: pod.label, with: {labels: {a: "%nothing"}}, tymeout: 3s}
    - {action: slack.post, with: {webhook: "https://hooks.slack.com/x", text: hi}}
---
kind: [Playbook]
---
- 1
---
a: [
"""
    other = BASE.replace("name: a", "name: A_b")
    found = loaded(text, **{"b.yaml": other.encode(), "values.yaml": b"[1]"})
    assert reported(found) == [
        ("a.yaml", 3, "bad-value"),
        ("a.yaml", 5, "bad-value"),
        ("a.yaml", 5, "unknown-key"),
        ("a.yaml", 6, "yaml-trap"),
        ("a.yaml", 8, "unknown-operator"),
        ("a.yaml", 9, "bad-cidr"),
        ("a.yaml", 10, "bad-duration"),
        ("a.yaml", 12, "unknown-action"),
        ("a.yaml", 12, "yaml-trap"),
        ("a.yaml", 14, "bad-template"),
        ("a.yaml", 14, "unknown-key"),
        ("a.yaml", 15, "literal-secret"),
        ("a.yaml", 17, "unknown-kind"),
        ("a.yaml", 19, "wrong-type"),
        ("a.yaml", 22, "yaml-syntax"),
        ("b.yaml", 3, "bad-value"),
        ("b.yaml", 3, "duplicate-name"),
        ("values.yaml", 1, "wrong-type"),
    ]
    assert not any("hooks.slack.com" in str(finding) for finding in found.findings)
    with pytest.raises(PlaybookError):
        found.usable()


def test_the_three_forms_of_a_throttle():
    def throttle(**given):
        (book,) = load(k=playbook("k", throttle=given)).playbooks
        return book.throttle.first, book.throttle.count, book.throttle.within

    assert throttle(once="10m") == throttle(first=1, within="10m") == (1, 0, 600.0)
    assert throttle(first=5, within="1m", key=["proc.name"]) == (5, 0, 60.0)
    assert throttle(count=5, within="1m") == (None, 5, 60.0)


WRONG_THROTTLES = [
    ({}, "missing-key"),
    ({"first": 5}, "missing-key"),
    ({"within": "1m"}, "missing-key"),
    ({"once": "1m", "first": 1}, "bad-value"),
    ({"once": "1m", "within": "1m"}, "bad-value"),
    ({"first": 1, "count": 1, "within": "1m"}, "bad-value"),
    ({"first": 0, "within": "1m"}, "bad-value"),
    ({"first": 1001, "within": "1m"}, "bad-value"),
    ({"first": True, "within": "1m"}, "wrong-type"),
]


@pytest.mark.parametrize(("throttle", "code"), WRONG_THROTTLES)
def test_any_other_form_of_a_throttle_is_an_error(throttle, code):
    errors = load(k=playbook("k", throttle=throttle)).errors
    assert [error.code for error in errors] == [code]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("match", "yes"),
        ("throttle", "on"),
        ("actions", "no"),
        ("finally", "off"),
        ("conditions", "y"),
        ("match", "{rules: yes}"),
        ("match", "{tags: {any: on}}"),
        ("match", "{priority: 010}"),
        ("throttle", "{count: 010, within: 1m}"),
        ("mode", "off"),
        ("match", "${none}"),
        ("throttle", "${none}"),
        ("actions", "[{action: pod.label, with: on, retry: no, when: y, name: off}]"),
        ("actions", "[{action: pod.isolate, with: {allow: on, egress: no}}]"),
    ],
)
def test_a_trap_or_a_missing_value_in_any_place_is_reported(key, value):
    spec = {"match": "{rules: [R]}", "actions": "[{action: kubernetes.event, with: {message: m}}]"}
    text = "apiVersion: tiercel.dev/v1\nkind: Playbook\nmetadata: {name: a}\nspec:\n"
    lines = [f"  {k}: {v}\n" for k, v in {**spec, key: value}.items()]
    found = loaded(text + "".join(lines))
    assert {f.code for f in found.errors} <= {"yaml-trap", "missing-value"}
    assert found.errors
    assert not found.playbooks


def test_a_mistake_behind_an_alias_is_reported_once():
    text = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: a}
spec:
  match: {rules: [R]}
  actions:
    - &x {action: pod.label, with: {labels: {a: yes}}, tymeout: 3s}
    - {<<: *x, name: b}
"""
    assert reported(loaded(text)) == [("a.yaml", 7, "yaml-trap"), ("a.yaml", 7, "unknown-key")]


def test_names_are_unique_per_kind_in_the_folder():
    test = {"apiVersion": "tiercel.dev/v1", "kind": "PlaybookTest", "metadata": {"name": "a"}}
    found = load(a=playbook("a"), b=playbook("a"), c={**test, "spec": {}}, d=playbook("d"))
    ((file, _, code),) = reported(found)
    assert (file, code) == ("b.yaml", "duplicate-name")


def test_there_is_one_guardrails_document():
    def guardrails(name):
        return {**playbook(name, "Guardrails"), "spec": {"maxEventAge": "5m"}}

    found = load(a=guardrails("a"), b=guardrails("b"))
    assert [(f.where.file, f.code) for f in found.errors] == [("b.yaml", "bad-value")]


def test_risky_playbooks_are_warnings():
    kill = [{"action": "pod.delete"}]
    found = load(k=playbook("k", actions=kill, match={"everything": True}))
    assert {f.code for f in found.findings} == {
        "no-throttle", "no-namespace", "matches-everything", "deletes-daemonset",
    }  # fmt: skip
    assert not found.errors
    kill = [{"action": "pod.delete", "with": {"skipKinds": ["DaemonSet"]}}]
    careful = [{"not": {"field": "k8s.ns.name", "in": ["x"]}}]
    assert not reported(
        load(k=playbook("k", actions=kill, throttle={"once": "1m"}, conditions=careful))
    )
    assert not reported(load(k=playbook("k", actions=kill, mode="disabled")))


@pytest.mark.parametrize(
    "generators",
    [
        b"5",
        b"[5, null, [a]]",
        b"[{files: 5}, {files: [1, null, [a], {b: c}]}]",
        b"[{files: {a: b}}]",
    ],
)
def test_a_kustomization_of_another_form_is_no_error(generators):
    kustomization = ("kustomization.yaml", b"configMapGenerator: " + generators)
    given = {"a.yaml": BASE.encode()}
    assert not new_loader().load(Files("", given, kustomization)).errors


def test_a_file_that_the_kustomization_does_not_list_is_a_warning():
    forgets = b"configMapGenerator: [{name: p, files: [a.yaml, sub/b.yaml=./c.yaml]}]\n"
    test = {**playbook("t", "PlaybookTest"), "spec": {}}
    given = files(a=playbook("a"), b=playbook("b"), c=playbook("c"), t=test, k={"kind": []})
    given.pop("k.yaml")
    found = new_loader().load(Files("", given, ("kustomization.yaml", forgets)))
    assert reported(found) == [("b.yaml", 1, "not-deployed")]


def test_values_are_substituted_in_playbooks_and_not_in_tests():
    book = playbook("${name}", description="in ${env}")
    test = {**playbook("t", "PlaybookTest"), "spec": {"cases": [{"event": "${not.this}"}]}}
    found = new_loader().load(Files("", files(a=book, t=test, values={"name": "p", "env": "prod"})))
    assert not found.findings
    assert (found.playbooks[0].name, found.playbooks[0].description) == ("p", "in prod")
    other = new_loader().load(
        Files("", files(a=book, values={"name": "p", "env": "prod"})),
        ("v.yaml", b"{name: q, env: test}"),
    )
    assert other.playbooks[0].name == "q"


def test_a_cached_load_equals_a_new_load():
    loader = new_loader()
    sets = [
        files(a=playbook("a"), b=playbook("b", description="${x}"), values={"x": "one"}),
        files(a=playbook("a"), b=playbook("b", description="${x}"), values={"x": "two"}),
        files(a=playbook("b"), b=playbook("b", description="${y}"), values={"x": "two"}),
        files(a=playbook("a")),
    ]
    for content in [*sets, *reversed(sets)]:
        warm, cold = loader.load(Files("f", content)), new_loader().load(Files("f", content))
        assert warm.findings == cold.findings
        assert [p.snapshot for p in warm.playbooks] == [p.snapshot for p in cold.playbooks]
        assert (warm.digest, warm.sources) == (cold.digest, cold.sources)


@pytest.mark.parametrize(("limit", "value"), [("MAX_EXPRESSIONS", 2), ("MAX_INSTRUCTIONS", 20)])
def test_the_number_and_size_of_expressions_per_folder_are_limited(monkeypatch, limit, value):
    """The file that exceeds a limit has a finding, also from the cache. Later files are not compiled."""
    monkeypatch.setattr(loaders, limit, value)
    condition = {"field": "proc.name", "regex": "a|bc"}
    content = files(**{n: playbook(n, conditions=[condition, condition]) for n in ("a", "b", "c")})
    one = new_loader()
    for _ in range(2):
        found = one.load(Files("", content))
        assert reported(found) == [("b.yaml", 1, "folder-limit")]
        assert [playbook.name for playbook in found.playbooks] == ["a", "b"]


def test_an_unchanged_file_is_not_compiled_again():
    loader = new_loader()
    first = loader.load(Files("", files(a=playbook("a"), b=playbook("b"))))
    second = loader.load(Files("", files(a=playbook("a"), b=playbook("b", mode="dryRun"))))
    assert second.playbooks[0] is first.playbooks[0]
    assert second.playbooks[1] is not first.playbooks[1]


def test_a_playbook_compiles_from_its_snapshot():
    number = int("9" * 1000)
    conditions = [{"field": "a", "gt": number}, {"field": "b", "equals": "%{x} ${y}$${z}"}]
    (book,) = load(a=playbook("a", conditions=conditions), values={"y": "why"}).playbooks
    again = playbook_from_snapshot(book.snapshot)
    assert again.snapshot == book.snapshot
    assert again.digest == book.digest
    assert again.steps == book.steps
    assert again.conditions[1].text == "b equals %{x} why${z}"


@pytest.mark.parametrize("name", ["", "A", "a..b", "-a", "a\nX: y", "ns/a", "ns:a", "a" * 254, 7])
def test_run_as_is_the_name_of_a_service_account(name):
    assert load(k=playbook("k", runAs="responder-payments.v2")).playbooks[0].run_as
    found = load(k=playbook("k", runAs=name))
    (finding,) = found.findings
    assert finding.code == ("wrong-type" if name == 7 else "bad-value")
    validator = language_validator()
    assert validator.is_valid(playbook("k", runAs="responder-payments.v2"))
    assert not validator.is_valid(playbook("k", runAs=name))


def test_the_values_of_a_subfolder_are_for_that_folder_alone():
    text = BASE.replace("a: b", 'a: "${label}"')
    nested = {"sub/a.yaml": text.encode(), "sub/values.yaml": b"label: own\n"}
    found = new_loader().load(Files("", {**nested, "values.yaml": b"label: whole\n"}))
    assert reported(found) == []
    assert b'"whole"' in found.playbooks[0].snapshot
    assert reported(new_loader().load(Files("", nested))) == [("sub/a.yaml", 6, "missing-value")]


@pytest.mark.parametrize(
    "text", [BASE, "apiVersion: tiercel.dev/v1\n", "kind: Playbok\n", "- 1\n", "a: [\n"]
)
def test_a_file_of_a_subfolder_that_is_named_like_values_is_read_if_it_is_not_a_mapping_of_values(
    text,
):
    found = new_loader().load(Files("", {"sub/values.yaml": text.encode()}))
    assert found.playbooks or found.findings


@pytest.mark.parametrize("source", ["syscalls", "", "syscall"])
def test_the_spellings_of_syscall_in_a_match_mean_syscall(source):
    (playbook,) = loaded(BASE.replace("{rules: [R]}", f"{{sources: ['{source}']}}")).playbooks
    assert playbook.match.sources == {"syscall"}


def test_a_budget_of_an_action_that_does_not_exist_is_a_warning():
    budget = {"effect": "disrupt", "limit": 5, "per": "10m", "scope": "cluster"}
    budget["actions"] = ["pod.delete", "pod.*", "pod.delte", "nope*"]
    found = load(g={**playbook("g", "Guardrails"), "spec": {"budgets": [budget]}})
    (finding,) = found.findings
    assert (finding.code, finding.hint, finding.severity) == (
        "unknown-action",
        "pod.delete",
        "warning",
    )


@pytest.mark.parametrize("key", ["owner", "comment"])
def test_a_silence_without_owner_or_comment_is_an_error(key):
    spec = {
        "match": {"everything": True},
        "until": "2026-12-24T00:00:00Z",
        "owner": "o",
        "comment": "c",
    }
    assert not load(s={**playbook("s", "Silence"), "spec": spec}).errors
    (error,) = load(s={**playbook("s", "Silence"), "spec": spec | {key: " "}}).errors
    assert error.code == "bad-value"
