"""Templates in Falco's notation: ``%k8s.pod.name``. A template is replaced once; the result is not evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from engine.model.event import PRIORITIES, format_time, is_present

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from engine.model.event import Event

ABSENT = "<NA>"
LONGEST = 4096
"""Characters of one value of an event in a template; a longer value is cut."""
MOST_NAMES = 1_000
"""Names in one template; with LONGEST this bounds the rendered text."""

WORDS = ("rule", "priority", "time", "hostname", "source", "tags", "output", "playbook")
RUN_WORDS = ("run.id", "run.outcome")
# A bracket ends at the next bracket of either kind, and braces at the next brace. Otherwise each opening one
# without a closing one would read the whole rest of the text, which is quadratic.
_BRACKETS = r"(?:\[[^\[\]]*\])*"
_NAME = rf"[A-Za-z][A-Za-z0-9_]*{_BRACKETS}(?:\.[A-Za-z0-9_]+{_BRACKETS})*"
_REFERENCE = re.compile(rf"%%|%\{{([^{{}}]*)\}}|%({_NAME})|%\{{")
HELD_WORDS = ("held.step", "held.until", "held.reason")
"""Words of the steps of ``onHeld``; anywhere else they name fields."""
_STEP = re.compile(r"steps\.(.+)\.(state|message)", re.DOTALL)


class TemplateError(ValueError):
    """A template that cannot be right; the sentence says which word."""


@dataclass(frozen=True, slots=True)
class TemplateContext:
    """What a template may speak of besides the event.

    run: the run's id. outcome: of the run so far. steps: name -> (state, message). held: HELD_WORDS -> text,
    in a run that notifies people of a hold.
    """

    playbook: str = ""
    run: str = ""
    outcome: str = ""
    steps: Mapping[str, tuple[str, str]] | None = None
    held: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template: text, and names to be replaced, by turns (a name is a 1-tuple)."""

    source: str
    parts: tuple[str | tuple[str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it replaces."""
        return tuple(part[0] for part in self.parts if isinstance(part, tuple))

    @property
    def fields(self) -> tuple[str, ...]:
        """The output fields that it replaces: the names that are not words of the engine."""
        return tuple(name for name in self.names if not _is_word(name))

    def render(
        self, event: Event, context: TemplateContext, escape: Callable[[str], str] | None = None
    ) -> str:
        """The text, with what the event says put through ``escape``."""
        if len(self.parts) == 1 and isinstance(self.parts[0], str):
            return self.parts[0]
        said = []
        for part in self.parts:
            if isinstance(part, str):
                said.append(part)
            else:
                text = _resolve(part[0], event, context)
                said.append(escape(text) if escape else text)
        return "".join(said)


def compile_template(text: str, steps: Collection[str] = ()) -> Template:
    """The template. steps: the names of the earlier steps, which ``%steps.NAME.state`` may name.

    Raises TemplateError for a word that is neither a field nor known, for ``%{`` without a name and its
    ``}``, and for more than MOST_NAMES names.
    """
    parts: list[str | tuple[str]] = []
    end = names = 0
    for found in _REFERENCE.finditer(text):
        if found.start() > end:
            parts.append(text[end : found.start()])
        end = found.end()
        if found[0] == "%%":
            parts.append("%")
            continue
        name = found[1] or found[2]
        if not name:
            raise TemplateError("`%{` without a name and its `}`")
        _check(name, steps, braces=found[1] is not None)
        parts.append((name,))
        names += 1
        if names > MOST_NAMES:
            raise TemplateError(f"a template replaces at most {MOST_NAMES:,} names")
    if end < len(text) or not parts:
        parts.append(text[end:])
    return Template(text, tuple(parts))


def _check(name: str, steps: Collection[str], *, braces: bool) -> None:
    """Raises TemplateError. Braces make a field of any name that does not have the form of a word."""
    step = _STEP.fullmatch(name)
    if step:
        if step[1] not in steps:
            raise TemplateError(f"`%{name[:80]}`: {_known(steps)}")
    elif braces or _is_word(name):
        return
    elif name.startswith("steps."):
        raise TemplateError(f"`%{name[:80]}` does not end in `.state` or `.message`")
    elif "." not in name or name.startswith("run."):
        what = f"`%{name[:80]}` is not a field (it has no dot) and not a known word"
        raise TemplateError(f"{what}; `%{{{name[:80]}}}` names a field")


def _known(steps: Collection[str]) -> str:
    shown = [name for _, name in zip(range(20), steps, strict=False)]
    return f"the earlier steps are {', '.join(shown) or 'none'}"


def _is_word(name: str) -> bool:
    """Whether the name is one of the engine's own words. They come before a field of the same name."""
    return name in WORDS or name in RUN_WORDS or _STEP.fullmatch(name) is not None


def _resolve(name: str, event: Event, context: TemplateContext) -> str:
    """The text that replaces a name; a word comes before a field of the same name."""
    if name in WORDS:
        return _word(name, event, context)
    if name == "run.id":
        return context.run
    if name == "run.outcome":
        return context.outcome
    if context.held and name in context.held:
        return context.held[name]
    step = _STEP.fullmatch(name)
    if step:
        state, message = (context.steps or {}).get(step[1], (ABSENT, ABSENT))
        return state if step[2] == "state" else message
    return text_of(event.fields.get(name))


def _word(name: str, event: Event, context: TemplateContext) -> str:
    if name == "playbook":
        return context.playbook
    if name == "priority":
        return ABSENT if event.priority is None else PRIORITIES[event.priority]
    if name == "time":
        return format_time(event.time_ns)
    value: Any = list(event.tags) if name == "tags" else getattr(event, name)
    return text_of(value)


def text_of(value: Any) -> str:
    """A value of an event as text, cut to LONGEST characters."""
    text = _text(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _text(value: Any) -> str:
    if not is_present(value):
        return ABSENT
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)  # noqa: PLR2004 - as Go prints
    if isinstance(value, list):
        return _joined(value)
    return msgspec.json.encode(value).decode()


def _joined(items: list[Any]) -> str:
    """The items of a list as text, no more of them than text_of keeps."""
    texts: list[str] = []
    length = 0
    for item in items:
        texts.append(_text(item))
        length += len(texts[-1]) + 2
        if length > LONGEST + 2:
            break
    return ", ".join(texts)
