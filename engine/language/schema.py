"""The documents of the language. The checks at load, the JSON Schema and the reference all use this description.

Operators of conditions are described in ``operators``, and the parameters under ``with`` by the actions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from engine.language import value_checks
from engine.model.event import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.language.value_checks import Fault

API_VERSION = "tiercel.dev/v1"
KeyType = Literal["text", "bool", "integer", "map", "list", "any", "tags"]


class Key(msgspec.Struct, frozen=True):
    """A key of a document and its value.

    type: of the value. doc: a sentence for editors and the reference. keys: of a map. item: of a list, or of
    a map with free keys. words: the allowed texts; empty for any. free: whether the author chooses the keys
    of the map. check: an additional check of a value of the right type. default: the value of an absent key,
    for editors.
    """

    type: KeyType
    doc: str
    required: bool = False
    keys: Mapping[str, Key] = msgspec.field(default_factory=dict)
    item: Key | None = None
    words: tuple[str, ...] = ()
    free: bool = False
    check: Callable[[Any], Fault | None] | None = None
    default: str | int | bool | None = None


def _texts(doc: str) -> Key:
    return Key("list", doc, item=Key("text", "a name"), check=value_checks.names)


def _duration(doc: str, *, required: bool = False, default: str | None = None) -> Key:
    return Key("text", doc, required=required, check=value_checks.duration_text, default=default)


_TAGS = {
    "any": _texts("at least one of these tags"),
    "all": _texts("all of these tags"),
    "none": _texts("none of these tags; also matches an event without tags"),
}
CONDITIONS = Key(
    "list",
    "All must hold. Each is a field or jsonPath with one operator, or a group.",
    item=Key("any", ""),
)
MATCH = Key(
    "map",
    "Selects events. Every given key must match; at least one key, or everything: true alone.",
    required=True,
    check=value_checks.match,
    keys={
        "everything": Key(
            "bool",
            "true matches every event; does not combine with other keys",
            check=value_checks.everything,
        ),
        "rules": _texts("names of Falco rules, exact or globs with * and ?"),
        "priority": Key(
            "text", "at least this severe: " + ", ".join(PRIORITIES), check=value_checks.priority
        ),
        "sources": _texts("event sources, like syscall or k8s_audit"),
        "tags": Key("tags", "tags of the rule; a plain list means any", keys=_TAGS),
        "hostnames": _texts("names of hosts (nodes), exact or globs with * and ?"),
    },
)
_RETRY = {
    "attempts": Key(
        "integer",
        "the number of answers after which the step fails (4)",
        check=value_checks.attempts,
        default=4,
    ),
    "delay": _duration(
        "the wait before the second attempt; doubles each time, with jitter (1s)", default="1s"
    ),
    "maxDelay": _duration("the longest wait (1m)", default="1m"),
    "giveUp": _duration("when a notification without an answer fails (1h)", default="1h"),
    "unknown": Key(
        "bool",
        "repeat a step that is not repeatable and that may already have run (false)",
        default=False,
    ),
}
STEP = Key(
    "map",
    "One step.",
    keys={
        "action": Key("text", "the name of the action; see `tiercel actions`", required=True),
        "name": Key("text", "the name of the step (the action); unique within the playbook"),
        "with": Key("any", "the parameters of the action"),
        "timeout": _duration("the timeout of one attempt (30s)", default="30s"),
        "retry": Key("map", "when the engine retries the step", keys=_RETRY),
        "onFailure": Key(
            "text",
            "what follows if the step fails or is refused (stop)",
            words=("stop", "continue"),
            default="stop",
        ),
        "when": Key(
            "list", "conditions; all must hold, or the step is skipped", item=Key("any", "")
        ),
    },
)
_THROTTLE = {
    "key": _texts(
        "output fields; each combination of values has its own throttle (rule, namespace and pod)"
    ),
    "once": _duration("only one event acts within this time; short for first: 1"),
    "first": Key(
        "integer", "the number of events that act within any `within`", check=value_checks.first
    ),
    "count": Key(
        "integer",
        "only the count-th event within the last `within` acts; then counting starts again",
        check=value_checks.count,
    ),
    "within": _duration("the sliding window of `first` or `count`"),
}
PLAYBOOK = Key(
    "map",
    "The steps that follow on the matching events.",
    required=True,
    keys={
        "description": Key("text", "the purpose of the playbook"),
        "mode": Key(
            "text",
            "enforce runs all steps; notify runs only notify steps; dryRun changes nothing;"
            " disabled runs nothing",
            words=("enforce", "notify", "dryRun", "disabled"),
            default="enforce",
        ),
        "match": MATCH,
        "conditions": CONDITIONS,
        "runAs": Key(
            "text",
            "a ServiceAccount in the engine's namespace; the calls of the steps have only its rights",
            check=value_checks.service_account,
        ),
        "throttle": Key(
            "map",
            "limits how many of the matching events act",
            keys=_THROTTLE,
            check=value_checks.throttle,
        ),
        "actions": Key(
            "list",
            "the steps, in order",
            required=True,
            item=STEP,
            check=value_checks.required_steps,
        ),
        "finally": Key(
            "list",
            "steps that always run, after the actions",
            item=STEP,
            check=value_checks.optional_steps,
        ),
    },
)
SILENCE = Key(
    "map",
    "Events that run nothing until a given time.",
    required=True,
    keys={
        "match": MATCH,
        "conditions": CONDITIONS,
        "until": Key(
            "text",
            "RFC 3339; the silence applies to events before this time",
            required=True,
            check=value_checks.time,
        ),
        "owner": Key(
            "text", "the person or team to ask", required=True, check=value_checks.not_blank
        ),
        "comment": Key("text", "the reason", required=True, check=value_checks.not_blank),
    },
)
_PROTECTED = {
    "namespaces": _texts("namespaces that no step changes, exact or globs"),
    "labels": Key(
        "map", "labels that protect a Namespace or Node", free=True, item=Key("text", "")
    ),
    "trustPodsIn": Key(
        "list",
        "namespaces whose pods can protect themselves",
        item=Key("text", ""),
        check=value_checks.name_length,
    ),
}
_BUDGET = {
    "effect": Key(
        "text",
        "the effect of the counted steps",
        required=True,
        words=("notify", "observe", "mark", "disrupt"),
    ),
    "limit": Key("integer", "the number of targets", required=True, check=value_checks.limit),
    "per": _duration("the sliding window", required=True),
    "scope": Key(
        "text",
        "each of these has its own budget",
        required=True,
        words=("namespace", "cluster", "owner", "playbook"),
    ),
    "onExceeded": Key("text", "what happens to further steps", words=("hold", "drop", "digest")),
    "actions": _texts("the counted actions, exact or globs"),
    "playbooks": _texts("the counted playbooks, exact or globs"),
}
GUARDRAILS = Key(
    "map",
    "Limits on all playbooks.",
    required=True,
    keys={
        "protected": Key("map", "what no step changes", keys=_PROTECTED),
        "budgets": Key(
            "list", "how many targets can be affected", item=Key("map", "one budget", keys=_BUDGET)
        ),
        "maxEventAge": _duration("older events disrupt nothing (5m)", default="5m"),
        "onExceeded": Key("text", "what happens when a budget is used up", words=("hold", "drop")),
        "holdFor": _duration("how long a person can decide (4h)", default="4h"),
        "onHeld": Key(
            "list",
            "notify steps; they run once for each step that begins to wait for a person",
            item=STEP,
            check=value_checks.optional_steps,
        ),
    },
)


def _steps(doc: str) -> Key:
    return Key("list", doc, item=Key("text", "the name of a step"))


_EXPECT = {
    "actions": _steps("the planned steps of `actions`, in order, of all playbooks together"),
    "finally": _steps("the planned steps of `finally`"),
    "refused": _steps("the steps that are refused"),
    "held": _steps("the steps that are held"),
    "skipped": _steps("the steps that are skipped"),
    "calls": Key("list", "each is among the planned calls", item=Key("map", "", free=True)),
    "onlyCalls": Key("bool", "no other call is planned"),
    "nothing": Key("bool", "nothing is planned", check=value_checks.nothing),
}
_CASE = Key(
    "map",
    "One case.",
    check=value_checks.case_events,
    keys={
        "name": Key("text", "what the case shows", required=True),
        "event": Key("map", "the alert", free=True),
        "events": Key(
            "list", "alerts in order", item=Key("map", "", free=True), check=value_checks.not_empty
        ),
        "eventFile": Key("text", "a file of alerts; the path is relative to this file"),
        "outcomes": Key(
            "map",
            "assumed ends of steps by name: done, failed, skipped, refused, held, or {answer: ...}",
            free=True,
            item=Key("any", ""),
            check=value_checks.outcomes,
        ),
        "expect": Key(
            "map",
            "the expected plan",
            required=True,
            keys=_EXPECT,
            check=value_checks.expectation,
        ),
    },
)
PLAYBOOK_TEST = Key(
    "map",
    "Tests of playbooks.",
    required=True,
    keys={
        "playbooks": _texts("the playbooks under test (all)"),
        "values": Key("map", "merged over values.yaml, for these cases", free=True),
        "cluster": Key("list", "the objects in the cluster", item=Key("map", "", free=True)),
        "cases": Key("list", "the cases", required=True, item=_CASE, check=value_checks.not_empty),
    },
)
KINDS: dict[str, Key] = {
    "Playbook": PLAYBOOK,
    "PlaybookTest": PLAYBOOK_TEST,
    "Silence": SILENCE,
    "Guardrails": GUARDRAILS,
}
METADATA = Key(
    "map",
    "The name of the document.",
    required=True,
    keys={
        "name": Key("text", "a DNS-1123 label, unique per kind within the folder", required=True),
        "labels": Key("map", "copied to metrics and the audit", free=True, item=Key("text", "")),
    },
)


def document(kind: str) -> dict[str, Key]:
    """Return the top-level keys of a document of that kind."""
    return {
        "apiVersion": Key("text", "tiercel.dev/v1", required=True, words=(API_VERSION,)),
        "kind": Key("text", "the kind of the document", required=True, words=tuple(KINDS)),
        "metadata": METADATA,
        "spec": KINDS[kind],
    }
