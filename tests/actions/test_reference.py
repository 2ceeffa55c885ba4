"""The registry of actions, and the documentation that is made of it."""

from __future__ import annotations

from pathlib import PurePath

import pytest
from engine.actions.composite_parameters import Record
from engine.actions.registry import REGISTRY, action, load_actions
from engine.render.reference import action_lines


def lines(name):
    return list(action_lines(load_actions()[name]))


def test_the_keys_of_a_parameter_are_listed_below_it():
    text = lines("pod.isolate")
    allow = load_actions()["pod.isolate"].parameters["allow"].type
    at = next(n for n, line in enumerate(text) if line.startswith("  allow: "))
    assert [line.split(":")[0] for line in text[at + 1 : at + 5]] == [
        "    dns", "    cidrs", "    namespaces", "    ports",
    ]  # fmt: skip
    assert list(allow.docs) == list(allow.keys)


def test_a_parameter_that_takes_its_default_only_is_not_listed():
    text = "\n".join(lines("pod.isolate"))
    assert "selector" not in text
    assert "detach" not in text


def test_every_key_of_a_record_has_a_sentence():
    kinds = [one.type for known in load_actions().values() for one in known.parameters.values()]
    for kind in kinds:
        if isinstance(kind, Record):
            assert kind.keys.keys() == kind.docs.keys()


def test_a_parameter_of_an_unknown_type_is_an_error_that_names_it():
    def wrong(*, where: PurePath) -> str:
        """Do nothing."""
        return str(where)

    wrong.__annotations__["where"] = PurePath
    with pytest.raises(
        TypeError, match=r"test\.wrong: the parameter `where` has the type .*PurePath"
    ):
        action("test.wrong", effect="mark")(wrong)
    assert "test.wrong" not in REGISTRY
