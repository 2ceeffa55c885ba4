"""Helpers of the import tests: rules files, and a simple reference implementation of Talon's matching."""

from __future__ import annotations

import json

from engine.language.folder import Files
from engine.model.event import parse_event
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory, plan
from engine.talon.convert import convert

from tests.support.playbooks import new_loader

LABEL = {"action": "Mark", "actionner": "kubernetes:label", "parameters": {"labels": {"a": "b"}}}
_ORDER = ("debug", "informational", "notice", "warning", "error", "critical", "alert", "emergency")


def rule(name="r", **more):
    """Return a rule that labels the pod."""
    return {"rule": name, "actions": [LABEL], **more}


def imported(*files):
    """Convert rules files, each given as bytes, as text or as a list of blocks (JSON is YAML)."""
    contents = [file if isinstance(file, bytes | str) else json.dumps(file) for file in files]
    encoded = [one if isinstance(one, bytes) else one.encode() for one in contents]
    return convert([(f"rules{n}.yaml", one) for n, one in enumerate(encoded)])


def loaded(conversion):
    """Return the playbooks of a conversion by name. Fails if the loader reports an error."""
    files = {f"{name}.yaml": text.encode() for name, text in conversion.playbooks.items()}
    found = new_loader().load(Files("", files))
    assert found.errors == ()
    return {playbook.name: playbook for playbook in found.playbooks}


def acting(conversion, event):
    """Return the names of the playbooks with mode enforce that run for an event."""
    playbooks = PlaybookIndex(loaded(conversion).values())
    planned = plan(parse_event(event), playbooks, PlanningMemory())
    return {
        p.run.playbook.name
        for p in planned
        if not p.suppressed and p.run.playbook.mode == "enforce"
    }


def alert(rule="R", **more):
    return {"rule": rule, "priority": "Warning", "source": "syscall", "output_fields": {}} | more


def _number(word):
    return _ORDER.index(word.lower()) + 1 if word.lower() in _ORDER else 0


def _printed(value):
    """Return a JSON value as Go's ``%v`` prints it."""
    if value is None or type(value) is bool:
        return {None: "<nil>", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{' '.join(map(_printed, value))}]"
    return _float(float(value)) if isinstance(value, int | float) else value


def _float(value):
    """Return the fewest digits with the same float64, without an exponent below 1e6."""
    short = next(s for n in range(18) if float(s := f"{value:.{n}e}") == value)
    mantissa, exponent = short.split("e")
    if not -4 <= int(exponent) < 6:
        return f"{mantissa}e{int(exponent):+03d}"
    return f"{value:.{max(0, len(mantissa.partition('.')[2]) - int(exponent))}f}"


def _entry_holds(entry, fields):
    for part in entry.split(", "):
        name, _, value = part.partition("!=" if "!=" in part else "=")
        same = name in fields and _printed(fields[name]) == value
        if same is ("!=" in part):
            return False
    return True


def talon_matches(match, event):
    """Return whether Talon's rule matches, as in rules.go."""
    rules, priority, tags = match.get("rules"), match.get("priority", ""), match.get("tags")
    if rules and event["rule"] not in rules:
        return False
    entries = match.get("output_fields")
    if entries and not any(_entry_holds(entry, event["output_fields"]) for entry in entries):
        return False
    word = priority.lstrip("<>=")
    sign, least, given = (
        priority[: len(priority) - len(word)],
        _number(word),
        _number(event["priority"]),
    )
    signs = {">": given > least, ">=": given >= least, "<": given < least, "<=": given <= least}
    if least and not signs.get(sign, given == least):
        return False
    if tags and not any(set(one.split(", ")) <= set(event["tags"]) for one in tags):
        return False
    return not match.get("source") or match["source"] == event["source"]


def talon_acts(rules, event):
    """Return the names of the rules that Talon runs, in order. A rule with continue: false is the last."""
    ran = []
    for one in rules:
        if talon_matches(one.get("match", {}), event):
            ran.append(one["rule"])
            if one.get("continue") is False:
                break
    return ran
