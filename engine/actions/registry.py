"""The registry of actions. ``@action``: the signature is the schema, the docstring the documentation.

An action is a function. Its first parameters are what it acts with, by name: ``pod``, ``node``, ``cluster``,
``outside``, ``doing``; the keyword-only ones are what an author writes under ``with:`` (in camelCase there).
It returns one sentence for the audit (or a ``Done``), and raises SkippedError, RefusedError, TemporaryError
or PermanentError.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import types
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from engine.actions import parameters
from engine.language.findings import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.actions.parameters import Kind
    from engine.language.findings import Report
    from engine.language.yaml_source import Path
    from engine.model.calls import Change
    from engine.model.event import Event

Effect = Literal["notify", "observe", "mark", "disrupt"]
Right = tuple[str, str]
"""A verb and a resource with its API group, as RBAC has them: ("patch", "networkpolicies.networking.k8s.io")."""

_MOST = 200
"""Unknown parameters of one step that are told; each is compared with all that are known."""
ACTS_WITH = ("pod", "subject", "cluster", "outside", "doing")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an action, as the author writes its name."""

    name: str
    argument: str
    kind: Kind
    doc: str
    required: bool
    default: Any = None

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema (2020-12), with what it is and its default."""
        written = isinstance(self.default, (str, int, bool))
        default = {"default": self.default} if written else {}
        return {**self.kind.schema(), "description": self.doc, **default}


@dataclass(frozen=True, slots=True)
class Done:
    """What an action did: one sentence, and an answer that later steps may look at (JSON)."""

    message: str
    answer: Any = None


@dataclass(frozen=True, slots=True)
class Doing:
    """What an action knows of the step that it is.

    now: epoch seconds. event: the alert. sent: an earlier attempt's call may have gone out already.
    keep: writes facts of the run to the journal before it returns. kept: the facts so far. also: what a
    message must say besides: what its playbook would have done, and how many messages it stands for.
    hold: writes to the journal what is about to be changed, to be undone after so many seconds (None: when
    somebody asks); gives the end of the last hold on the first of the changes, None for no end.
    """

    run: str
    playbook: str
    step: str
    event: Event
    now: float
    sent: bool = False
    keep: Callable[[Mapping[str, Any]], None] = lambda _: None
    kept: Mapping[str, Any] = field(default_factory=dict)
    also: str = ""
    hold: Callable[[Sequence[Change], float | None], float | None] = lambda _, ttl: ttl


@dataclass(frozen=True, slots=True)
class Action:
    """An action.

    needs: the least rights, from the step's compiled parameters. example: parameters of a valid step.
    check: what is wrong with the parameters as written, taken together.
    repeatable: whether a second run leaves what one run leaves. acts_with: names of what it is given.
    """

    name: str
    effect: Effect
    run: Callable[..., str | Done]
    parameters: Mapping[str, Parameter]
    needs: Callable[[Mapping[str, Any]], frozenset[Right]]
    example: Mapping[str, Any]
    doc: str
    repeatable: bool
    acts_with: tuple[str, ...]
    check: Callable[[Mapping[str, Any]], str | None] | None = None

    @property
    def undoable(self) -> bool:
        """Whether what it does can be undone, and so have an end."""
        return "ttl" in self.parameters

    def target(self, effect: str) -> Literal["pod", "subject"] | None:
        """What a step of that effect has as its target: the event's pod, or its pod or node; None without one.

        A step that disrupts always has a target: without one of its own, the event's pod.
        """
        if "subject" in self.acts_with:
            return "subject"
        return "pod" if "pod" in self.acts_with or effect == "disrupt" else None

    def compile(
        self, data: Any, path: Path, report: Report, steps: tuple[str, ...]
    ) -> dict[str, Any]:
        """The compiled parameters of a step, what is wrong with them reported at its place."""
        if data is None:
            data = {}
        if not isinstance(data, dict):
            report(path, "wrong-type", "`with` takes a mapping of parameters")
            return {}
        unknown = [key for key in data if key not in self.parameters][:_MOST]
        meant = {key: nearest(key, self.parameters) for key in unknown}
        for key, near in meant.items():
            hint = near or ", ".join(self.parameters)
            report((*path, key), "bad-parameter", f"{self.name} has no `{key}`", hint, key=True)
        for name in self.parameters.keys() - data.keys() - set(meant.values()):
            if self.parameters[name].required:
                report(
                    path, "missing-key", f"{self.name} needs `{name}`", self.parameters[name].doc
                )
        fault = self.check(data) if self.check and not any(meant.values()) else None
        if fault:
            report(path, "bad-parameter", fault)
        return {
            name: self.parameters[name].kind.compile(value, (*path, name), report, steps)
            for name, value in data.items()
            if name in self.parameters
        }

    def schema(self) -> dict[str, Any]:
        """The JSON Schema (2020-12) of ``with:``."""
        keys = {p.name: p.schema() for p in self.parameters.values()}
        required = [p.name for p in self.parameters.values() if p.required]
        return {
            "type": "object",
            "properties": keys,
            "additionalProperties": False,
            **({"required": required} if required else {}),
        }


REGISTRY: dict[str, Action] = {}


def action(
    name: str,
    *,
    effect: Effect,
    needs: Callable[[Mapping[str, Any]], frozenset[Right]] | set[Right] | None = None,
    example: Mapping[str, Any] | None = None,
    repeatable: bool = True,
    check: Callable[[Mapping[str, Any]], str | None] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the action of that name. Raises TypeError for a parameter of an unknown type."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        hints = _written(function)
        summary, docs = _read_docstring(function.__doc__ or "")
        parameters = {}
        for argument in signature.parameters.values():
            if argument.kind is inspect.Parameter.KEYWORD_ONLY:
                key = _camel(argument.name)
                required = argument.default is inspect.Parameter.empty
                parameters[key] = Parameter(
                    key, argument.name, _kind(name, argument.name, hints[argument.name]),
                    docs.get(argument.name, ""),
                    required, None if required else argument.default,
                )  # fmt: skip
        fixed = frozenset(needs) if isinstance(needs, set) else frozenset()
        REGISTRY[name] = Action(
            name=name,
            effect=effect,
            run=function,
            parameters=parameters,
            needs=needs if callable(needs) else lambda _: fixed,
            example=example or {},
            doc=summary,
            repeatable=repeatable,
            acts_with=tuple(n for n in signature.parameters if n in ACTS_WITH),
            check=check,
        )
        return function

    return register


@functools.cache
def load() -> Mapping[str, Action]:
    """Every action there is: all modules of this package named ``thing_verb``."""
    package = importlib.import_module("engine.actions")
    for module in pkgutil.iter_modules(package.__path__):
        if "_" in module.name:
            importlib.import_module(f"engine.actions.{module.name}")
    return REGISTRY


def _written(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of the parameters that an author writes; those that it acts with may be unknown here."""
    names = inspect.getfullargspec(function).kwonlyargs
    only = types.SimpleNamespace(__annotations__={n: function.__annotations__[n] for n in names})
    return typing.get_type_hints(only, function.__globals__, include_extras=True)


def _kind(action: str, argument: str, hint: Any) -> Kind:
    """The kind of a parameter, from its annotation. Raises TypeError for an annotation without a kind."""
    if typing.get_origin(hint) is typing.Annotated:
        return typing.cast("Kind", hint.__metadata__[0])
    if typing.get_origin(hint) is Literal:
        return parameters.Choice(typing.get_args(hint))
    plain: dict[Any, Kind] = {
        str: parameters.Text(),
        bool: parameters.Choice((True, False)),
        int: parameters.Integer(),
    }
    if hint not in plain:
        what = "annotate it with str, bool, int, a Literal, or Annotated[TYPE, KIND]"
        raise TypeError(f"{action}: the parameter `{argument}` has the type {hint!r}: {what}")
    return plain[hint]


def _camel(name: str) -> str:
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(word.title() for word in rest)


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The text up to the parameters, and each parameter's lines (``name: what it is``)."""
    summary: list[str] = []
    docs: dict[str, str] = {}
    current = None
    for line in inspect.cleandoc(text).splitlines():
        found = re.match(r"([a-z_]+): (.*)", line)
        if found:
            current = found[1]
            docs[current] = found[2]
        elif current and line.startswith(" "):
            docs[current] += " " + line.strip()
        else:
            current = None
            summary.append(line)
    return "\n".join(summary).strip(), docs
