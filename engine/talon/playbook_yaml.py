"""Write a playbook as readable YAML with comments that show the origin of each part."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.language.schema import API_VERSION
from engine.model.safe_text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.talon.rules_file import Rule

_WIDTH = 100
"""Columns."""
_PLAIN = re.compile(r"[A-Za-z$/][A-Za-z0-9_$./()-]*(?: [A-Za-z0-9_$./()-]+)*")
_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))


@dataclass(frozen=True, slots=True)
class CommentedItem:
    """A list item of a playbook with the comment above it. value: None to write only the comment."""

    value: dict[str, Any] | None
    comment: str


@dataclass(slots=True)
class PlaybookDraft:
    """A playbook to write. rule: its origin. mode: the mode and the reason for it, or None."""

    name: str
    rule: Rule
    description: str = ""
    mode: tuple[str, str] | None = None
    match: dict[str, Any] = field(default_factory=dict)
    conditions: list[CommentedItem] = field(default_factory=list)
    steps: list[CommentedItem] = field(default_factory=list)
    finally_: list[dict[str, Any]] = field(default_factory=list)


def playbook_yaml(draft: PlaybookDraft) -> str:
    """Return the YAML document of a playbook."""
    return "\n".join(_lines(draft)) + "\n"


def _lines(draft: PlaybookDraft) -> Iterator[str]:
    rule = draft.rule
    yield from _comment(f'From {rule.where.file}:{rule.where.line}, rule "{rule.name}".', 0)
    yield f"apiVersion: {API_VERSION}"
    yield "kind: Playbook"
    yield "metadata:"
    yield f"  name: {scalar(draft.name)}"
    yield "spec:"
    if draft.description:
        yield from _description(draft.description)
    if draft.mode:
        yield from _comment(draft.mode[1], 2)
        yield f"  mode: {draft.mode[0]}"
    yield "  match:"
    yield from _mapping(draft.match, 4)
    if draft.conditions:
        yield "  conditions:"
        for condition in draft.conditions:
            yield from _comment(condition.comment, 4)
            yield from _item(condition.value, 4)
    yield "  actions:"
    for step in draft.steps:
        yield from _comment(step.comment, 4)
        if step.value is not None:
            yield from _item(step.value, 4, multiline=True)
    if draft.finally_:
        yield "  finally:"
        for one in draft.finally_:
            yield from _item(one, 4, multiline=True)


def _description(text: str) -> Iterator[str]:
    """Write the description on one line, as a folded block if it is long, or as a literal block of lines."""
    lines = text.strip().split("\n")
    head = "  description:"
    single = f"{head} {scalar(lines[0])}"
    words = lines[0].split(" ")
    if not all(line.isprintable() for line in lines):
        yield f"{head} {scalar(text.strip())}"
    elif len(lines) > 1:
        yield f"{head} |-"
        yield from (f"    {_escape_values(line)}".rstrip() for line in lines)
    elif len(single) <= _WIDTH or not all(words):
        yield single
    else:
        yield f"{head} >-"
        yield from (f"    {line}" for line in _wrapped(_escape_values(lines[0]), _WIDTH - 4))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _comment(text: str, indent: int) -> Iterator[str]:
    for line in text.splitlines():
        is_step = line.startswith("- ")  # a step that is not converted stays on one line
        for part in [line] if is_step else _wrapped(printable(line), _WIDTH - indent):
            yield f"{' ' * indent}# {printable(part)}"


def _mapping(data: dict[str, Any], indent: int) -> Iterator[str]:
    for key, value in data.items():
        head = f"{' ' * indent}{scalar(key)}:"
        if _fits(f"{head} ", value) or not isinstance(value, (dict, list)):
            yield f"{head} {flow(value)}"
            continue
        yield head
        if isinstance(value, dict):
            yield from _mapping(value, indent + 2)
        else:
            for one in value:
                yield from _item(one, indent + 2)


def _item(value: Any, indent: int, *, multiline: bool = False) -> Iterator[str]:
    """Write a list item. multiline: use several lines even if one is enough."""
    head = f"{' ' * indent}- "
    if not isinstance(value, dict) or (not multiline and _fits(head, value)):
        yield head + flow(value)
        return
    first, *rest = _mapping(value, indent + 2)
    yield head + first[indent + 2 :]
    yield from rest


def _fits(head: str, value: Any) -> bool:
    return _columns_left(value, _WIDTH - len(head)) >= 0 and len(head) + len(flow(value)) <= _WIDTH


def _columns_left(value: Any, columns: int) -> int:
    """Return the most columns that can be left after the value. Stops as soon as there are none."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    columns -= len(value) if isinstance(value, (str, list, dict)) else 1
    for one in inner:
        if columns < 0:
            break
        columns = _columns_left(one, columns)
    return columns


def flow(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """Return a scalar that all YAML readers read as the same value, with ``${`` escaped."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    text = _escape_values(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escape_values(text: str) -> str:
    """Escape ``${``, which starts a reference to a value in a playbook."""
    return text.replace("${", "$${")


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    if letter == " " or letter.isprintable():
        return letter
    return f"\\U{ord(letter):08x}"
