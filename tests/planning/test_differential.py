"""Random playbooks and events, against a slow and obvious reading of the contract.

The reading works on the documents as written and on the alerts as sent, and shares no code with the engine.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import json
import random
import re

import pytest
from engine.language.folder import Files
from engine.model.event import parse_event
from engine.planning.matcher import PlaybookIndex
from tests.support.playbooks import new_loader

SETS, PLAYBOOKS, EVENTS = 20, 50, 150
RULES = ["Terminal shell", "Terminal Shell", "Read file", "Connect", "x*y", "a?"]
FIELDS = ["k8s.ns.name", "proc.name", "fd.sip", "fd.lport", "proc.aname[2]", "odd field", "list"]
WORDS = [
    "demo",
    "kube-system",
    "curl",
    "443",
    "10.0.0.1",
    "::ffff:10.0.0.1",
    "2001:db8::1",
    "Demo",
    "a",
    "",
]
VALUES = [
    *WORDS, "<NA>", None, 443, 443.0, 0, -1, 2**70, True, False, 1.5, [], ["demo", 443], [None, "curl"],
    ["10.0.0.1", "x"], [[]], {}, {"a": 1}, [True],
]  # fmt: skip
PRIORITIES = [
    "Emergency",
    "Alert",
    "Critical",
    "Error",
    "Warning",
    "Notice",
    "Informational",
    "Debug",
]
NEGATIVE = {"notEquals": "equals", "notIn": "in", "notCidr": "cidr"}
HOSTS = ["worker-1", "worker-2", "w"]


def scalar(dice):
    return dice.choice([*WORDS[:-1], 443, 443.0, 0, True, False, 1.5])


def operand(dice, name):
    if name in ("equals", "notEquals"):
        return scalar(dice)
    if name in ("in", "notIn", "intersects"):
        return [scalar(dice) for _ in range(dice.randint(1, 3))]
    if name in ("cidr", "notCidr"):
        return dice.sample(["10.0.0.0/8", "10.0.0.1", "2001:db8::/32", "0.0.0.0/0"], 2)
    if name in ("gt", "gte", "lt", "lte"):
        return dice.choice([0, 443, 443.5, 2**70 - 1])
    if name == "exists":
        return dice.choice([True, False])
    if name == "regex":
        return dice.choice(["d", "^d", "o$", "[a-m]+o", ""])
    return dice.choice(["d", "demo", "*m*", "?emo", "^d", "DEM", "o$"])


OPERATORS = [
    "equals", "notEquals", "in", "notIn", "startswith", "endswith", "contains", "icontains", "glob", "regex",
    "cidr", "notCidr", "gt", "gte", "lt", "lte", "intersects", "exists",
]  # fmt: skip


def condition(dice, depth=0):
    if depth < 2 and dice.random() < 0.25:
        group = dice.choice(["all", "any", "not"])
        if group == "not":
            return {"not": condition(dice, depth + 1)}
        return {group: [condition(dice, depth + 1) for _ in range(dice.randint(1, 3))]}
    name, field = dice.choice(OPERATORS), dice.choice(FIELDS)
    where = {"field": field}
    if dice.random() < 0.3:
        where = {"jsonPath": f"$.output_fields['{field}']"}
    elif dice.random() < 0.1:
        where = {
            "jsonPath": dice.choice(["$.source", "$.priority", "$.tags", "$.hostname", "$.tags[0]"])
        }
    return {**where, name: operand(dice, name)}


def playbook(dice, number):
    match = {}
    if dice.random() < 0.8:
        match["rules"] = dice.sample([*RULES, "Term*", "*"], dice.randint(1, 2))
    if dice.random() < 0.3:
        match["priority"] = dice.choice([*PRIORITIES, "info", "warning"])
    if dice.random() < 0.2:
        match["sources"] = dice.sample(["syscall", "k8s_audit"], 1)
    if dice.random() < 0.3:
        names = dice.sample(["container", "network", "T1059"], dice.randint(1, 2))
        match["tags"] = dice.choice([names, {dice.choice(["any", "all", "none"]): names}])
    if dice.random() < 0.2:
        match["hostnames"] = dice.sample(["worker-*", "worker-1", "?"], 1)
    conditions = [condition(dice) for _ in range(dice.randint(0, 3))]
    if dice.random() < 0.5:  # so that the table of equalities is used
        conditions.append({"field": "k8s.ns.name", "in": dice.sample(WORDS[:4], 2)})
    return {
        "apiVersion": "tiercel.dev/v1",
        "kind": "Playbook",
        "metadata": {"name": f"p{number:03}"},
        "spec": {
            "match": match or {"everything": True},
            "conditions": conditions,
            "actions": [{"action": "pod.label", "with": {"labels": {"a": "b"}}}],
        },
    }


def alert(dice):
    made = {"rule": dice.choice(RULES)}
    made["output_fields"] = {f: dice.choice(VALUES) for f in FIELDS if dice.random() < 0.8}
    optional = {
        "priority": [*PRIORITIES, "info", "WARNING", None],
        "source": ["syscall", "syscalls", "", "k8s_audit", None],
        "tags": [[], ["container"], ["network", "T1059"], ["container", "network", "T1059"], None],
        "hostname": [*HOSTS, "", None],
    }
    for key, values in optional.items():
        if dice.random() < 0.8:
            made[dice.choice([key, key.title()])] = dice.choice(values)
    return made


def absent(value):
    return value is None or value == [] or (isinstance(value, str) and value in ("", "<NA>"))


def kind(value):
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def address(value):
    try:
        found = ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def compare(name, value, wanted):
    """One value that is there, by a positive operator."""
    if name in ("equals", "in", "intersects"):
        among = [w for w in (wanted if name != "equals" else [wanted]) if kind(w) == kind(value)]
        return (value in among) if among else None
    if name in ("gt", "gte", "lt", "lte"):
        tests = {"gt": lambda: value > wanted, "gte": lambda: value >= wanted,
                 "lt": lambda: value < wanted, "lte": lambda: value <= wanted}  # fmt: skip
        return tests[name]() if kind(value) == "number" else None
    if name == "cidr":
        found, networks = address(value), [ipaddress.ip_network(w) for w in wanted]
        return found and any(found.version == n.version and found in n for n in networks)
    return compare_text(name, value, wanted) if isinstance(value, str) else None


def compare_text(name, value, wanted):
    return {
        "glob": lambda: fnmatch.fnmatchcase(value, wanted),
        "regex": lambda: re.search(wanted, value) is not None,
        "icontains": lambda: wanted.lower() in value.lower(),
        "contains": lambda: wanted in value,
        "startswith": lambda: value.startswith(wanted),
        "endswith": lambda: value.endswith(wanted),
    }[name]()


def negation(truth):
    return None if truth is None else not truth


def sql_or(truths):
    return True if True in truths else None if None in truths else False


def sql_and(truths):
    return False if False in truths else None if None in truths else True


def on_value(name, value, wanted):
    if name == "exists":
        return absent(value) is not wanted
    if absent(value):
        return None
    positive = NEGATIVE.get(name, name)
    if isinstance(value, list):
        if name == "intersects":
            return sql_or([None if absent(v) else compare(name, v, wanted) for v in value])
        join = sql_and if name in NEGATIVE else sql_or
        return join([on_value(name, v, wanted) for v in value])
    if name == "intersects":
        return None
    truth = compare(positive, value, wanted)
    return negation(truth) if name in NEGATIVE else truth


def look(written, seen):
    if "field" in written:
        return seen["output_fields"].get(written["field"])
    path = written["jsonPath"]
    if path.startswith("$.output_fields"):
        return seen["output_fields"].get(path[17:-2])
    if path == "$.tags[0]":
        return seen["tags"][0] if seen["tags"] else None
    return seen.get(path[2:])


def truth_of(written, seen):
    if "not" in written:
        return negation(truth_of(written["not"], seen))
    if "all" in written:
        return sql_and([truth_of(one, seen) for one in written["all"]])
    if "any" in written:
        return sql_or([truth_of(one, seen) for one in written["any"]])
    (name,) = written.keys() - {"field", "jsonPath"}
    return on_value(name, look(written, seen), written[name])


def normal(sent):
    seen = {key.lower(): value for key, value in sent.items()}
    if seen.get("source") in (None, "", "syscalls"):
        seen["source"] = "syscall"
    word = (seen.get("priority") or "").title()
    seen["priority"] = {"Info": "Informational"}.get(word, word) or None
    seen["tags"] = seen.get("tags") or []
    return seen


def is_named(name, wanted):
    def fits(pattern):
        escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
        return re.fullmatch(escaped, name, re.DOTALL)

    return any(fits(one) for one in wanted)


def matches(match, seen):
    if "rules" in match and not is_named(seen["rule"], match["rules"]):
        return False
    if "priority" in match:
        word = match["priority"].title()
        least = PRIORITIES.index({"Info": "Informational"}.get(word, word))
        if seen["priority"] is None or PRIORITIES.index(seen["priority"]) > least:
            return False
    if "sources" in match and seen["source"] not in match["sources"]:
        return False
    if "hostnames" in match and not (
        seen.get("hostname") and is_named(seen["hostname"], match["hostnames"])
    ):
        return False
    tags = match.get("tags", {})
    tags = {"any": tags} if isinstance(tags, list) else tags
    has = set(seen["tags"])
    return (
        ("any" not in tags or bool(has & set(tags["any"])))
        and ("all" not in tags or has >= set(tags["all"]))
        and ("none" not in tags or not has & set(tags["none"]))
    )


def wanting(documents, sent):
    seen = normal(sent)
    return [
        one["metadata"]["name"]
        for one in documents
        if matches(one["spec"]["match"], seen)
        and all(truth_of(c, seen) is True for c in one["spec"]["conditions"])
    ]


@pytest.mark.parametrize("seed", range(SETS))
def test_the_engine_reads_playbooks_as_the_contract_does(seed):
    dice = random.Random(seed)  # noqa: S311 - the same cases each time
    documents = [playbook(dice, number) for number in range(PLAYBOOKS)]
    files = {f"{n}.yaml": json.dumps(one).encode() for n, one in enumerate(documents)}
    index = PlaybookIndex(new_loader().load(Files("", files)).usable().playbooks)
    some = 0
    for _ in range(EVENTS):
        sent = alert(dice)
        wanted = wanting(documents, sent)
        some += len(wanted)
        assert [one.name for one in index.matching(parse_event(sent))] == wanted, sent
    assert some > EVENTS // 2  # or the comparison shows little
