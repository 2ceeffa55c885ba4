"""The registry of actions, and the documentation that is generated from it."""

from __future__ import annotations

from pathlib import PurePath

import pytest
from engine.actions.composite_parameters import Record
from engine.actions.registry import REGISTRY, action, load_actions
from engine.render.reference import action_lines
from tests.contracts.test_actions import act, claim_of, world


def lines(name):
    return list(action_lines(load_actions()[name]))


def test_keys_of_a_record_are_listed_below_it():
    text = lines("pod.isolate")
    allow = load_actions()["pod.isolate"].parameters["allow"].type
    at = next(n for n, line in enumerate(text) if line.startswith("  allow: "))
    assert [line.split(":")[0] for line in text[at + 1 : at + 5]] == [
        "    dns", "    cidrs", "    namespaces", "    ports",
    ]  # fmt: skip
    assert list(allow.docs) == list(allow.keys)


def test_keys_of_a_record_are_listed_also_if_it_is_an_alternative_to_words():
    text = lines("pod.isolate")
    at = next(n for n, line in enumerate(text) if line.startswith("  selector: "))
    assert text[at + 1].startswith("    matchLabels: ")


def test_every_key_of_a_record_is_documented():
    kinds = [one.type for known in load_actions().values() for one in known.parameters.values()]
    for kind in kinds:
        if isinstance(kind, Record):
            assert kind.keys.keys() == kind.docs.keys()


def test_parameter_of_an_unknown_type_raises_type_error():
    def wrong(*, where: PurePath) -> str:
        """Do nothing."""
        return str(where)

    wrong.__annotations__["where"] = PurePath
    with pytest.raises(
        TypeError, match=r"test\.wrong: the parameter `where` has the type .*PurePath"
    ):
        action("test.wrong", effect="mark")(wrong)
    assert "test.wrong" not in REGISTRY


def test_positional_parameter_with_an_unknown_name_raises_type_error():
    def wrong(deployment) -> str:
        """Do nothing."""
        return str(deployment)

    with pytest.raises(TypeError, match=r"test\.wrong: the positional parameter `deployment`"):
        action("test.wrong", effect="mark")(wrong)
    assert "test.wrong" not in REGISTRY


def test_action_can_act_on_the_node_of_the_event():
    def name_node(node) -> str:
        """Return the name of the node."""
        return node["metadata"]["name"]

    action("test.name", effect="mark")(name_node)
    try:
        known = REGISTRY["test.name"]
        assert known.target("mark") == known.target("disrupt") == "node"
        assert act(world(), claim_of(known)).message == "worker-1"
    finally:
        del REGISTRY["test.name"]
