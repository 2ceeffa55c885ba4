"""What an event says and nobody may read: taken out before anything of it is kept, shown or sent.

Playbooks match on the event as it came; what is written, logged, shown and sent is what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import re2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.event import Event

MASK = "***"
ALL = "*"
"""In place of a field's name: every field."""


class RedactError(ValueError):
    """A ``FIELD=REGEX`` that is none; the sentence says why."""


class Redaction:
    """The rules of ``--redact``. Raises RedactError.

    rules: ``FIELD=REGEX`` (RE2); what the expression finds in that output field, or in any with ``*``, and
    in the alert's ``output``, becomes ``***``.
    """

    def __init__(self, rules: Iterable[str]) -> None:
        self._rules: list[tuple[str, Any]] = []
        for rule in rules:
            field, _, expression = rule.partition("=")
            if not field or not expression:
                raise RedactError(f"`{rule[:80]}` is no FIELD=REGEX")
            try:
                self._rules.append((field, re2.compile(expression)))
            except re2.error as error:
                raise RedactError(f"`{expression[:80]}` is no RE2 expression: {error}") from None

    def event(self, event: Event) -> Event:
        """The event without what must not be read."""
        if not self._rules:
            return event
        fields = {name: self._value(name, value) for name, value in event.fields.items()}
        output = self.text(event.output)
        sent = {**event.sent, "output_fields": fields, "output": output}
        left: Event = msgspec.structs.replace(event, fields=fields, output=output, sent=sent)
        return left

    def text(self, text: str) -> str:
        """A text of whatever field, without what any of the rules finds in it."""
        for _, expression in self._rules:
            text = expression.sub(MASK, text)
        return text

    def _value(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(name, item) for item in value]
        if not isinstance(value, str):
            return value
        for field, expression in self._rules:
            if field in (name, ALL):
                value = expression.sub(MASK, value)
        return value
