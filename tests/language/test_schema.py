from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
from engine.actions.registry import load_actions
from engine.language import schema as described
from engine.language.folder import Files
from engine.language.json_schema import schema
from engine.language.yaml_source import read
from engine.model.playbook import Guardrails

from tests.language.test_loader import files
from tests.support.json_schema import language_validator
from tests.support.playbooks import new_loader

ROOT = Path(__file__).parents[2]
GOOD = {
    "apiVersion": "tiercel.dev/v1",
    "kind": "Playbook",
    "metadata": {"name": "good", "labels": {"team": "platform"}},
    "spec": {
        "description": "Says what it does",
        "mode": "enforce",
        "match": {
            "rules": ["Terminal*"],
            "priority": "warning",
            "sources": ["syscall"],
            "tags": {"any": ["shell"], "none": ["test"]},
            "hostnames": ["worker-*"],
        },
        "conditions": [
            {"field": "k8s.ns.name", "notIn": ["kube-system"]},
            {"jsonPath": "$.tags[*]", "equals": "shell"},
            {"any": [{"field": "fd.sip", "cidr": ["10.0.0.0/8"]}]},
            {"not": {"all": [{"field": "proc.pname", "startswith": "apt"}]}},
        ],
        "throttle": {"key": ["k8s.ns.name"], "once": "10m"},
        "actions": [
            {"action": "pod.isolate", "with": {"ingress": "keep", "allow": {"dns": True}}},
            {
                "action": "pod.label",
                "name": "mark",
                "with": {"labels": {"quarantine": "true", "old": None}},
                "timeout": "500ms",
                "retry": {"attempts": 2, "delay": "1s", "maxDelay": "2h"},
                "onFailure": "continue",
                "when": [
                    {"field": "proc.name", "in": ["sh"]},
                    {"step": "pod.isolate", "is": ["done"]},
                ],
            },
        ],
        "finally": [{"action": "kubernetes.event", "with": {"message": "%rule"}}],
    },
}
SILENCE = {
    "apiVersion": "tiercel.dev/v1",
    "kind": "Silence",
    "metadata": {"name": "quiet"},
    "spec": {
        "match": {"tags": ["a"]},
        "until": "2026-12-24T00:00:00Z",
        "owner": "me",
        "comment": "why",
    },
}
GUARDRAILS = {
    "apiVersion": "tiercel.dev/v1",
    "kind": "Guardrails",
    "metadata": {"name": "default"},
    "spec": {
        "protected": {"namespaces": ["kube-*"], "labels": {"a": "b"}, "trustPodsIn": []},
        "budgets": [{"effect": "disrupt", "limit": 5, "per": "10m", "scope": "namespace"}],
        "maxEventAge": "5m",
    },
}


def set_at(document, path, value):
    changed = copy.deepcopy(document)
    inner = changed
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return changed


def codes_of(document):
    found = new_loader().load(Files("", files(a=document)))
    return [finding.code for finding in found.errors]


@pytest.mark.parametrize("document", [GOOD, SILENCE, GUARDRAILS], ids=lambda d: d["kind"])
def test_the_json_schema_and_check_accept_a_valid_document(document):
    assert not list(language_validator().iter_errors(document))
    assert not codes_of(document)


MISTAKES = [
    (GOOD, ("speck",), {}, "unknown-key"),
    (GOOD, ("apiVersion",), "tiercel.dev/v2", "bad-value"),
    (GOOD, ("kind",), "Playbok", "unknown-kind"),
    (GOOD, ("metadata", "nam"), "x", "unknown-key"),
    (GOOD, ("metadata", "labels", "number"), 5, "wrong-type"),
    (GOOD, ("spec", "mode"), "dryrun", "bad-value"),
    (GOOD, ("spec", "match"), {}, "empty-match"),
    (GOOD, ("spec", "match", "priorty"), "Warning", "unknown-key"),
    (GOOD, ("spec", "match", "rules"), "R", "wrong-type"),
    (GOOD, ("spec", "match", "tags"), {"some": ["a"]}, "unknown-key"),
    (GOOD, ("spec", "match", "tags"), 5, "wrong-type"),
    (GOOD, ("spec", "conditions", 0, "notin"), ["a"], "unknown-operator"),
    (GOOD, ("spec", "conditions", 0, "notIn"), "a", "wrong-type"),
    (GOOD, ("spec", "throttle", "onze"), "10m", "unknown-key"),
    (GOOD, ("spec", "actions", 1, "action"), "pod.lable", "unknown-action"),
    (GOOD, ("spec", "actions", 0, "with", "egres"), "deny", "bad-parameter"),
    (GOOD, ("spec", "actions", 0, "with", "allow", "dsn"), True, "bad-parameter"),
    (GOOD, ("spec", "actions", 1, "retry", "attempts"), "2", "wrong-type"),
    (GOOD, ("spec", "actions", 1, "retry", "attempts"), True, "wrong-type"),
    (GOOD, ("spec", "actions", 1, "onFailure"), "halt", "bad-value"),
    (GOOD, ("spec", "actions", 1, "onfailure"), "stop", "unknown-key"),
    (SILENCE, ("spec", "untill"), "2026-12-24T00:00:00Z", "unknown-key"),
    (GUARDRAILS, ("spec", "budgets", 0, "scope"), "galaxy", "bad-value"),
    (GUARDRAILS, ("spec", "budgets", 0, "limits"), 5, "unknown-key"),
]


@pytest.mark.parametrize(
    ("document", "path", "value", "code"),
    MISTAKES,
    ids=[f"{code} {'.'.join(map(str, path))}" for _, path, _, code in MISTAKES],
)
def test_the_json_schema_and_check_reject_a_mistake(document, path, value, code):
    wrong = set_at(document, path, value)
    assert list(language_validator().iter_errors(wrong))
    assert codes_of(wrong) == [code]


@pytest.mark.parametrize("key", ["apiVersion", "metadata", "spec"])
def test_a_missing_key_is_reported_at_its_mapping(key):
    wrong = {name: value for name, value in GOOD.items() if name != key}
    assert list(language_validator().iter_errors(wrong))
    assert codes_of(wrong) == ["missing-key"]


@pytest.mark.parametrize("kind", [None, [], {}, 5, True, "Nothing"], ids=repr)
def test_an_unknown_kind_is_reported(kind):
    (code,) = codes_of({**GOOD, "kind": kind})
    assert code == ("missing-key" if kind is None else "unknown-kind")


def test_the_json_schema_is_valid():
    validator = language_validator()
    validator.check_schema(validator.schema)


def test_a_placeholder_is_valid_in_place_of_any_value_except_in_tests():
    paths = [
        ("mode",), ("match", "rules"), ("match", "priority"), ("match", "tags"), ("conditions",),
        ("conditions", 0), ("conditions", 0, "notIn"), ("conditions", 2, "any", 0, "cidr", 0),
        ("throttle",), ("throttle", "once"), ("actions", 1, "timeout"),
        ("actions", 1, "retry", "attempts"), ("actions", 1, "onFailure"), ("actions", 0, "with"),
        ("actions", 0, "with", "ingress"), ("actions", 0, "with", "allow", "dns"),
        ("actions", 1, "with", "labels"), ("actions", 1, "when", 0, "in"), ("finally",),
    ]  # fmt: skip
    for path in paths:
        filled = set_at(GOOD, ("spec", *path), "${a.b}")
        assert not list(language_validator().iter_errors(filled)), path
        assert list(language_validator().iter_errors(set_at(GOOD, ("spec", *path), None))), path
    test = {**GOOD, "kind": "PlaybookTest", "spec": {"cases": "${cases}"}}
    assert list(language_validator().iter_errors(test))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("actions", 1, "timeout"), "10"), (("throttle", "once"), "0s"), (("match", "rules"), []),
        (("actions",), []), (("actions", 1, "retry", "attempts"), 0),
        (("actions", 0, "with", "ttl"), "1 hour"), (("actions", 0, "with"), {"allow": {"dns": "x"}}),
        (("throttle",), {}), (("throttle",), {"first": 5}), (("throttle",), {"within": "1m"}),
        (("throttle",), {"once": "1m", "first": 1}), (("throttle",), {"once": "1m", "within": "1m"}),
        (("throttle",), {"first": 1, "count": 1, "within": "1m"}),
        (("throttle",), {"first": 0, "within": "1m"}),
    ],
)  # fmt: skip
def test_the_json_schema_expresses_durations_limits_and_throttles(path, value):
    assert list(language_validator().iter_errors(set_at(GOOD, ("spec", *path), value)))


@pytest.mark.parametrize(
    "throttle",
    [
        {"once": "1m"}, {"first": 5, "within": "1m"}, {"count": 5, "within": "1m"},
        {"once": "1m", "key": ["k8s.pod.name"]}, "${throttle}",
    ],
)  # fmt: skip
def test_the_json_schema_accepts_every_form_of_a_throttle(throttle):
    assert not list(language_validator().iter_errors(set_at(GOOD, ("spec", "throttle"), throttle)))


def test_a_missing_action_is_reported_at_its_step():
    (error,) = language_validator().iter_errors(set_at(GOOD, ("spec", "actions", 0), {"name": "x"}))
    assert (error.json_path, error.message) == (
        "$.spec.actions[0]", "'action' is a required property",
    )  # fmt: skip


def test_the_json_schema_has_defaults_and_descriptions_of_actions():
    definitions = schema(load_actions())["$defs"]
    step = definitions["step"]["properties"]
    assert step["timeout"]["default"] == "30s"
    (delete,) = [one for one in step["action"]["else"]["anyOf"] if one["const"] == "pod.delete"]
    assert delete["description"] == load_actions()["pod.delete"].doc
    (then,) = [
        part["then"]["properties"]["with"]
        for part in definitions["step"]["allOf"]
        if part["if"]["properties"]["action"]["const"] == "http.request"
    ]
    assert then["else"]["properties"]["method"]["default"] == "POST"


def shipped():
    """Return every document of the language in the playbooks, examples and pages of the repository."""
    texts = {str(file): file.read_text() for file in sorted(ROOT.glob("playbooks/**/*.yaml"))}
    texts |= {str(file): file.read_text() for file in sorted(ROOT.glob("examples/**/*.y*ml"))}
    # its action is in a plugin; the tests of the plugin check its playbook
    texts = {file: text for file, text in texts.items() if "/action-plugin/" not in file}
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("playbooks/*.md")]:
        for number, block in enumerate(
            re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
        ):
            texts[f"{page.name} {number}"] = block
    for name, text in texts.items():
        if "apiVersion: tiercel.dev/v1" in text or name.endswith("kustomization.yaml"):
            yield from ((name, one.data) for one in read(text.encode(), name)[0])


def test_the_json_schema_accepts_every_document_of_the_repository():
    found = list(shipped())
    assert len(found) > 20
    wrong = [
        (name, error.json_path, error.message)
        for name, one in found
        for error in language_validator().iter_errors(one)
    ]
    assert wrong == []


def defaults(key):
    """Return a value with the default of each key of the schema that has one."""
    found = {name: one.default for name, one in key.keys.items() if one.default is not None}
    nested = {name: defaults(one) for name, one in key.keys.items() if one.keys}
    return found | {name: value for name, value in nested.items() if value}


def test_the_documented_defaults_are_those_in_force():
    playbook = {**GOOD, "spec": {"match": {"rules": ["R"]}, "actions": [{"action": "pod.delete"}]}}
    explicit = copy.deepcopy(playbook)
    explicit["spec"] |= {"mode": described.PLAYBOOK.keys["mode"].default}
    explicit["spec"]["actions"][0] |= defaults(described.STEP)
    assert set(explicit["spec"]["actions"][0]) == {"action", "timeout", "retry", "onFailure"}
    guardrails = {**GOOD, "kind": "Guardrails", "spec": {}}
    limits = {**guardrails, "spec": defaults(described.GUARDRAILS)}
    assert set(limits["spec"]) == {"maxEventAge", "holdFor"}

    [short] = new_loader().load(Files("", files(a=playbook, g=guardrails))).playbooks
    full = new_loader().load(Files("", files(a=explicit, g=limits)))
    step, given = short.steps[0], full.playbooks[0].steps[0]
    assert (given.retry, given.timeout, given.on_failure) == (
        step.retry,
        step.timeout,
        step.on_failure,
    )
    assert full.playbooks[0].mode == short.mode
    built_in = Guardrails()
    assert full.guardrails.max_event_age == built_in.max_event_age
    assert full.guardrails.hold_for == built_in.hold_for


def test_the_text_of_a_key_has_its_default():
    def keys(key):
        for one in key.keys.values():
            yield one
            yield from keys(one)

    having = [
        one
        for one in (*keys(described.STEP), *keys(described.GUARDRAILS))
        if one.default is not None
    ]
    assert len(having) == 9
    for one in having:
        text = str(one.default).lower() if isinstance(one.default, bool) else str(one.default)
        assert f"({text})" in one.doc, one.doc
