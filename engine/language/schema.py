"""The documents of the language, described once: for the check at load, for editors and for the reference.

Conditions and ``with:`` are described where they are compiled (``conditions.OPERATORS``, the actions).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from engine.language import value_checks
from engine.model.event import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.language.value_checks import Wrong

API_VERSION = "tiercel.dev/v1"
KeyType = Literal["text", "bool", "integer", "map", "list", "any", "tags"]


@dataclass(frozen=True, slots=True)
class Key:
    """What may stand behind a key.

    type: of the value. doc: a sentence for editors. keys: of a map. item: of a list. words: the only texts.
    free: a map of keys of the author's own. check: what else may be wrong with a value of the right type.
    default: what holds without the key, for editors.
    """

    type: KeyType
    doc: str
    required: bool = False
    keys: Mapping[str, Key] = field(default_factory=dict)
    item: Key | None = None
    words: tuple[str, ...] = ()
    free: bool = False
    check: Callable[[Any], Wrong | None] | None = None
    default: str | int | bool | None = None


def _texts(doc: str, **more: Any) -> Key:
    return Key("list", doc, item=Key("text", "a name"), check=value_checks.names, **more)


_TAGS = {
    "any": _texts("at least one of these tags"),
    "all": _texts("all of these tags"),
    "none": _texts("none of these tags; holds on an event without tags, too"),
}
CONDITIONS = Key(
    "list",
    "All must hold; each is a field or jsonPath with one operator, or a group.",
    item=Key("any", ""),
)
MATCH = Key(
    "map",
    "Which events: every key given must hold; at least one, or everything: true alone.",
    required=True,
    check=value_checks.match,
    keys={
        "everything": Key(
            "bool", "true matches every event; stands alone", check=value_checks.everything
        ),
        "rules": _texts("names of Falco rules, exact or globs with * and ?"),
        "priority": Key(
            "text", "at least this severe: " + ", ".join(PRIORITIES), check=value_checks.priority
        ),
        "sources": _texts("event sources, like syscall or k8s_audit"),
        "tags": Key("tags", "tags of the rule; a plain list means any", keys=_TAGS),
        "hostnames": _texts("hosts (nodes) by name, exact or globs with * and ?"),
    },
)
_RETRY = {
    "attempts": Key(
        "integer", "answers taken before the step fails (4)", check=value_checks.attempts, default=4
    ),
    "delay": Key(
        "text",
        "before the second attempt; doubles each time, with jitter (1s)",
        check=value_checks.duration_text,
        default="1s",
    ),
    "maxDelay": Key(
        "text", "the longest wait (1m)", check=value_checks.duration_text, default="1m"
    ),
    "giveUp": Key(
        "text",
        "after which a notification without an answer fails (1h)",
        check=value_checks.duration_text,
        default="1h",
    ),
    "unknown": Key(
        "bool", "do a step again that is not repeatable and may have run (false)", default=False
    ),
}
STEP = Key(
    "map",
    "One step.",
    keys={
        "action": Key("text", "the action's name; `tiercel actions` lists them", required=True),
        "name": Key("text", "the step's name (the action's); unique within the playbook"),
        "with": Key("any", "the action's parameters"),
        "timeout": Key(
            "text", "of one attempt (30s)", check=value_checks.duration_text, default="30s"
        ),
        "retry": Key("map", "how a step is tried again", keys=_RETRY),
        "onFailure": Key(
            "text",
            "what follows a failure or refusal (stop)",
            words=("stop", "continue"),
            default="stop",
        ),
        "when": Key("list", "all must hold, else the step is skipped", item=Key("any", "")),
    },
)
_THROTTLE = {
    "key": _texts("output fields that count apart (rule, namespace and pod)"),
    "once": Key(
        "text",
        "one event acts within this time; first: 1 in short",
        check=value_checks.duration_text,
    ),
    "first": Key("integer", "so many events act within any `within`", check=value_checks.first),
    "count": Key(
        "integer",
        "only the count-th event within the last `within` acts; counting then starts again",
        check=value_checks.count,
    ),
    "within": Key(
        "text", "the window of `first` or `count`; it slides", check=value_checks.duration_text
    ),
}
PLAYBOOK = Key(
    "map",
    "What happens on which events.",
    required=True,
    keys={
        "description": Key("text", "what it is for"),
        "mode": Key(
            "text",
            "enforce acts; notify only tells; dryRun writes nothing; disabled runs nothing",
            words=("enforce", "notify", "dryRun", "disabled"),
            default="enforce",
        ),
        "match": MATCH,
        "conditions": CONDITIONS,
        "throttle": Key(
            "map",
            "how many of the matching events act",
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
    "Events that run nothing for a while.",
    required=True,
    keys={
        "match": MATCH,
        "conditions": CONDITIONS,
        "until": Key(
            "text", "RFC 3339; it holds for events before", required=True, check=value_checks.time
        ),
        "owner": Key("text", "whom to ask", required=True),
        "comment": Key("text", "why", required=True),
    },
)
_PROTECTED = {
    "namespaces": _texts("namespaces that nothing touches, exact or globs"),
    "labels": Key(
        "map", "labels of Namespaces or Nodes that protect them", free=True, item=Key("text", "")
    ),
    "trustPodsIn": Key(
        "list",
        "namespaces whose pods may protect themselves",
        item=Key("text", ""),
        check=value_checks.name_length,
    ),
}
_BUDGET = {
    "effect": Key(
        "text", "what is counted", required=True, words=("notify", "observe", "mark", "disrupt")
    ),
    "limit": Key("integer", "targets", required=True, check=value_checks.count),
    "per": Key("text", "the window", required=True, check=value_checks.duration_text),
    "scope": Key(
        "text",
        "what has a budget of its own",
        required=True,
        words=("namespace", "cluster", "owner", "playbook"),
    ),
    "onExceeded": Key("text", "what happens to the rest", words=("hold", "drop", "digest")),
    "actions": _texts("the actions it is about, exact or globs"),
    "playbooks": _texts("the playbooks it is about, exact or globs"),
}
GUARDRAILS = Key(
    "map",
    "What no playbook may do.",
    required=True,
    keys={
        "protected": Key("map", "what is never touched", keys=_PROTECTED),
        "budgets": Key("list", "how much may happen", item=Key("map", "one budget", keys=_BUDGET)),
        "maxEventAge": Key(
            "text",
            "older events disrupt nothing (5m)",
            check=value_checks.duration_text,
            default="5m",
        ),
        "onExceeded": Key("text", "what happens past a budget", words=("hold", "drop")),
        "holdFor": Key(
            "text",
            "how long a person may decide (4h)",
            check=value_checks.duration_text,
            default="4h",
        ),
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
        "name": Key("text", "what holds", required=True),
        "event": Key("map", "the alert", free=True),
        "events": Key(
            "list", "alerts in a row", item=Key("map", "", free=True), check=value_checks.not_empty
        ),
        "eventFile": Key("text", "a file of alerts, relative to this one"),
        "outcomes": Key(
            "map",
            "how named steps end: done, failed, skipped, refused, held, or {answer: ...}",
            free=True,
            item=Key("any", ""),
            check=value_checks.outcomes,
        ),
        "expect": Key(
            "map", "what is planned", required=True, keys=_EXPECT, check=value_checks.expectation
        ),
    },
)
PLAYBOOK_TEST = Key(
    "map",
    "Cases that playbooks must pass.",
    required=True,
    keys={
        "playbooks": _texts("the playbooks that are tested (all)"),
        "values": Key("map", "laid over values.yaml, for these cases", free=True),
        "cluster": Key("list", "objects that exist", item=Key("map", "", free=True)),
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
    "The document's name.",
    required=True,
    keys={
        "name": Key("text", "a DNS-1123 label, unique per kind over the folder", required=True),
        "labels": Key("map", "carried into metrics and the audit", free=True, item=Key("text", "")),
    },
)


def document(kind: str) -> dict[str, Key]:
    """The keys of a document of that kind."""
    return {
        "apiVersion": Key("text", "tiercel.dev/v1", required=True, words=(API_VERSION,)),
        "kind": Key("text", "what it is", required=True, words=tuple(KINDS)),
        "metadata": METADATA,
        "spec": KINDS[kind],
    }
