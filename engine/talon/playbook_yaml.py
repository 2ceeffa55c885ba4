"""Drafts as YAML that reads as if a person had written it."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

from engine.language.schema import API_VERSION
from engine.model.safe_text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.talon.translate import Draft

_WIDTH = 100
_PLAIN = re.compile(r"[A-Za-z$/][A-Za-z0-9_$./()-]*(?: [A-Za-z0-9_$./()-]+)*")
_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))


def playbook_yaml(draft: Draft) -> str:
    """The playbook's document, with comments that say where each part came from."""
    return "\n".join(_lines(draft)) + "\n"


def _lines(draft: Draft) -> Iterator[str]:
    rule = draft.rule
    yield from _comment(f'From {rule.where.file}:{rule.where.line}, rule "{rule.name}".', 0)
    yield f"apiVersion: {API_VERSION}"
    yield "kind: Playbook"
    yield "metadata:"
    yield f"  name: {scalar(draft.name)}"
    yield "spec:"
    if draft.description:
        yield from _described(draft.description)
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
            yield from _item(step.value, 4, spread=True)
    if draft.finally_:
        yield "  finally:"
        for one in draft.finally_:
            yield from _item(one, 4, spread=True)


def _described(text: str) -> Iterator[str]:
    """The description: on one line, folded where that is too long, or as a block of its own lines."""
    lines = text.strip().split("\n")
    head = "  description:"
    single = f"{head} {scalar(lines[0])}"
    words = lines[0].split(" ")
    if not all(line.isprintable() for line in lines):
        yield f"{head} {scalar(text.strip())}"
    elif len(lines) > 1:
        yield f"{head} |-"
        yield from (f"    {_no_value(line)}".rstrip() for line in lines)
    elif len(single) <= _WIDTH or not all(words):
        yield single
    else:
        yield f"{head} >-"
        yield from (f"    {line}" for line in _wrapped(_no_value(lines[0]), _WIDTH - 4))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _comment(text: str, indent: int) -> Iterator[str]:
    for line in text.splitlines():
        is_step = line.startswith("- ")  # one that is left out, on a line of its own
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


def _item(value: Any, indent: int, *, spread: bool = False) -> Iterator[str]:
    """An item of a list; spread: over several lines even where one would do."""
    head = f"{' ' * indent}- "
    if not isinstance(value, dict) or (not spread and _fits(head, value)):
        yield head + flow(value)
        return
    first, *rest = _mapping(value, indent + 2)
    yield head + first[indent + 2 :]
    yield from rest


def _fits(head: str, value: Any) -> bool:
    return _room(value, _WIDTH - len(head)) >= 0 and len(head) + len(flow(value)) <= _WIDTH


def _room(value: Any, room: int) -> int:
    """The columns left behind a value at best; looks no further once there are none."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    room -= len(value) if isinstance(value, (str, list, dict)) else 1
    for one in inner:
        if room < 0:
            break
        room = _room(one, room)
    return room


def flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """A scalar that every YAML reader takes for the same, and in which ``${`` is no value's name."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    text = _no_value(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _no_value(text: str) -> str:
    """The text, in which ``${`` does not name a value."""
    return text.replace("${", "$${")


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    if letter == " " or letter.isprintable():
        return letter
    return f"\\U{ord(letter):08x}"
