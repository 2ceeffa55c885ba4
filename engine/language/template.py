"""Templates in Falco's own notation: ``%k8s.pod.name``, replaced once, never evaluated again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from engine.event import PRIORITIES, present, time_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from engine.event import Event

ABSENT = "<NA>"
LONGEST = 4096
"""Characters that a value of an event may bring into a template; a longer one is cut."""

WORDS = ("rule", "priority", "time", "hostname", "source", "tags", "output", "playbook")
RUN_WORDS = ("run.id", "run.outcome")
_NAME = r"[A-Za-z][A-Za-z0-9_]*(?:\[[^\]]*\])*(?:\.[A-Za-z0-9_]+(?:\[[^\]]*\])*)*"
_REFERENCE = re.compile(rf"%%|%\{{([^}}]*)\}}|%({_NAME})|%\{{")
_STEP = re.compile(r"steps\.(.+)\.(state|message)", re.DOTALL)


class TemplateError(ValueError):
    """A template that cannot be right; the sentence says which word."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a template may speak of besides the event.

    run: the run's id. outcome: of the run so far. steps: name -> (state, message).
    """

    playbook: str = ""
    run: str = ""
    outcome: str = ""
    steps: Mapping[str, tuple[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template: text, and names to be replaced, by turns (a name is a 1-tuple)."""

    source: str
    parts: tuple[str | tuple[str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it replaces."""
        return tuple(part[0] for part in self.parts if isinstance(part, tuple))

    def render(self, event: Event, facts: Facts, escape: Callable[[str], str] | None = None) -> str:
        """The text, with what the event says put through ``escape``."""
        if len(self.parts) == 1 and isinstance(self.parts[0], str):
            return self.parts[0]
        said = []
        for part in self.parts:
            if isinstance(part, str):
                said.append(part)
            else:
                text = _resolve(part[0], event, facts)
                said.append(escape(text) if escape else text)
        return "".join(said)


def compile_template(text: str, steps: Collection[str] = ()) -> Template:
    """The template. Raises TemplateError for a word that is neither a field nor one of the known ones."""
    parts: list[str | tuple[str]] = []
    end = 0
    for found in _REFERENCE.finditer(text):
        if found.start() > end:
            parts.append(text[end : found.start()])
        end = found.end()
        if found[0] == "%%":
            parts.append("%")
            continue
        name = found[1] if found[1] is not None else found[2]
        if not name:
            raise TemplateError("`%{` without a name and its `}`")
        _check(name, steps)
        parts.append((name,))
    if end < len(text) or not parts:
        parts.append(text[end:])
    return Template(text, tuple(parts))


def _check(name: str, steps: Collection[str]) -> None:
    if name in WORDS or name in RUN_WORDS:
        return
    step = _STEP.fullmatch(name)
    if step and step[1] in steps:
        return
    if name.startswith("steps."):
        raise TemplateError(f"`%{name}`: the steps are {', '.join(steps) or 'none'}")
    if "." not in name or name.startswith("run."):
        raise TemplateError(f"`%{name}` is no field (it has no dot) and none of the known words")


def _resolve(name: str, event: Event, facts: Facts) -> str:
    """What a name becomes; the engine's own words come before a field of that name."""
    if "." not in name:
        return _word(name, event, facts)
    if name == "run.id":
        return facts.run
    if name == "run.outcome":
        return facts.outcome
    step = _STEP.fullmatch(name)
    if step:
        state, message = (facts.steps or {}).get(step[1], (ABSENT, ABSENT))
        return state if step[2] == "state" else message
    return text_of(event.fields.get(name))


def _word(name: str, event: Event, facts: Facts) -> str:
    if name == "playbook":
        return facts.playbook
    if name == "priority":
        return ABSENT if event.priority is None else PRIORITIES[event.priority]
    if name == "time":
        return time_text(event.time_ns)
    value: Any = list(event.tags) if name == "tags" else getattr(event, name)
    return text_of(value)


def text_of(value: Any) -> str:
    """A value of an event as text, cut to LONGEST characters."""
    text = _text(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _text(value: Any) -> str:
    if not present(value):
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
        return ", ".join(_text(item) for item in value)
    return msgspec.json.encode(value).decode()
