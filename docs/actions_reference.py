"""Generate docs/actions.md and docs/actions/: an index, and one page for each action of the registry.

docs/generate.py writes the pages. Each page contains a dry run of the example of the action. The preview of
``tiercel plan`` produces it, with the events and the cluster in docs/actions/. The changes that undo reverts are
those that the action saves in an attempt on the same simulated cluster.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from engine.actions.registry import load_actions
from engine.cluster.api import CallRecorder
from engine.cluster.objects import read_objects
from engine.cluster.simulated import StaticCluster
from engine.execution.attempt import Clients, attempt
from engine.execution.attempt_store import PreviewStore
from engine.execution.guardrails import GuardrailChecker
from engine.language import duration
from engine.language.folder import Files
from engine.language.loader import Loader
from engine.language.schema import API_VERSION
from engine.model.event_formats import read_events
from engine.model.run import Claim
from engine.outbound.api import RequestRecorder
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory
from engine.preview.preview import PreviewContext, preview
from engine.render.plan_text import headline, step_lines
from engine.render.reference import rights_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.actions.registry import Action
    from engine.model.calls import ObjectChange
    from engine.model.event import Event
    from engine.model.run import Run
    from engine.preview.preview import PreviewedRun

FOLDER = Path(__file__).parent / "actions"
EVENTS = ("event.json", "audit-event.json")
"""The events of the dry runs. The first one on which the example does something is shown."""
CLUSTER = "cluster.yaml"
EFFECTS = {
    "notify": "sends a message or a request",
    "observe": "reads, or waits for a person",
    "mark": "labels or annotates objects, or creates an Event",
    "disrupt": "changes what runs, or what can connect",
}
_MADE = "<!-- made by docs/generate.py from the code of the action -->\n"
_INDEX = """# The actions

`python docs/generate.py` generates this page and the pages of the actions, from their signatures and docstrings.

The effect of an action decides which guardrails apply ([language.md](language.md#guardrails)).

The dry runs on the pages use [event.json](actions/event.json) or
[audit-event.json](actions/audit-event.json), and [cluster.yaml](actions/cluster.yaml). To repeat one, put
the example into a playbook:

```sh
tiercel plan PLAYBOOK docs/actions/event.json --cluster docs/actions/cluster.yaml
```
"""
_PAGE = re.compile(r"\bdocs/([a-z-]+\.md)")
_CODE = re.compile(r"(`[^`]+`)")
_MAX_CHOICES = 12
"""Values of one parameter whose rights are compared with those of the example."""


def index() -> str:
    """Return the text of docs/actions.md."""
    parts = [_INDEX]
    for effect, meaning in EFFECTS.items():
        found = [action for action in _actions() if action.effect == effect]
        if not found:
            continue
        parts.append(f"## {effect}\n\nAn action with this effect {meaning}.\n")
        parts.append("| action | | undo |\n|---|---|---|")
        for action in found:
            undo = "yes" if action.undoable else "no"
            link = f"[`{action.name}`](actions/{action.name}.md)"
            parts.append(f"| {link} | {_cell(action.doc.splitlines()[0])} | {undo} |")
        parts.append("")
    return "\n".join(parts)


def pages() -> dict[Path, str]:
    """Return the page of each action."""
    return {FOLDER / f"{action.name}.md": page(action) for action in _actions()}


def page(action: Action) -> str:
    """Return the page of an action."""
    sections = (_head, _parameters, _rights, _example, _dry_run, _undo)
    return "\n".join(line.rstrip() for section in sections for line in section(action)) + "\n"


def _actions() -> list[Action]:
    return sorted(load_actions().values(), key=lambda action: action.name)


def _head(action: Action) -> Iterator[str]:
    yield f"# {action.name}"
    yield ""
    yield _MADE
    repeatable = "yes" if action.repeatable else "no; see `retry.unknown`"
    target = action.target(action.effect) or "none"
    yield f"Effect: *{action.effect}*. Target: {target}. Repeatable: {repeatable}. [All actions](../actions.md)"
    yield ""
    for line in action.doc.splitlines():
        yield _text(line)
    yield ""


def _parameters(action: Action) -> Iterator[str]:
    yield "## Parameters"
    yield ""
    rows = []
    for parameter in action.parameters.values():
        schema = parameter.type.schema()
        default = "**required**" if parameter.required else _default(schema, parameter.default)
        rows.append((parameter.name, _takes(schema), default, parameter.doc))
        rows += [
            (f"{parameter.name}{key}", _takes(inner), "", str(inner.get("description", "")))
            for key, inner in _sub_keys(schema)
        ]
    if not rows:
        yield "The action has no parameters."
    else:
        yield "| parameter | takes | default | |"
        yield "|---|---|---|---|"
    for name, takes, default, doc in rows:
        yield f"| `{name}` | {takes} | {default} | {_cell(doc)} |"
    yield ""
    keys = "`name`, `timeout`, `retry`, `onFailure` and `when`"
    yield f"All steps also have the keys {keys}: [language.md](../language.md#steps)."
    yield ""


def _default(schema: Mapping[str, Any], value: Any) -> str:
    if value is None:
        return ""
    if schema.get("pattern") == duration.PATTERN:
        return f"`{duration.text(value)}`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _sub_keys(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the keys of a record and their schemas, also of a record in a list or a choice."""
    for inner in schema.get("anyOf", ()):
        yield from _sub_keys(inner)
    if schema.get("type") == "array":
        for key, inner in _sub_keys(schema.get("items", {})):
            yield f"[]{key}", inner
    if _is_secret(schema):
        return
    for key, inner in schema.get("properties", {}).items():
        yield f".{key}", inner
        for below, one in _sub_keys(inner):
            yield f".{key}{below}", one


def _is_secret(schema: Mapping[str, Any]) -> bool:
    return list(schema.get("properties", {})) == ["fromSecret"]


def _takes(schema: Mapping[str, Any]) -> str:
    """Return what a value of the schema is, in a few words."""
    kind = schema.get("type")
    if "enum" in schema:
        return ", ".join(
            f"`{word if isinstance(word, str) else json.dumps(word)}`" for word in schema["enum"]
        )
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_takes(inner) for inner in schema["anyOf"]))
    if _is_secret(schema):
        return "a secret: `{fromSecret: NAME}`"
    if kind == "array":
        inner = _takes(schema.get("items", {}))
        return f"a list: {inner}" if inner != "text" else "a list of texts"
    if kind == "object":
        values = schema.get("additionalProperties")
        if isinstance(values, dict):
            return f"a mapping: name to {_takes(values)}"
        return "a mapping with the keys below" if schema.get("properties") else "a mapping"
    if kind == "integer":
        least, most = schema.get("minimum", 0), schema.get("maximum")
        end = "" if most in (None, 2**31 - 1) else f" to {most}"
        return f"a whole number from {least}{end}"
    if kind == "string":
        return _takes_text(str(schema.get("pattern", "")))
    return {"boolean": "`true` or `false`", "null": "`null`", "number": "a number"}.get(
        str(kind), "any JSON"
    )


def _takes_text(pattern: str) -> str:
    if pattern == duration.PATTERN:
        return "a duration"
    return "a percentage" if pattern.endswith("%$") else "text"


def _rights(action: Action) -> Iterator[str]:
    yield "## Rights"
    yield ""
    example = rights_of(action, action.example)
    if not example:
        yield "The action needs no rights in the cluster."
    else:
        yield "The example needs these rights. The engine also reads the target and what the guardrails need."
        yield ""
        yield from _right_rows(example)
    others = list(_other_rights(action, example))
    for name, word, rights in others:
        yield ""
        shown = ", ".join(f"`{right}`" for right in rights) or "no rights"
        yield f"With `{name}: {word}`: {shown}."
    yield ""
    yield "`tiercel rbac` prints the role for a set of playbooks."
    yield ""


def _right_rows(rights: Sequence[str]) -> Iterator[str]:
    verbs: dict[str, list[str]] = {}
    for right in rights:
        verb, _, resource = right.partition(" ")
        verbs.setdefault(resource, []).append(verb)
    yield "| resource | verbs |"
    yield "|---|---|"
    for resource, found in sorted(verbs.items()):
        yield f"| `{resource}` | {', '.join(found)} |"


def _other_rights(
    action: Action, example: Sequence[str]
) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield the values of a parameter for which the action needs other rights than for the example."""
    for name, parameter in action.parameters.items():
        for word in parameter.type.schema().get("enum", [])[:_MAX_CHOICES]:
            if action.example.get(name, parameter.default) == word:
                continue
            rights = rights_of(action, {**action.example, name: word})
            if rights is not None and rights != example:
                yield name, word if isinstance(word, str) else json.dumps(word), rights


def _example(action: Action) -> Iterator[str]:
    yield "## Example"
    yield ""
    yield "```yaml"
    yield from _yaml([_step(action)]).splitlines()
    yield "```"
    yield ""


def _step(action: Action) -> dict[str, Any]:
    return {"action": action.name, **({"with": dict(action.example)} if action.example else {})}


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _dry_run(action: Action) -> Iterator[str]:
    event, previewed = dry_run(action)
    yield "## Dry run"
    yield ""
    yield "```text"
    yield click.unstyle(headline(event))
    yield from (click.unstyle(line) for line in step_lines(previewed.results))
    yield "```"
    yield ""
    for call in previewed.results[0].calls:
        body = _yaml(call.body)
        yield f"The body of `{call.verb} {call.resource}/{call.name}`:"
        yield ""
        yield "```yaml"
        yield from body.splitlines()
        yield "```"
        yield ""


def dry_run(action: Action) -> tuple[Event, PreviewedRun]:
    """Return the preview of the example, on the first of the events on which it does something."""
    tried = [(event, _preview(action, event)) for event in _events()]
    states = ("planned", "held")
    return next((one for one in tried if one[1].results[0].state in states), tried[0])


def _events() -> Iterator[Event]:
    for name in EVENTS:
        for line in read_events((FOLDER / name).read_bytes()):
            if line.event is not None:
                yield line.event


def _cluster() -> StaticCluster:
    return StaticCluster(read_objects((FOLDER / CLUSTER).read_bytes()))


def _preview(action: Action, event: Event) -> PreviewedRun:
    document = {
        "apiVersion": API_VERSION,
        "kind": "Playbook",
        "metadata": {"name": "example"},
        "spec": {"match": {"everything": True}, "actions": [_step(action)]},
    }
    files = Files("", {"example.yaml": _yaml(document).encode()})
    found = Loader(load_actions()).load(files)
    context = PreviewContext(_cluster())
    index = PlaybookIndex(found.playbooks, found.silences, found.revision)
    return preview(event, index, PlanningMemory(), GuardrailChecker(found.guardrails), context)[0]


def _undo(action: Action) -> Iterator[str]:
    yield "## Undo"
    yield ""
    if not action.undoable:
        yield "Tiercel does not undo this action."
        return
    event, previewed = dry_run(action)
    changes = [c for c in undo_intents(previewed.run, event) if not c.path or c.put != c.before]
    yield "`tiercel undo RUN` undoes the step. With `ttl`, the engine undoes the step by itself after that time."
    yield "For the example, undo does this:"
    yield ""
    yield from (f"- {_reverts(change)}" for change in reversed(changes))
    yield ""
    yield "Undo does not change a value that someone else changed in the meantime, and reports it. If several"
    yield "runs need the same change, the last of them undoes it."


@dataclass
class _RecordingStore(PreviewStore):
    """An attempt store that remembers undo intents."""

    changes: list[ObjectChange] = field(default_factory=list)

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        attempt_state: Mapping[str, Any],
    ) -> bool:
        del claim, until, attempt_state
        self.changes += changes
        return True


def undo_intents(run: Run, event: Event) -> list[ObjectChange]:
    """Return the changes that the first step of a run saves for undo, on the simulated cluster."""
    store = _RecordingStore()
    clients = Clients(CallRecorder(_cluster()), RequestRecorder(), dry=False)
    attempt(Claim(run, 0), clients, GuardrailChecker(), event.time, store)
    return store.changes


def _reverts(change: ObjectChange) -> str:
    about = f"{change.kind.kind} `{change.name}`"
    if not change.path:
        return f"{about} is deleted, if it still has the label of Tiercel."
    what = f"`{'.'.join(change.path)}`"
    if change.item:
        item = ", ".join(f"`{key}: {value}`" for key, value in change.item.items())
        what = f"the item with {item} of {what}"
    if change.before is None:
        return f"{what} of {about} is removed."
    return f"{what} of {about} gets its earlier value again: `{json.dumps(change.before)}`."


def _text(line: str) -> str:
    """Return a line of a docstring as Markdown, with links to pages. Text outside of code is escaped."""
    parts = _CODE.split(line.replace("``", "`"))
    return "".join(
        part if n % 2 else _PAGE.sub(r"[\1](../\1)", re.sub(r"([*_<|])", r"\\\1", part))
        for n, part in enumerate(parts)
    )


def _cell(line: str) -> str:
    """Return a text for a cell of a table."""
    parts = _CODE.split(line.replace("``", "`"))
    return "".join(
        part.replace("|", "\\|") if n % 2 else re.sub(r"([*_<|])", r"\\\1", part)
        for n, part in enumerate(parts)
    )
