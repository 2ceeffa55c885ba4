"""Templates in the notation of Falco, such as ``%k8s.pod.name``. The rendered text is not evaluated again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from engine.model.event import PRIORITIES, format_time, is_present

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from engine.model.event import Event

ABSENT = "<NA>"
MAX_VALUE = 4096
"""Characters of one rendered value. A longer value is truncated."""
MAX_NAMES = 1_000
"""Names in one template. Together with MAX_VALUE this limits the rendered text."""
_MAX_NAME = 1_000
"""Characters of one name. The search for the path of an answer takes quadratic time."""

WORDS = ("rule", "priority", "time", "hostname", "source", "tags", "output", "playbook")
RUN_WORDS = ("run.id", "run.outcome")
# A bracket ends at the next bracket of either kind, and a brace at the next brace. Otherwise each unclosed one
# would scan the rest of the text, which takes quadratic time.
_BRACKETS = r"(?:\[[^\[\]]*\])*"
_NAME = rf"[A-Za-z][A-Za-z0-9_]*{_BRACKETS}(?:\.[A-Za-z0-9_]+{_BRACKETS})*"
_REFERENCE = re.compile(rf"%%|%\{{([^{{}}]*)\}}|%({_NAME})|%\{{")
HELD_WORDS = ("held.step", "held.until", "held.reason")
"""Words in the steps of ``onHeld``. Everywhere else these names are output fields."""
_STEP = re.compile(r"steps\.(.+)\.(state|message)", re.DOTALL)
_PATH = r"(?:\.[A-Za-z0-9_-]+|\[[0-9]{1,9}\]|\['[^'\]]*'\])+"
_ANSWER = re.compile(rf"steps\.(.+)\.answer({_PATH})", re.DOTALL)
"""The answer of an earlier step, and a path within it: ``steps.ticket.answer.items[0].id``."""
_ANSWER_WORD = re.compile(r"\.answer(?=[.\[])")
_PATH_PART = re.compile(r"\.([A-Za-z0-9_-]+)|\[([0-9]+)\]|\['([^'\]]*)'\]")


class TemplateError(ValueError):
    """A template that is not valid."""


class TemplateContext(msgspec.Struct, frozen=True):
    """The data that a template can use in addition to the event.

    run: the id of the run. outcome: of the run so far. steps: name -> (state, message). held: the values of
    HELD_WORDS, in a run that notifies people of a hold. answers: name of a step -> its answer (JSON). planned:
    the steps whose answer a preview does not know. A part of such an answer renders as its own name.
    """

    playbook: str = ""
    run: str = ""
    outcome: str = ""
    steps: Mapping[str, tuple[str, str]] | None = None
    held: Mapping[str, str] | None = None
    answers: Mapping[str, Any] | None = None
    planned: Collection[str] = ()


class Template(msgspec.Struct, frozen=True):
    """A compiled template. parts: text, and names as 1-tuples."""

    source: str
    parts: tuple[str | tuple[str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the template."""
        return tuple(part[0] for part in self.parts if isinstance(part, tuple))

    @property
    def fields(self) -> tuple[str, ...]:
        """The names that are output fields, not words of the engine."""
        return tuple(name for name in self.names if not _is_word(name))

    def render(
        self, event: Event, context: TemplateContext, escape: Callable[[str], str] | None = None
    ) -> str:
        """Return the text. ``escape`` is applied to each value."""
        if len(self.parts) == 1 and isinstance(self.parts[0], str):
            return self.parts[0]
        rendered = []
        for part in self.parts:
            if isinstance(part, str):
                rendered.append(part)
            else:
                text = _resolve(part[0], event, context)
                rendered.append(escape(text) if escape else text)
        return "".join(rendered)


def compile_template(text: str, steps: Collection[str] = ()) -> Template:
    """Compile a template. steps: the names of the earlier steps, for ``%steps.NAME.state`` and ``.answer``.

    Raises TemplateError for a word that is neither a field nor known, for ``%{`` without a name or without
    ``}``, and for more than MAX_NAMES names.
    """
    parts: list[str | tuple[str]] = []
    end = names = 0
    for match in _REFERENCE.finditer(text):
        if match.start() > end:
            parts.append(text[end : match.start()])
        end = match.end()
        if match[0] == "%%":
            parts.append("%")
            continue
        name = match[1] or match[2]
        if not name:
            raise TemplateError("`%{` needs a name and a closing `}`")
        if len(name) > _MAX_NAME:
            what = f"`%{name[:80]}…` is too long: a name has at most {_MAX_NAME:,} characters"
            raise TemplateError(what)
        _check(name, steps, braces=match[1] is not None)
        parts.append((name,))
        names += 1
        if names > MAX_NAMES:
            raise TemplateError(f"a template has at most {MAX_NAMES:,} names")
    if end < len(text) or not parts:
        parts.append(text[end:])
    return Template(text, tuple(parts))


def _check(name: str, steps: Collection[str], *, braces: bool) -> None:
    """Raise TemplateError for an unknown word. In braces, any name that is not a word is an output field."""
    step = _STEP.fullmatch(name)
    if (step and step[1] in steps) or _answer(name, steps):
        return
    if step or _ANSWER.fullmatch(name):
        raise TemplateError(f"`%{name[:80]}`: {_list_steps(steps)}")
    if braces or _is_word(name):
        return
    if name.startswith("steps."):
        raise TemplateError(
            f"`%{name[:80]}` does not end in `.state`, `.message` or `.answer.PATH`"
        )
    if "." not in name or name.startswith("run."):
        what = f"`%{name[:80]}` is not a field (it has no dot) and not a known word"
        raise TemplateError(f"{what}; `%{{{name[:80]}}}` names a field")


def _list_steps(steps: Collection[str]) -> str:
    shown = [name for _, name in zip(range(20), steps, strict=False)]
    return f"the earlier steps are {', '.join(shown) or 'none'}"


def _is_word(name: str) -> bool:
    """Whether the name is a word of the engine. A word takes precedence over a field of the same name."""
    if name in WORDS or name in RUN_WORDS:
        return True
    return bool(_STEP.fullmatch(name) or _ANSWER.fullmatch(name))


def _resolve(name: str, event: Event, context: TemplateContext) -> str:
    """Return the text for a name. A word takes precedence over a field of the same name."""
    if name in WORDS:
        return _word(name, event, context)
    if name == "run.id":
        return context.run
    if name == "run.outcome":
        return context.outcome
    if context.held and name in context.held:
        return context.held[name]
    step, answer = _STEP.fullmatch(name), _answer(name, context.steps or ())
    if step and (not answer or step[1] in (context.steps or {})):
        state, message = (context.steps or {}).get(step[1], (ABSENT, ABSENT))
        return state if step[2] == "state" else message
    if answer:
        step_name, path = answer
        if step_name in context.planned:
            return name
        return text_of(_at_path((context.answers or {}).get(step_name), path))
    return text_of(event.fields.get(name))


def _answer(name: str, steps: Collection[str]) -> tuple[str, str] | None:
    """Split ``steps.NAME.answer.PATH`` into a name of these steps and the path.

    None if no step has such a name.
    """
    if not name.startswith("steps."):
        return None
    for found in _ANSWER_WORD.finditer(name):
        step, path = name[len("steps.") : found.start()], name[found.end() :]
        if step in steps and re.fullmatch(_PATH, path):
            return step, path
    return None


def _at_path(value: Any, path: str) -> Any:
    """Return the value at a path of an answer, or None if the path does not exist."""
    for key, index, quoted in _PATH_PART.findall(path):
        if index:
            value = (
                value[int(index)] if isinstance(value, list) and int(index) < len(value) else None
            )
        else:
            value = value.get(key or quoted) if isinstance(value, dict) else None
    return value


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
    """Return a value of an event as text, truncated to MAX_VALUE characters."""
    text = _text(value)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"


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
    """Return the items of a list as text, without those that text_of would truncate."""
    texts: list[str] = []
    length = 0
    for item in items:
        texts.append(_text(item))
        length += len(texts[-1]) + 2
        if length > MAX_VALUE + 2:
            break
    return ", ".join(texts)
