"""What an event says and nobody may read: taken out before anything of it is kept, shown or sent.

Playbooks match on the event as it came; what is written, logged, shown and sent is what is left.
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

MASK = "***"
ALL = "*"
"""In place of a field's name: every field."""
_APART = ("output_fields", "output", "priority", "time")
"""Keys of an alert that are looked after by themselves, or can hold no more than one of a few forms."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


class RedactError(ValueError):
    """A ``FIELD=REGEX`` that is none; the sentence says why."""


class Redaction:
    """The rules of ``--redact``. Raises RedactError.

    rules: ``FIELD=REGEX`` (RE2); what the expression finds in that output field or key of the alert, or in
    any with ``*``, and in the alert's ``output``, becomes ``***``; a number in which it finds something
    becomes it whole.
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
        self._text = self._that_concerns(None)
        self._any = self._that_concerns(ALL)
        self._of = {field: self._that_concerns(field) for field, _ in self._rules}

    def event(self, event: Event) -> Event:
        """The event without what must not be read; its identity stays that of the event as it came."""
        if not self._rules:
            return event
        fields = {name: self._left(name, value) for name, value in event.fields.items()}
        sent = {
            key: value if key in _APART else self._left(key, value)
            for key, value in event.sent.items()
        }
        output = self._text(event.output)
        left: Event = msgspec.structs.replace(
            event,
            rule=self._left("rule", event.rule),
            source=self._left("source", event.source),
            hostname=self._left("hostname", event.hostname),
            tags=tuple(self._left("tags", list(event.tags))),
            output=output,
            fields=fields,
            sent={**sent, "output_fields": fields, "output": output},
            original=identity(event),
        )
        return left

    def finds(self, value: Any) -> bool:
        """Whether any of the rules finds something in a value, of whatever field it is."""
        return bool(self._rules) and _left(value, self._text) != value

    def lane(self, event: Event, target: str) -> str:
        """The target of a run as it may be read: a digest where the names in it must not be.

        The same for one target whichever fields name it, so that what waits for it waits still.
        """
        if not self.finds(subject_names(event)):
            return target
        return f"{MASK} {hashlib.sha256(target.encode()).hexdigest()[:32]}"

    def letter(self, content: Any) -> bytes:
        """What was no event, bytes or decoded JSON, without what any of the rules finds in it."""
        if not self._rules:
            return content if isinstance(content, bytes) else msgspec.json.encode(content)
        if isinstance(content, bytes):
            try:
                content = decode_json(content)
            except EventError:
                return self._raw(content.decode("utf-8", "replace")).encode()
        if (
            isinstance(content, dict) and "data_base64" in content
        ):  # of a CloudEvent: unreadable here
            content = {**content, "data_base64": MASK}
        return msgspec.json.encode(_left(content, self._raw))

    def _that_concerns(self, name: str | None) -> Callable[[str], str]:
        """What a text of a field becomes by the rules that concern it (None: by all of them)."""
        expressions = [e for field, e in self._rules if name is None or field in (name, ALL)]

        def left(text: str) -> str:
            for expression in expressions:
                text = expression.sub(MASK, text)
            return text

        return left

    def _left(self, name: str, value: Any) -> Any:
        return _left(value, self._of.get(name, self._any))

    def _raw(self, text: str) -> str:
        """What is left of a text that may be, or hold, JSON in which escapes hide what is looked for."""
        text = self._text(text)
        plain = _ESCAPE.sub(_unescaped, text)
        left = self._text(plain)
        return text if left == plain else left


def _left(value: Any, text: Callable[[str], str]) -> Any:
    """A value, however deep, without what is taken out of its texts, of its keys, of its numbers as text."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [_left(item, text) for item in value]
    if isinstance(value, dict):
        return {text(key): _left(item, text) for key, item in value.items()}
    if value is None:
        return None
    told = msgspec.json.encode(value).decode()
    return value if text(told) == told else MASK


def _unescaped(found: re.Match[str]) -> str:
    code, letter = found.groups()
    if letter:
        return _ESCAPED.get(letter, letter)
    number = int(code, 16)
    return "?" if 0xD800 <= number < 0xE000 else chr(number)  # noqa: PLR2004 - half of a pair is no text
