"""Remove secrets from events before anything is kept, shown or sent.

Playbooks match on the event as it was sent. The journal, logs, messages and ports contain the redacted event.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import msgspec
import re2

from engine.model.errors import EventError
from engine.model.event import decode_json, identity
from engine.model.event_subject import subject_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.model.event import Event

    Substitute = Callable[[str], str]

MASK = "***"
ANY_FIELD = "*"
"""A rule for this field name applies to every field."""
_MAX_MEMORY = 1 << 19
"""Bytes of one compiled expression, as for the expressions in playbooks."""
_SEPARATE_KEYS = ("output_fields", "output", "priority", "time")
"""Keys of an alert that are redacted separately, or whose values have a fixed form."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


class RedactError(ValueError):
    """A redaction rule is not valid. The message says why."""


class Redaction:
    """The rules of ``--redact``. Raises RedactError.

    rules: ``FIELD=REGEX`` (RE2). What the expression finds becomes ``***`` in that output field or key of the
    alert (``*``: in all of them), and in the alert's ``output``. A number is replaced as a whole.
    """

    def __init__(self, rules: Iterable[str]) -> None:
        self._rules = [_parsed(rule) for rule in rules]
        self.redact_text = self._substitute(None)
        self._redact_other_field = self._substitute(ANY_FIELD)
        self._redact_field = {field: self._substitute(field) for field, _ in self._rules}

    def redact_event(self, event: Event) -> Event:
        """Return the event without secrets, or the same object if there are no rules. Keeps its identity."""
        if not self._rules:
            return event
        fields = {name: self._redacted(name, value) for name, value in event.fields.items()}
        sent = {
            key: value if key in _SEPARATE_KEYS else self._redacted(key, value)
            for key, value in event.sent.items()
        }
        output = self.redact_text(event.output)
        redacted: Event = msgspec.structs.replace(
            event,
            rule=self._redacted("rule", event.rule),
            source=self._redacted("source", event.source),
            hostname=self._redacted("hostname", event.hostname),
            tags=tuple(self._redacted("tags", list(event.tags))),
            output=output,
            fields=fields,
            sent={**sent, "output_fields": fields, "output": output},
            original=identity(event),
        )
        return redacted

    def matches(self, value: Any) -> bool:
        """Whether a rule, of any field, finds something in the value."""
        return bool(self._rules) and _redact(value, self.redact_text) != value

    def redact_target(self, event: Event, target: str) -> str:
        """Return the target of a run, or a digest of it if the names in it are secret.

        One target always has the same digest, so that its runs still wait for each other. event: before its
        redaction.
        """
        if not self.matches(subject_names(event)):
            return target
        return f"{MASK} {hashlib.sha256(target.encode()).hexdigest()[:32]}"

    def redact_content(self, content: Any) -> bytes:
        """Return content that is not an event, without what any rule finds. content: bytes or decoded JSON."""
        if not self._rules:
            return content if isinstance(content, bytes) else msgspec.json.encode(content)
        if isinstance(content, bytes):
            try:
                content = decode_json(content)
            except EventError:
                return self._redact_escaped(content.decode("utf-8", "replace")).encode()
        if isinstance(content, dict) and "data_base64" in content:
            content = {**content, "data_base64": MASK}  # rules cannot look into base64
        return msgspec.json.encode(_redact(content, self._redact_escaped))

    def _substitute(self, name: str | None) -> Substitute:
        """A function that applies the rules for a field to a text. None: all rules."""
        expressions = [e for field, e in self._rules if name is None or field in (name, ANY_FIELD)]

        def substitute(text: str) -> str:
            for expression in expressions:
                text = expression.sub(MASK, text)
            return text

        return substitute

    def _redacted(self, name: str, value: Any) -> Any:
        return _redact(value, self._redact_field.get(name, self._redact_other_field))

    def _redact_escaped(self, text: str) -> str:
        """Redact a text that may contain JSON, in which escapes can hide a secret."""
        text = self.redact_text(text)
        plain = _ESCAPE.sub(_unescaped, text)
        redacted = self.redact_text(plain)
        return text if redacted == plain else redacted


def _parsed(rule: str) -> tuple[str, Any]:
    """The field and the compiled expression of a rule. Raises RedactError."""
    field, _, expression = rule.partition("=")
    if not field or not expression:
        raise RedactError(
            rf"`{rule[:80]}` is not FIELD=REGEX (example: proc.cmdline=--password=\S+)"
        )
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    try:
        return field, re2.compile(expression, options)
    except re2.error as error:
        what = error.args[0]
        what = what.decode("utf-8", "replace") if isinstance(what, bytes) else what
        raise RedactError(f"`{expression[:80]}` is not a valid RE2 expression: {what}") from None


def _redact(value: Any, substitute: Substitute) -> Any:
    """Redact the texts, keys and numbers of a value at any depth."""
    if isinstance(value, str):
        return substitute(value)
    if isinstance(value, list):
        return [_redact(item, substitute) for item in value]
    if isinstance(value, dict):
        return {substitute(key): _redact(item, substitute) for key, item in value.items()}
    if value is None:
        return None
    text = msgspec.json.encode(value).decode()
    return value if substitute(text) == text else MASK


def _unescaped(found: re.Match[str]) -> str:
    code, letter = found.groups()
    if letter:
        return _ESCAPED.get(letter, letter)
    number = int(code, 16)
    return "?" if 0xD800 <= number < 0xE000 else chr(number)  # noqa: PLR2004 - half of a surrogate pair
