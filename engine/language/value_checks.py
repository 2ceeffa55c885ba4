"""What may be wrong with a value of the right type: one check for a key, or for the keys of a map together."""

from __future__ import annotations

from typing import Any

from engine.language import duration
from engine.model.event import PRIORITIES, parse_priority, parse_time

Wrong = tuple[str, str, str | None]
"""A finding's code, what is wrong, and a hint."""

STEPS = ("actions", "finally", "refused", "held", "skipped")
"""Keys of ``expect`` that name steps: exactly these, in this order."""
ENDS = ("done", "failed", "skipped", "refused", "held")
"""How a PlaybookTest may assume that a step ends."""

MAX_STEPS = 1_000
MAX_NAMES = 1_000
_LONGEST_NAME = 1_000
"""Characters; a name may be a glob, which is compiled."""
_MOST_WILDCARDS = 1_000
"""Wildcards in one list of names; each becomes up to 10 instructions of an RE2 expression."""


def duration_text(value: str) -> Wrong | None:
    """What is wrong with a text that should be a duration."""
    return (
        None
        if duration.seconds(value)
        else ("bad-duration", f"`{value[:40]}` is no duration", duration.HINT)
    )


def priority(value: str) -> Wrong | None:
    """What is wrong with the name of a priority."""
    if parse_priority(value) is not None:
        return None
    near = next((p for p in PRIORITIES if p.lower().startswith(value.lower()[:4]) and value), None)
    return "bad-value", f"`{value[:40]}` is no priority", near or ", ".join(PRIORITIES)


def everything(value: bool) -> Wrong | None:  # noqa: FBT001 - a value of the language
    """What is wrong with ``everything``."""
    return None if value else ("bad-value", "`everything` is true, or is left out", None)


def attempts(value: int) -> Wrong | None:
    """What is wrong with a number of attempts."""
    return None if 1 <= value <= 100 else ("bad-value", "attempts are 1 to 100", None)  # noqa: PLR2004


def count(value: int) -> Wrong | None:
    """What is wrong with a count."""
    return None if 1 <= value <= 10_000 else ("bad-value", "count is 1 to 10,000", None)  # noqa: PLR2004


def first(value: int) -> Wrong | None:
    """What is wrong with a number of events that act."""
    return None if 1 <= value <= 1_000 else ("bad-value", "first is 1 to 1,000", None)  # noqa: PLR2004


def not_empty(value: list[Any]) -> Wrong | None:
    """What is wrong with a list that must name something."""
    return None if value else ("bad-value", "the list is empty", "leave the key out, or name some")


def name_length(value: list[Any]) -> Wrong | None:
    """What is wrong with names of any length."""
    if all(len(name) <= _LONGEST_NAME for name in value if isinstance(name, str)):
        return None
    return "bad-value", f"a name has at most {_LONGEST_NAME:,} characters", None


def optional_steps(value: list[Any]) -> Wrong | None:
    """What is wrong with steps, as many as they may be."""
    return ("bad-value", f"more than {MAX_STEPS:,} steps", None) if value[MAX_STEPS:] else None


def required_steps(value: list[Any]) -> Wrong | None:
    """What is wrong with steps, of which there must be one."""
    return not_empty(value) or optional_steps(value)


def names(value: list[Any]) -> Wrong | None:
    """What is wrong with names, of which there must be one."""
    return not_empty(value) or name_count(value) or name_length(value) or wildcard_count(value)


def name_count(value: list[Any]) -> Wrong | None:
    """What is wrong with names, as many as they may be."""
    return ("bad-value", f"more than {MAX_NAMES:,} names", None) if value[MAX_NAMES:] else None


def wildcard_count(value: list[Any]) -> Wrong | None:
    """What is wrong with names that are globs, as large as they may be together."""
    wildcards = sum(name.count("*") + name.count("?") for name in value if isinstance(name, str))
    if wildcards <= _MOST_WILDCARDS:
        return None
    return "bad-value", f"more than {_MOST_WILDCARDS:,} wildcards", None


def match(value: dict[str, Any]) -> Wrong | None:
    """What is wrong with the keys of ``match`` taken together."""
    if not value:
        return "empty-match", "an empty `match` would match everything", "everything: true says so"
    if "everything" in value and len(value) > 1:
        return "bad-value", "`everything` stands alone", "remove it, or the other keys"
    return None


def throttle(value: dict[str, Any]) -> Wrong | None:
    """What is wrong with the keys of ``throttle`` taken together."""
    given = {"once", "first", "count", "within"} & value.keys()
    forms = ({"once"}, {"first", "within"}, {"count", "within"})
    if given in forms:
        return None
    code = "missing-key" if any(given < form for form in forms) else "bad-value"
    return (
        code,
        "a throttle has `once`, or `within` with `first` or `count`",
        "once: 10m, or first: 5 and within: 1m",
    )


def time(value: str) -> Wrong | None:
    """What is wrong with a text that should be a time."""
    try:
        parse_time(value)
    except ValueError:
        return "bad-value", f"`{value[:40]}` is no RFC 3339 time", "like 2026-12-24T00:00:00Z"
    return None


def case_events(value: dict[str, Any]) -> Wrong | None:
    """What is wrong with where a case's events come from."""
    given = {"event", "events", "eventFile"} & value.keys()
    if len(given) == 1:
        return None
    code = "bad-value" if given else "missing-key"
    return code, "a case has one of `event`, `events` and `eventFile`", None


def expectation(value: dict[str, Any]) -> Wrong | None:
    """Report an ``expect`` that every plan meets."""
    calls = value.get("calls") or ("calls" in value and value.get("onlyCalls") is True)
    if calls or "nothing" in value or not value.keys().isdisjoint(STEPS):
        return None
    return "bad-value", "a case that expects nothing in particular cannot fail", "nothing: true"


def nothing(value: bool) -> Wrong | None:  # noqa: FBT001 - a value of the language
    """Report ``nothing: false``, which expects nothing in particular."""
    return None if value else ("bad-value", "`nothing` is true, or the key is left out", None)


def outcomes(value: dict[str, Any]) -> Wrong | None:
    """Report an assumed outcome that is neither a state nor ``{answer: …}``."""
    for name, outcome in value.items():
        answer = isinstance(outcome, dict) and outcome.keys() == {"answer"}
        if not answer and outcome not in ENDS:
            what = f"`{str(name)[:80]}` ends in one of {', '.join(ENDS)}, or in {{answer: ...}}"
            return "bad-value", what, "done"
    return None
