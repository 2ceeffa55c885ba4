"""Checks of values that have the right type. A check takes the value of a key and returns the fault or None."""

from __future__ import annotations

import re
from typing import Any

from engine.language import duration
from engine.model.event import PRIORITIES, parse_priority, parse_time

Fault = tuple[str, str, str | None]
"""The code of the finding, the message and a hint."""

STEPS = ("actions", "finally", "refused", "held", "skipped")
"""Keys of ``expect`` that list steps."""
_OUTCOMES = ("done", "failed", "skipped", "refused", "held")
"""Step states that a PlaybookTest can assume."""

MAX_STEPS = 1_000
MAX_NAMES = 1_000
_MAX_NAME = 1_000
"""Characters of one name. It can be a glob, which is compiled."""
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
"""The pattern of a DNS-1123 subdomain, such as the name of a ServiceAccount."""
MAX_SUBDOMAIN = 253
_MAX_WILDCARDS = 1_000
"""Wildcards of one list of names. Each becomes up to 10 instructions of an RE2 expression."""


def duration_text(value: str) -> Fault | None:
    """Check a duration."""
    if duration.seconds(value):
        return None
    return "bad-duration", f"`{value[:40]}` is not a valid duration", duration.HINT


def priority(value: str) -> Fault | None:
    """Check the name of a priority."""
    if parse_priority(value) is not None:
        return None
    near = next((p for p in PRIORITIES if p.lower().startswith(value.lower()[:4]) and value), None)
    return "bad-value", f"`{value[:40]}` is not a priority", near or ", ".join(PRIORITIES)


def everything(value: bool) -> Fault | None:  # noqa: FBT001 - a value of the language
    """Check ``everything``, which is true or absent."""
    return None if value else ("bad-value", "`everything` is true, or the key is left out", None)


def attempts(value: int) -> Fault | None:
    """Check the number of attempts, 1 to 100."""
    return None if 1 <= value <= 100 else ("bad-value", "attempts are 1 to 100", None)  # noqa: PLR2004


def count(value: int) -> Fault | None:
    """Check a count, 1 to 10,000."""
    return None if 1 <= value <= 10_000 else ("bad-value", "count is 1 to 10,000", None)  # noqa: PLR2004


def first(value: int) -> Fault | None:
    """Check the number of events that a throttle lets act, 1 to 1,000."""
    return None if 1 <= value <= 1_000 else ("bad-value", "first is 1 to 1,000", None)  # noqa: PLR2004


def limit(value: int) -> Fault | None:
    """Check the limit of a budget, 1 to 10,000."""
    return None if 1 <= value <= 10_000 else ("bad-value", "limit is 1 to 10,000", None)  # noqa: PLR2004


def not_blank(value: str) -> Fault | None:
    """Check that a text says something."""
    return None if value.strip() else ("bad-value", "the text is empty", None)


def not_empty(value: list[Any]) -> Fault | None:
    """Check that a list has an item."""
    return None if value else ("bad-value", "the list is empty", "leave the key out, or add items")


def optional_steps(value: list[Any]) -> Fault | None:
    """Check the number of steps, up to MAX_STEPS."""
    return ("bad-value", f"more than {MAX_STEPS:,} steps", None) if value[MAX_STEPS:] else None


def required_steps(value: list[Any]) -> Fault | None:
    """Check the number of steps, 1 to MAX_STEPS."""
    return not_empty(value) or optional_steps(value)


def names(value: list[Any]) -> Fault | None:
    """Check a list of names or globs: their number, their length and their wildcards."""
    if value[MAX_NAMES:]:
        return "bad-value", f"more than {MAX_NAMES:,} names", None
    wildcards = sum(name.count("*") + name.count("?") for name in value if isinstance(name, str))
    if wildcards > _MAX_WILDCARDS:
        return "bad-value", f"more than {_MAX_WILDCARDS:,} wildcards", None
    return not_empty(value) or name_length(value)


def name_length(value: list[Any]) -> Fault | None:
    """Check the length of each name of a list."""
    if all(len(name) <= _MAX_NAME for name in value if isinstance(name, str)):
        return None
    return "bad-value", f"a name has at most {_MAX_NAME:,} characters", None


def match(value: dict[str, Any]) -> Fault | None:
    """Check the combination of keys of ``match``."""
    if not value:
        what = "an empty `match` would match every event"
        return "empty-match", what, "to match every event, write everything: true"
    if "everything" in value and len(value) > 1:
        what = "`everything` does not combine with other keys"
        return "bad-value", what, "remove it, or the other keys"
    return None


def throttle(value: dict[str, Any]) -> Fault | None:
    """Check the combination of keys of ``throttle``: once, first + within, or count + within."""
    given = {"once", "first", "count", "within"} & value.keys()
    allowed = ({"once"}, {"first", "within"}, {"count", "within"})
    if given in allowed:
        return None
    code = "missing-key" if any(given < keys for keys in allowed) else "bad-value"
    what = "a throttle has `once`, or `within` with `first` or `count`"
    return code, what, "once: 10m, or first: 5 and within: 1m"


def service_account(value: str) -> Fault | None:
    """Check the name of a ServiceAccount."""
    if len(value) <= MAX_SUBDOMAIN and re.fullmatch(SUBDOMAIN, value):
        return None
    what = f"`{value[:40]}` is not a valid name of a ServiceAccount"
    return "bad-value", what, "its name without the namespace, like responder-payments"


def time(value: str) -> Fault | None:
    """Check an RFC 3339 time."""
    try:
        parse_time(value)
    except ValueError:
        what = f"`{value[:40]}` is not an RFC 3339 time"
        return "bad-value", what, "like 2026-12-24T00:00:00Z"
    return None


def case_events(value: dict[str, Any]) -> Fault | None:
    """Check that a test case has exactly one source of events."""
    given = {"event", "events", "eventFile"} & value.keys()
    if len(given) == 1:
        return None
    code = "bad-value" if given else "missing-key"
    return code, "a case has one of `event`, `events` and `eventFile`", None


def expectation(value: dict[str, Any]) -> Fault | None:
    """Check that ``expect`` can fail."""
    calls = value.get("calls") or ("calls" in value and value.get("onlyCalls") is True)
    if calls or "nothing" in value or not value.keys().isdisjoint(STEPS):
        return None
    return "bad-value", "a case without an expectation cannot fail", "nothing: true"


def nothing(value: bool) -> Fault | None:  # noqa: FBT001 - a value of the language
    """Check ``nothing``, which is true or absent."""
    return None if value else ("bad-value", "`nothing` is true, or the key is left out", None)


def outcomes(value: dict[str, Any]) -> Fault | None:
    """Check the assumed outcomes of steps: a state, or ``{answer: ...}``."""
    for name, outcome in value.items():
        answer = isinstance(outcome, dict) and outcome.keys() == {"answer"}
        if not answer and outcome not in _OUTCOMES:
            states = ", ".join(_OUTCOMES)
            what = f"the outcome of `{str(name)[:80]}` is one of {states}, or {{answer: ...}}"
            return "bad-value", what, "done"
    return None
