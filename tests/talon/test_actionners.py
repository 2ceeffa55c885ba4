from __future__ import annotations

import pytest
import yaml
from engine.actions.registry import load_actions
from engine.talon.actionners import ACTIONNERS

from tests.talon.reference import imported, loaded, rule


def action(actionner, name="Act", **more):
    return {"action": name, "actionner": actionner, **more}


def steps(*actions, phase="actions", **more):
    conversion = imported([rule(match={"rules": ["R"]}, **more) | {"actions": list(actions)}])
    loaded(conversion)
    document = yaml.safe_load(conversion.playbooks.get("r", "spec: {}"))
    return document["spec"].get(phase, []), conversion


def parameters(actionner, **given):
    (step,), conversion = steps(action(actionner, parameters=given))
    return step["action"], step.get("with"), conversion


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        # by default, Talon sends gracePeriodSeconds 0 and also deletes pods without a controller
        ({}, {"grace": 0, "onlyIfOwned": False}),
        ({"grace_period_seconds": 20}, {"grace": 20, "onlyIfOwned": False}),
        (
            {
                "ignore_daemonsets": True,
                "ignore_statefulsets": True,
                "ignore_standalone_pods": True,
            },
            {"grace": 0, "skipKinds": ["DaemonSet", "StatefulSet"]},
        ),
        ({"min_healthy_replicas": "33%"}, {"grace": 0, "onlyIfOwned": False, "minReady": "33%"}),
        ({"min_healthy_replicas": "2"}, {"grace": 0, "onlyIfOwned": False, "minReady": 2}),
    ],
)
def test_terminate_becomes_pod_delete(given, wanted):
    assert parameters("kubernetes:terminate", **given)[:2] == ("pod.delete", wanted)


def test_networkpolicy_becomes_an_isolation_of_egress_including_dns():
    name, given, conversion = parameters(
        "kubernetes:networkpolicy",
        allow_cidr=["172.17.0.1/16", "192.168.1.0/24"],
        allow_namespaces=["green"],
    )
    allow = {"dns": False, "cidrs": ["172.17.0.0/16", "192.168.1.0/24"], "namespaces": ["green"]}
    wanted = {"egress": "deny", "ingress": "keep", "allow": allow, "selector": "owner"}
    assert (name, given) == ("pod.isolate", wanted)
    assert any("a pod without an owner" in finding.what for finding in conversion.findings)


@pytest.mark.parametrize("actionner", ["kubernetes:label", "kubernetes:labelize"])
def test_an_empty_label_becomes_null_and_a_boolean_becomes_text(actionner):
    _, given, conversion = parameters(
        actionner, level="node", labels={"a/b": True, "old": "", "n": 1, "p": "x"}
    )
    assert given == {"labels": {"a/b": "true", "old": None, "n": "1", "p": "x"}, "on": "node"}
    assert conversion.findings == ()


def test_a_percent_sign_is_escaped():
    _, given, _ = parameters("kubernetes:annotation", annotations={"why": "100%rule"})
    assert given == {"annotations": {"why": "100%%rule"}}


def test_ignore_errors_continues_and_actions_after_a_delete_are_not_converted():
    mark = action("kubernetes:label", "Mark", ignore_errors=True, parameters={"labels": {"a": "b"}})
    delete = action("kubernetes:terminate", "Kill")
    found, conversion = steps(mark, delete, mark)
    assert [(step["name"], step.get("onFailure")) for step in found] == [
        ("mark", "continue"), ("kill", None),
    ]  # fmt: skip
    assert any("Talon never runs" in finding.what for finding in conversion.findings)
    found, conversion = steps(mark, delete | {"continue": True}, mark)
    assert [step["name"] for step in found] == ["mark", "kill", "mark-2"]
    assert conversion.findings == ()


@pytest.mark.parametrize("actionner", ACTIONNERS)
def test_a_step_without_an_action_in_this_version_becomes_a_comment(actionner):
    given = {"command": "ps", "script": "ps", "file": "/x", "labels": {"a": "b"}}
    given["annotations"] = given["labels"]
    if actionner == "kubernetes:script":
        del given["file"]
    found, conversion = steps(
        action(actionner, parameters=given), action("kubernetes:label", "Mark", parameters=given)
    )
    converted = ACTIONNERS[actionner].action in {step["action"] for step in found}
    errors = [finding for finding in conversion.findings if finding.severity == "error"]
    assert converted is (not errors)
    if ACTIONNERS[actionner].action not in load_actions():
        assert errors[0].where.line == 1
        if "this version" in errors[0].what:
            assert (
                f"# - {{action: {ACTIONNERS[actionner].action}, name: act"
                in conversion.playbooks["r"]
            )


@pytest.mark.parametrize(
    ("actionner", "given", "message"),
    [
        ("kubernetes:exec", {"command": "cat ${FD_NAME}"}, "contains a `$`"),
        ("kubernetes:script", {"file": "/x.sh"}, "a file in Talon's container"),
        ("kubernetes:terminate", {"grace_period_seconds": "soon"}, "takes a whole number"),
        ("kubernetes:terminate", {"ignore_daemonsets": "maybe"}, "takes true or false"),
        ("kubernetes:terminate", {"min_healthy_replicas": "most"}, "a number or a percentage"),
        ("kubernetes:terminate", {"min_healthy_replicas": "130%"}, "pod.delete: `minReady`"),
        ("kubernetes:label", {}, "takes a mapping"),
        ("kubernetes:label", {"labels": {"a": "not a label"}}, "pod.label: `not a label`"),
        ("kubernetes:label", {"labels": {"a": ["b"]}}, "takes texts as values"),
        ("kubernetes:networkpolicy", {"allow_cidr": ["10.0.0.0"]}, "is not a CIDR"),
        ("kubernetes:networkpolicy", {"allow_cidr": "10.0.0.0/8"}, "takes a list of texts"),
        ("calico:networkpolicy", {"allow_cidr": ["10.0.0.0/8"]}, "denies one destination"),
        ("kubernetes:tcpdump", {}, "an image that the rule does not name"),
        ("aws:lambda", {"aws_lambda_name": "x"}, "does not contain the URL of the function"),
        ("kubernetes:terminat", {}, "Talon does not have an actionner"),
    ],
)  # fmt: skip
def test_a_rule_without_a_convertible_action_is_not_converted(actionner, given, message):
    found, conversion = steps(action(actionner, parameters=given))
    assert found == []
    assert conversion.playbooks == {}
    errors = [finding.what for finding in conversion.findings if finding.severity == "error"]
    assert any(message in what for what in errors)
    assert any("the rule is not converted" in what for what in errors)


def test_a_parameter_that_talon_ignores_is_reported_with_the_most_similar_one():
    _, given, conversion = parameters("kubernetes:terminate", ignoreDaemonsets=True)
    assert "skipKinds" not in given
    (finding,) = conversion.findings
    assert (finding.severity, finding.hint) == ("warning", "ignore_daemonsets")


def test_notifiers_become_steps_of_finally_or_are_reported():
    found, conversion = steps(
        action("kubernetes:terminate"),
        notifiers=["slack", "k8sevents", "loki", "slak"],
        phase="finally",
    )
    assert [step["action"] for step in found] == ["slack.post", "kubernetes.event"]
    hints = {
        f.severity: f.hint for f in conversion.findings if "slak" in f.what or "slack" in f.what
    }
    assert hints["error"] == "slack"
    assert "slack-webhook-url" in hints["warning"]
    assert any("does not have the notifier loki" in finding.what for finding in conversion.findings)


def test_dry_run_becomes_mode_dry_run():
    assert "mode: dryRun" in steps(action("kubernetes:terminate"), dry_run=True)[1].playbooks["r"]
    assert "mode" not in steps(action("kubernetes:terminate"), dry_run="false")[1].playbooks["r"]
