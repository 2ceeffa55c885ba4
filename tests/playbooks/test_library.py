"""The shipped playbooks: an answer for every rule, folders that work alone, and events as Falco sends them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import yaml
from click.testing import CliRunner
from engine.actions.registry import load_actions
from engine.cli.command_group import cli
from engine.falco.catalogue import OWN_FILE, catalogue
from engine.falco.rule_coverage import rule_coverage
from engine.falco.rules_file import FalcoRules
from engine.language.folder import read_files
from engine.language.loader import Loader
from engine.model.playbook import Guardrails

LIBRARY = Path(__file__).parents[2] / "playbooks"
THEMES = sorted(path.parent for path in LIBRARY.glob("*/kustomization.yaml"))
EVENTS = sorted(LIBRARY.glob("*/events/*.json"))
OF_CONTAINER = {
    "container.id", "container.name", "container.image.repository", "container.image.tag",
    "k8s.ns.name", "k8s.pod.name",
}  # fmt: skip
"""The fields that Falco adds to the output of each rule of the source syscall."""
by_name = pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)


def answerable():
    """Return the rules that Falco enables by default, and every rule of k8s_audit."""
    shipped = catalogue().values()
    ours = [
        rule for rule in shipped
        if (rule.where.file == OWN_FILE and rule.enabled) or rule.source == "k8s_audit"
    ]  # fmt: skip
    return {rule.name: replace(rule, never_true=False) for rule in ours}


def loaded(folder):
    return Loader(load_actions()).load(read_files([folder])).usable()


def tiercel(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture(scope="module")
def library():
    return loaded(LIBRARY)


def test_every_rule_that_falco_enables_and_every_audit_rule_has_an_answer(library):
    rules = answerable()
    assert len(rules) == 25 + 48
    found = rule_coverage(FalcoRules(rules, given=True), library.playbooks)
    assert [rule.name for rule in found.unanswered] == []
    assert len(found.answered) == len(rules)
    unreasoned = [
        one.rule.name for one in found.answered
        if one.effect == "none" and not any(playbook.reason for playbook in one.playbooks)
    ]  # fmt: skip
    assert unreasoned == []


def test_what_disrupts_without_a_question_is_short(library):
    """A person decides, except where the event leaves no doubt. An addition to this list is a decision."""
    found = rule_coverage(FalcoRules(answerable(), given=True), library.playbooks)
    assert sorted(
        playbook.name
        for one in {p.name: p for row in found.answered for p in row.playbooks}.values()
        for playbook in [one]
        if playbook.effect == "disrupt" and not playbook.asks
    ) == [
        "contain-container-escape", "contain-kernel-module", "isolate-reverse-shell",
        "replace-drifted-pod", "replace-fileless-pod",
    ]  # fmt: skip


def test_the_guardrails_are_the_built_in_ones_with_more_namespaces_and_a_message(library):
    found, built_in = library.guardrails, Guardrails()
    rest = msgspec.structs.replace(found, namespaces=(), on_held=b"")
    assert rest == msgspec.structs.replace(built_in, namespaces=())
    assert set(found.namespaces) == {*built_in.namespaces, "falco", "tiercel"}
    assert b"slack.post" in found.on_held


def test_only_the_guardrails_ask_a_person(library):
    """Each hold runs the steps of onHeld, so a message before the hold would be a second one."""
    asking = [one for one in library.playbooks if "approval.wait" in actions_of(one)]
    assert len(asking) == 6
    for playbook in asking:
        names = actions_of(playbook)
        assert not {"slack.post", "notify.send"} & set(names[: names.index("approval.wait")])
    folders = {Path(playbook.where.file).parent for playbook in asking}
    assert {file.parent for file in LIBRARY.glob("*/.guardrails.yaml")} == folders
    for folder in folders:
        [generator] = yaml.safe_load((folder / "kustomization.yaml").read_text())[
            "configMapGenerator"
        ]
        assert "guardrails.yaml=.guardrails.yaml" in generator["files"]
        copy = (folder / ".guardrails.yaml").read_text()
        assert copy == (LIBRARY / "guardrails.yaml").read_text()


def actions_of(playbook):
    return [step.action for step in playbook.steps]


def test_rules_with_a_tactic_are_answered_in_the_folder_of_that_tactic(library):
    misplaced = []
    for playbook in library.playbooks:
        folder = Path(playbook.where.file).parent.name
        for name in playbook.match.rules:
            rule = catalogue().get(name)
            tactics = (
                {tag[6:].replace("_", "-") for tag in rule.tags if tag.startswith("mitre_")}
                if rule
                else ()
            )
            if tactics and folder not in tactics:
                misplaced.append((playbook.name, name))
    assert misplaced == []


@by_name
def test_a_folder_works_alone(theme):
    checked = tiercel("check", "--strict", theme)
    assert checked.exit_code == 0, checked.output
    tested = tiercel("test", theme, "--coverage-threshold", "100")
    assert tested.exit_code == 0, tested.output


@by_name
def test_the_values_of_a_folder_are_those_of_the_library(theme):
    whole = yaml.safe_load((LIBRARY / "values.yaml").read_text())
    own = yaml.safe_load((theme / "values.yaml").read_text())
    assert own.items() <= whole.items()
    used = {
        name
        for path in theme.glob("*.yaml")
        if path.name != "values.yaml" and ".test." not in path.name
        for name in re.findall(r"\$\{(\w+)\}", path.read_text())
    }
    assert used == own.keys()


# the others are of our own rules, in rules/
OF_FALCO = [file for file in EVENTS if json.loads(file.read_text())["rule"] in catalogue()]


@pytest.mark.parametrize("file", OF_FALCO, ids=lambda file: file.stem)
def test_an_event_has_the_fields_that_falco_sends(file):
    event = json.loads(file.read_text())
    rule = catalogue()[event["rule"]]
    assert list(event) == [
        "uuid", "output", "priority", "rule", "time", "output_fields", "source", "tags", "hostname",
    ]  # fmt: skip
    assert (event["priority"], event["source"]) == (rule.priority_name, rule.source)
    assert event["tags"] == sorted(rule.tags)
    added = OF_CONTAINER if rule.source == "syscall" else set()
    assert event["output_fields"].keys() == rule.output_fields | added | {"evt.time"}


def test_every_playbook_has_a_case_in_which_it_acts_and_one_in_which_it_does_not(library):
    acts, rests, given = set(), set(), set()
    for path in LIBRARY.rglob("*.test.yaml"):
        for document in yaml.load_all(path.read_text(), yaml.CSafeLoader):
            for case in document["spec"]["cases"]:
                silent = case["expect"] == {"nothing": True}
                (rests if silent else acts).update(document["spec"]["playbooks"])
                if "eventFile" in case:
                    given.add(path.parent / case["eventFile"])
    names = {playbook.name for playbook in library.playbooks}
    assert (acts, rests) == (names, names)
    assert sorted(given) == EVENTS
