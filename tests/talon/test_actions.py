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
        # Talon sends gracePeriodSeconds 0 and takes pods without a controller, where nothing says otherwise
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
def test_terminate_is_a_delete(given, wanted):
    assert parameters("kubernetes:terminate", **given)[:2] == ("pod.delete", wanted)


def test_a_networkpolicy_is_an_isolation_of_egress_with_dns_shut_as_in_talon():
    name, given, conversion = parameters(
        "kubernetes:networkpolicy",
        allow_cidr=["172.17.0.1/16", "192.168.1.0/24"],
        allow_namespaces=["green"],
    )
    allow = {"dns": False, "cidrs": ["172.17.0.0/16", "192.168.1.0/24"], "namespaces": ["green"]}
    assert (name, given) == ("pod.isolate", {"egress": "deny", "ingress": "keep", "allow": allow})
    assert any("all pods of the owner" in finding.what for finding in conversion.findings)


@pytest.mark.parametrize("actionner", ["kubernetes:label", "kubernetes:labelize"])
def test_an_empty_label_is_removed_and_a_boolean_is_text(actionner):
    _, given, conversion = parameters(
        actionner, level="node", labels={"a/b": True, "old": "", "n": 1, "p": "x"}
    )
    assert given == {"labels": {"a/b": "true", "old": None, "n": "1", "p": "x"}, "on": "node"}
    assert conversion.findings == ()


def test_a_percent_sign_is_no_template():
    _, given, _ = parameters("kubernetes:annotation", annotations={"why": "100%rule"})
    assert given == {"annotations": {"why": "100%%rule"}}


def test_ignored_errors_continue_and_what_follows_a_delete_is_left_out_as_it_never_ran():
    mark = action("kubernetes:label", "Mark", ignore_errors=True, parameters={"labels": {"a": "b"}})
    delete = action("kubernetes:terminate", "Kill")
    found, conversion = steps(mark, delete, mark)
    assert [(step["name"], step.get("onFailure")) for step in found] == [
        ("mark", "continue"), ("kill", None),
    ]  # fmt: skip
    assert any("never runs in Talon" in finding.what for finding in conversion.findings)
    found, conversion = steps(mark, delete | {"continue": True}, mark)
    assert [step["name"] for step in found] == ["mark", "kill", "mark-2"]
    assert conversion.findings == ()


@pytest.mark.parametrize("actionner", ACTIONNERS)
def test_what_has_no_action_yet_is_told_and_left_as_a_comment(actionner):
    given = {"command": "ps", "script": "ps", "file": "/x", "labels": {"a": "b"}}
    given["annotations"] = given["labels"]
    if actionner == "kubernetes:script":
        del given["file"]
    found, conversion = steps(
        action(actionner, parameters=given), action("kubernetes:label", "Mark", parameters=given)
    )
    carried = ACTIONNERS[actionner].action in {step["action"] for step in found}
    errors = [finding for finding in conversion.findings if finding.severity == "error"]
    assert carried is (not errors)
    if ACTIONNERS[actionner].action not in load_actions():
        assert errors[0].where.line == 1
        if "yet" in errors[0].what:
            assert (
                f"# - {{action: {ACTIONNERS[actionner].action}, name: act"
                in conversion.playbooks["r"]
            )


@pytest.mark.parametrize(
    ("actionner", "given", "told"),
    [
        ("kubernetes:exec", {"command": "cat ${FD_NAME}"}, "has a `$`"),
        ("kubernetes:script", {"file": "/x.sh"}, "in a file of Talon's container"),
        ("kubernetes:terminate", {"grace_period_seconds": "soon"}, "takes a whole number"),
        ("kubernetes:terminate", {"ignore_daemonsets": "maybe"}, "takes true or false"),
        ("kubernetes:terminate", {"min_healthy_replicas": "most"}, "a number or a percentage"),
        ("kubernetes:terminate", {"min_healthy_replicas": "130%"}, "pod.delete: `minReady`"),
        ("kubernetes:label", {}, "takes a mapping"),
        ("kubernetes:label", {"labels": {"a": "not a label"}}, "pod.label: `not a label`"),
        ("kubernetes:label", {"labels": {"a": ["b"]}}, "takes texts as values"),
        ("kubernetes:networkpolicy", {"allow_cidr": ["10.0.0.0"]}, "is no network"),
        ("kubernetes:networkpolicy", {"allow_cidr": "10.0.0.0/8"}, "takes a list of texts"),
        ("calico:networkpolicy", {"allow_cidr": ["10.0.0.0/8"]}, "cuts one destination"),
        ("kubernetes:tcpdump", {}, "image of Talon's choice"),
        ("aws:lambda", {"aws_lambda_name": "x"}, "cloud's credentials"),
        ("kubernetes:terminat", {}, "Talon has no actionner"),
    ],
)  # fmt: skip
def test_a_rule_that_keeps_no_action_is_left_out(actionner, given, told):
    found, conversion = steps(action(actionner, parameters=given))
    assert found == []
    assert conversion.playbooks == {}
    errors = [finding.what for finding in conversion.findings if finding.severity == "error"]
    assert any(told in what for what in errors)
    assert any("the rule is left out" in what for what in errors)


def test_a_parameter_that_talon_ignores_is_told_with_the_one_that_was_meant():
    _, given, conversion = parameters("kubernetes:terminate", ignoreDaemonsets=True)
    assert "skipKinds" not in given
    (finding,) = conversion.findings
    assert (finding.severity, finding.hint) == ("warning", "ignore_daemonsets")


def test_notifiers_are_told_at_the_end_or_lost_with_a_word():
    found, conversion = steps(
        action("kubernetes:terminate"),
        notifiers=["slack", "k8sevents", "loki", "slak"],
        phase="finally",
    )
    assert [step["action"] for step in found] == ["slack.post", "kubernetes.event"]
    told = {
        f.severity: f.hint for f in conversion.findings if "slak" in f.what or "slack" in f.what
    }
    assert told["error"] == "slack"
    assert "slack-webhook-url" in told["warning"]
    assert any("loki has no counterpart" in finding.what for finding in conversion.findings)


def test_a_rule_that_is_dry_in_talon_is_dry_here():
    assert "mode: dryRun" in steps(action("kubernetes:terminate"), dry_run=True)[1].playbooks["r"]
    assert "mode" not in steps(action("kubernetes:terminate"), dry_run="false")[1].playbooks["r"]
