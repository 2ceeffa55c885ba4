"""What is in force: one element for each changed value, with the runs that need it."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest
from engine.cluster.api import DEPLOYMENT, NODE, POD
from engine.journal.records import ChangeInForce, RunFilter
from engine.model.calls import Kind, ObjectChange
from engine.render.in_force import describe, in_force_json, in_force_lines
from engine.render.text import wrap

NOW = 1_772_359_200.0
LABEL = ObjectChange(POD, "demo", "web", "u1", ("metadata", "labels", "seen"), "true", None)
NODE_TAINT = {"key": "q", "value": "x", "effect": "NoSchedule"}
ALL = RunFilter()


def change(number=1, of=LABEL, until=NOW + 60, **other):
    step = ChangeInForce(of, f"{number:032x}", f"p{number}", "mark", NOW + number, until, until)
    return replace(step, **other)


def test_the_runs_that_need_one_value_are_one_element_that_ends_with_the_last():
    (found,) = in_force_json([change(1), change(2, until=NOW + 90)], ALL)
    assert found["object"] == {
        "apiVersion": "v1", "kind": "Pod", "namespace": "demo", "name": "web", "uid": "u1",
    }  # fmt: skip
    assert (found["change"], found["path"]) == ("label seen=true", ["metadata", "labels", "seen"])
    assert (found["value"], found["before"]) == ("true", None)
    assert found["until"] == "2026-03-01T10:01:30Z"
    assert [one["playbook"] for one in found["runs"]] == ["p1", "p2"]
    (found,) = in_force_json([change(1), change(2, until=None)], ALL)
    assert (found["until"], found["runs"][1]["until"]) == (None, None)


def test_the_first_to_end_is_first_and_what_ends_on_request_is_last():
    others = [replace(LABEL, name=name, uid=name) for name in "abc"]
    changes = [change(1, others[0], None), change(2, others[1], NOW + 9), change(3, others[2], NOW)]
    assert [one["object"]["name"] for one in in_force_json(changes, ALL)] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (RunFilter(playbook="p2"), ["web"]),
        (RunFilter(namespace="other"), ["web2"]),
        (RunFilter(since=NOW + 3), ["web2"]),
        (RunFilter(playbook="p2", namespace="other"), []),
    ],
)
def test_a_filter_keeps_all_runs_of_a_value(wanted, names):
    there = replace(LABEL, namespace="other", name="web2", uid="u2")
    found = in_force_json([change(1), change(2), change(3, there)], wanted)
    assert [one["object"]["name"] for one in found] == names
    assert [len(one["runs"]) for one in found] == [2 if name == "web" else 1 for name in names]


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (LABEL, "label seen=true"),
        (replace(LABEL, put=None, before="x"), "removed label seen"),
        (replace(LABEL, path=("metadata", "annotations", "a"), put="b"), "annotation a=b"),
        (ObjectChange(Kind("v1", "configmaps", "ConfigMap"), "demo", "c"), "created"),
        (ObjectChange(NODE, None, "n", "u", ("spec", "unschedulable"), put=True), "unschedulable=true"),
        (ObjectChange(DEPLOYMENT, "demo", "d", "u", ("spec", "replicas"), None, 3), "replicas=0"),
        (
            ObjectChange(
                NODE, None, "n", "u", ("spec", "taints"), NODE_TAINT,
                item={"key": "q", "effect": "NoSchedule"},
            ),
            "taint q=x:NoSchedule",
        ),
    ],
)  # fmt: skip
def test_a_change_is_described_in_a_few_words(of, text):
    assert describe(of) == text


def test_the_text_names_the_reason_of_a_waiting_undo_and_fits_a_narrow_terminal():
    refused = change(1, message="pods/web: 403 \x1b[2J forbidden", attempts=3)
    found = in_force_json([refused, change(2, until=None)], ALL)
    lines = list(map(click.unstyle, in_force_lines(found, 7)))
    assert lines[0] == "on request           pod demo/web  label seen=true"
    assert lines[1] == "    000000000000  p1  mark  until 2026-03-01 10:01:00"
    again = "not undone after 3 attempts, next attempt 2026-03-01 10:01:00"
    assert lines[2].startswith(f"        {again}: pods/web: 403 ")
    assert "\x1b" not in "".join(lines)
    assert lines[3] == "    000000000000  p2  mark  until `tiercel undo`"
    assert lines[-1] == "1 change in force of 7; --limit shows more."
    for line in lines:
        assert all(len(part) <= 40 for part in wrap(line, 40).split("\n"))


def test_nothing_in_force_is_said():
    assert list(in_force_lines([], 0)) == ["Nothing is in force."]
