"""The documents of the language, described once: for the check at load, for editors and for the reference.

Conditions and ``with:`` are described where they are compiled (``conditions.OPERATORS``, the actions).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from engine.event import PRIORITIES, priority_of, time_of
from engine.language import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

API_VERSION = "tiercel.dev/v1"
MAX_STEPS = 1_000
MAX_NAMES = 1_000
_LONGEST_NAME = 1_000
"""Characters; a name may be a glob, which is compiled."""
Shape = Literal["text", "bool", "integer", "map", "list", "any", "tags"]
Wrong = tuple[str, str, str | None]
"""A finding's code, what is wrong, and a hint."""


@dataclass(frozen=True, slots=True)
class Key:
    """What may stand behind a key.

    shape: its type. doc: a sentence for editors. keys: of a map. item: of a list. words: the only texts.
    free: a map of keys of the author's own. check: what else may be wrong with a value of the right type.
    """

    shape: Shape
    doc: str
    required: bool = False
    keys: Mapping[str, Key] = field(default_factory=dict)
    item: Key | None = None
    words: tuple[str, ...] = ()
    free: bool = False
    check: Callable[[Any], Wrong | None] | None = None


def check_duration(value: str) -> Wrong | None:
    """What is wrong with a text that should be a duration."""
    return (
        None
        if duration.seconds(value)
        else ("bad-duration", f"`{value[:40]}` is no duration", duration.HINT)
    )


def _priority(value: str) -> Wrong | None:
    if priority_of(value) is not None:
        return None
    near = next((p for p in PRIORITIES if p.lower().startswith(value.lower()[:4]) and value), None)
    return "bad-value", f"`{value[:40]}` is no priority", near or ", ".join(PRIORITIES)


def _everything(value: bool) -> Wrong | None:  # noqa: FBT001 - a value of the language
    return None if value else ("bad-value", "`everything` is true, or is left out", None)


def _attempts(value: int) -> Wrong | None:
    return None if 1 <= value <= 100 else ("bad-value", "attempts are 1 to 100", None)  # noqa: PLR2004


def _count(value: int) -> Wrong | None:
    return None if 1 <= value <= 10_000 else ("bad-value", "count is 1 to 10,000", None)  # noqa: PLR2004


def _not_empty(value: list[Any]) -> Wrong | None:
    return None if value else ("bad-value", "the list is empty", "leave the key out, or name some")


def _short(value: list[Any]) -> Wrong | None:
    if all(len(name) <= _LONGEST_NAME for name in value if isinstance(name, str)):
        return None
    return "bad-value", f"a name has at most {_LONGEST_NAME:,} characters", None


def _few(value: list[Any]) -> Wrong | None:
    return ("bad-value", f"more than {MAX_STEPS:,} steps", None) if value[MAX_STEPS:] else None


def _some(value: list[Any]) -> Wrong | None:
    return _not_empty(value) or _few(value)


def _names(value: list[Any]) -> Wrong | None:
    return _not_empty(value) or _few_names(value) or _short(value)


def _few_names(value: list[Any]) -> Wrong | None:
    return ("bad-value", f"more than {MAX_NAMES:,} names", None) if value[MAX_NAMES:] else None


def check_match(value: dict[str, Any]) -> Wrong | None:
    """What is wrong with the keys of ``match`` taken together."""
    if not value:
        return "empty-match", "an empty `match` would match everything", "everything: true says so"
    if "everything" in value and len(value) > 1:
        return "bad-value", "`everything` stands alone", "remove it, or the other keys"
    return None


def _throttle(value: dict[str, Any]) -> Wrong | None:
    given = {"once", "count", "within"} & value.keys()
    if given in ({"once"}, {"count", "within"}):
        return None
    missing = not given or given < {"count", "within"}
    code = "missing-key" if missing else "bad-value"
    return code, "a throttle has `once`, or `count` and `within`", "once: 10m"


def _time(value: str) -> Wrong | None:
    try:
        time_of(value)
    except ValueError:
        return "bad-value", f"`{value[:40]}` is no RFC 3339 time", "like 2026-12-24T00:00:00Z"
    return None


def _texts(doc: str, **more: Any) -> Key:
    return Key("list", doc, item=Key("text", "a name"), check=_names, **more)


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
    check=check_match,
    keys={
        "everything": Key("bool", "true matches every event; stands alone", check=_everything),
        "rules": _texts("names of Falco rules, exact or globs with * and ?"),
        "priority": Key("text", "at least this severe: " + ", ".join(PRIORITIES), check=_priority),
        "sources": _texts("event sources, like syscall or k8s_audit"),
        "tags": Key("tags", "tags of the rule; a plain list means any", keys=_TAGS),
        "hostnames": _texts("hosts (nodes) by name, exact or globs with * and ?"),
    },
)
_RETRY = {
    "attempts": Key("integer", "answers taken before the step fails (4)", check=_attempts),
    "delay": Key(
        "text",
        "before the second attempt; doubles each time, with jitter (1s)",
        check=check_duration,
    ),
    "maxDelay": Key("text", "the longest wait (1m)", check=check_duration),
    "giveUp": Key(
        "text", "after which a notification without an answer fails (1h)", check=check_duration
    ),
    "unknown": Key("bool", "do a step again that is not repeatable and may have run (false)"),
}
STEP = Key(
    "map",
    "One step.",
    keys={
        "action": Key("text", "the action's name; `tiercel actions` lists them", required=True),
        "name": Key("text", "the step's name (the action's); unique within the playbook"),
        "with": Key("any", "the action's parameters"),
        "timeout": Key("text", "of one attempt (30s)", check=check_duration),
        "retry": Key("map", "how a step is tried again", keys=_RETRY),
        "onFailure": Key(
            "text", "what follows a failure or refusal (stop)", words=("stop", "continue")
        ),
        "when": Key("list", "all must hold, else the step is skipped", item=Key("any", "")),
    },
)
_THROTTLE = {
    "key": _texts("output fields that count apart (rule, namespace and pod)"),
    "once": Key("text", "the first acts, then none for so long", check=check_duration),
    "count": Key("integer", "acts on the count-th event …", check=_count),
    "within": Key("text", "… within the last so long", check=check_duration),
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
        ),
        "match": MATCH,
        "conditions": CONDITIONS,
        "throttle": Key(
            "map", "how many of the matching events act", keys=_THROTTLE, check=_throttle
        ),
        "actions": Key("list", "the steps, in order", required=True, item=STEP, check=_some),
        "finally": Key("list", "steps that always run, after the actions", item=STEP, check=_few),
    },
)
SILENCE = Key(
    "map",
    "Events that run nothing for a while.",
    required=True,
    keys={
        "match": MATCH,
        "conditions": CONDITIONS,
        "until": Key("text", "RFC 3339; it holds for events before", required=True, check=_time),
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
        check=_short,
    ),
}
_BUDGET = {
    "effect": Key(
        "text", "what is counted", required=True, words=("notify", "observe", "mark", "disrupt")
    ),
    "limit": Key("integer", "targets", required=True, check=_count),
    "per": Key("text", "the window", required=True, check=check_duration),
    "scope": Key(
        "text",
        "what has a budget of its own",
        required=True,
        words=("namespace", "cluster", "owner", "playbook"),
    ),
    "onExceeded": Key("text", "what happens to the rest", words=("hold", "drop", "digest")),
    "actions": _texts("the actions it is about, exact or globs"),
}
GUARDRAILS = Key(
    "map",
    "What no playbook may do.",
    required=True,
    keys={
        "protected": Key("map", "what is never touched", keys=_PROTECTED),
        "budgets": Key("list", "how much may happen", item=Key("map", "one budget", keys=_BUDGET)),
        "maxEventAge": Key("text", "older events disrupt nothing (5m)", check=check_duration),
        "onExceeded": Key("text", "what happens past a budget", words=("hold", "drop")),
        "holdFor": Key("text", "how long a person may decide (4h)", check=check_duration),
    },
)


def _one_source(value: dict[str, Any]) -> Wrong | None:
    given = {"event", "events", "eventFile"} & value.keys()
    if len(given) == 1:
        return None
    code = "bad-value" if given else "missing-key"
    return code, "a case has one of `event`, `events` and `eventFile`", None


def _says_something(value: dict[str, Any]) -> Wrong | None:
    if value:
        return None
    return "bad-value", "a case that expects nothing in particular cannot fail", "nothing: true"


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
    "nothing": Key("bool", "nothing is planned"),
}
_CASE = Key(
    "map",
    "One case.",
    check=_one_source,
    keys={
        "name": Key("text", "what holds", required=True),
        "event": Key("map", "the alert", free=True),
        "events": Key("list", "alerts in a row", item=Key("map", "", free=True), check=_not_empty),
        "eventFile": Key("text", "a file of alerts, relative to this one"),
        "expect": Key("map", "what is planned", required=True, keys=_EXPECT, check=_says_something),
    },
)
PLAYBOOK_TEST = Key(
    "map",
    "Cases that playbooks must pass.",
    required=True,
    keys={
        "playbooks": _texts("the playbooks that are tested (all)"),
        "cluster": Key("list", "objects that exist", item=Key("map", "", free=True)),
        "cases": Key("list", "the cases", required=True, item=_CASE, check=_not_empty),
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
