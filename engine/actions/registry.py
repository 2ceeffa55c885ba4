"""The registry of actions. ``@action`` makes a function an action.

The signature of the function is the schema of ``with:``, and its docstring is the documentation.

- The positional parameters are the objects that the action works with. Their names come from ``ACTS_WITH``.
- The keyword-only parameters are what an author writes under ``with:`` (there in camelCase).

The function returns one sentence for the audit (or an ``ActionResult``). It raises SkippedError, RefusedError,
TemporaryError or PermanentError.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from engine.actions import parameters
from engine.actions.plugins import load_plugins
from engine.language.findings import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.actions.parameters import ParameterType
    from engine.cluster.pods import Pod
    from engine.language.findings import Findings
    from engine.language.yaml_source import Path
    from engine.model.calls import Object, ObjectChange
    from engine.model.event import Event

Effect = Literal["notify", "observe", "mark", "disrupt"]
Target = Literal["pod", "node", "subject", "resource"]
"""What a step acts on.

``subject`` is the event's pod, or its node if the event names no pod. ``resource`` is the object of an audit
event (``ka.target.*``), of one of the kinds in the parameter ``kinds``.
"""
Right = tuple[str, str]
"""A verb and a resource with its API group, as in RBAC: ("patch", "networkpolicies.networking.k8s.io")."""

TARGETS: tuple[Target, ...] = ("subject", "node", "pod", "resource")
ACTS_WITH = (*TARGETS, "cluster", "http", "artifacts", "context")
"""The positional parameters that an action can have: the target, the three clients and the ``StepContext``."""
_MAX_UNKNOWN = 200
"""Unknown parameters of one step that are reported. Each is compared with all known parameters."""


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of an action.

    name: as the author writes it. argument: the name in the function's signature.
    """

    name: str
    argument: str
    type: ParameterType
    doc: str
    required: bool
    default: Any = None

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the value, with its description and default."""
        has_default = isinstance(self.default, (str, int, bool))
        default = {"default": self.default} if has_default else {}
        return {**self.type.schema(), "description": self.doc, **default}


class ActionResult(msgspec.Struct, frozen=True):
    """What an action did: one sentence, and an answer (JSON) that later steps can read.

    again: if the action needs another attempt to complete, the seconds until then, and why. Such an attempt uses
    up none of the step's ``attempts``. A preview shows the first attempt only.
    """

    message: str
    answer: Any = None
    again: tuple[float, str] | None = None


class StepContext(msgspec.Struct, frozen=True):
    """The step that an action runs for.

    now: epoch seconds. received: when the event was received, epoch seconds.
    keep: adds values to the attempt state of the run. They are on disk when it returns.
    attempt_state: the attempt state so far.
    note: what a message must add to its text: what the playbook would have done under ``mode: notify``, and
      how many messages this one replaces.
    outcome: of the run up to this step, "" for its first step.
    approved_by: the operator who approved the step, or None.
    add_undo_intent: saves the changes that the action is about to make, to be undone after so many seconds
      (None: only on request). They are on disk when it returns. It returns when the last undo intent for the
      first of the changes is due (epoch seconds), or None if that is only on request.
    blob, revision: provenance of the playbook: Git blob id of its file, and the commit that was deployed; "" if
      unknown.
    run_as: the ServiceAccount that the playbook names, or "".
    redact: masks in a text what the rules of ``--redact`` find.
    announce: tells the engine that its own command runs in a container, whose events it then suppresses for so
      many seconds from now (None: until the timeout of the attempt). The container is given by its id.
    check_guardrails: raises RefusedError if the guardrails protect an object (with its ``kind``) or a pod. An
      action calls it for each object that it changes beside its target.
    """

    run: str
    playbook: str
    step: str
    event: Event
    now: float
    received: float
    keep: Callable[[Mapping[str, Any]], None] = lambda _: None
    attempt_state: Mapping[str, Any] = msgspec.field(default_factory=dict)
    note: str = ""
    outcome: str = ""
    approved_by: str | None = None
    add_undo_intent: Callable[[Sequence[ObjectChange], float | None], float | None] = (
        lambda _, ttl: ttl
    )
    blob: str = ""
    revision: str = ""
    run_as: str = ""
    redact: Callable[[str], str] = lambda text: text
    announce: Callable[[str, float | None], None] = lambda _container, _seconds: None
    check_guardrails: Callable[[Pod | Object], None] = lambda _: None


class Action(msgspec.Struct, frozen=True):
    """A registered action.

    needs: returns the RBAC rights of a step, from its compiled parameters.
    example: the parameters of a valid step.
    check: returns what is wrong with the parameters as written, taken together, or None.
    repeatable: whether a second run has the same result as one run.
    acts_with: the names of its positional parameters.
    finds_objects: whether the action itself finds the objects that it changes. It then has no target of the
      event, and checks each object with ``StepContext.check_guardrails``.
    slow: whether an attempt may take seconds, so that it must not occupy a worker of fast cluster calls.
    """

    name: str
    effect: Effect
    run: Callable[..., str | ActionResult]
    parameters: Mapping[str, Parameter]
    needs: Callable[[Mapping[str, Any]], frozenset[Right]]
    example: Mapping[str, Any]
    doc: str
    repeatable: bool
    acts_with: tuple[str, ...]
    check: Callable[[Mapping[str, Any]], str | None] | None = None
    finds_objects: bool = False
    slow: bool = False

    @property
    def answers(self) -> bool:
        """Whether a step of this action can have an answer, by the annotation of what the function returns."""
        return self.run.__annotations__.get("return") not in (str, "str")

    @property
    def undoable(self) -> bool:
        """Whether the engine can undo a step of this action."""
        return "ttl" in self.parameters

    def target(self, effect: str) -> Target | None:
        """Return what a step with that effect acts on, or None.

        A step that disrupts always has a target. If the action has none, it is the event's pod, unless the
        action finds its objects itself.
        """
        if self.finds_objects:
            return None
        target = next((name for name in TARGETS if name in self.acts_with), None)
        return target or ("pod" if effect == "disrupt" else None)

    def compile(
        self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]
    ) -> dict[str, Any]:
        """Compile the parameters of a step. Report each error at its place."""
        if data is None:
            data = {}
        if not isinstance(data, dict):
            findings.add(path, "wrong-type", "`with` takes a mapping of parameters")
            return {}
        unknown = [key for key in data if key not in self.parameters][:_MAX_UNKNOWN]
        meant = {key: nearest(key, self.parameters) for key in unknown}
        for key, near in meant.items():
            hint = near or ", ".join(self.parameters)
            findings.add(
                (*path, key), "bad-parameter", f"{self.name} has no `{key}`", hint, key=True
            )
        for name in self.parameters.keys() - data.keys() - set(meant.values()):
            if self.parameters[name].required:
                findings.add(
                    path, "missing-key", f"{self.name} needs `{name}`", self.parameters[name].doc
                )
        fault = self.check(data) if self.check and not any(meant.values()) else None
        if fault:
            findings.add(path, "bad-parameter", fault)
        return {
            name: self.parameters[name].type.compile(value, (*path, name), findings, steps)
            for name, value in data.items()
            if name in self.parameters
        }

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of ``with:``."""
        keys = {p.name: p.schema() for p in self.parameters.values()}
        required = [p.name for p in self.parameters.values() if p.required]
        return {
            "type": "object",
            "properties": keys,
            "additionalProperties": False,
            **({"required": required} if required else {}),
        }


REGISTRY: dict[str, Action] = {}
_NAME = re.compile(r"[a-z][a-zA-Z0-9]*(\.[a-z][a-zA-Z0-9]*)+")
_TYPES = "annotate it with str, bool, int, a Literal, or Annotated[TYPE, PARAMETER TYPE]"


def action(
    name: str,
    *,
    effect: Effect,
    needs: Callable[[Mapping[str, Any]], frozenset[Right]] | AbstractSet[Right] | None = None,
    example: Mapping[str, Any] | None = None,
    repeatable: bool = True,
    check: Callable[[Mapping[str, Any]], str | None] | None = None,
    finds_objects: bool = False,
    slow: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as an action. The arguments are the fields of ``Action``.

    Raises TypeError if the name is not ``thing.verb`` or is already registered, if a keyword-only parameter has
    an unknown type, if a positional parameter is not in ``ACTS_WITH``, or if an argument is not valid.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.getfullargspec(function)
        _check_action(name, effect, needs, function)
        _check_acts_with(name, signature.args)
        summary, docs = _read_docstring(function.__doc__ or "", signature.kwonlyargs)
        defaults = signature.kwonlydefaults or {}
        parameters = {
            key: Parameter(
                key, argument, _parameter_type(name, argument, hint), docs.get(argument, ""),
                argument not in defaults, defaults.get(argument),
            )
            for argument, hint in _keyword_types(function).items()
            for key in [_camel_case(argument)]
        }  # fmt: skip
        fixed = frozenset() if needs is None or callable(needs) else frozenset(needs)
        REGISTRY[name] = Action(
            name=name,
            effect=effect,
            run=function,
            parameters=parameters,
            needs=needs if callable(needs) else lambda _: fixed,
            example=example or {},
            doc=summary,
            repeatable=repeatable,
            acts_with=tuple(signature.args),
            check=check,
            finds_objects=finds_objects,
            slow=slow or effect in ("notify", "observe"),
        )
        return function

    return register


@functools.cache
def load_actions() -> Mapping[str, Action]:
    """Import every module of this package that is named ``<thing>_<verb>``, and return all actions by name.

    The actions of plugins follow. Raises PluginError if one of them cannot be used.
    """
    package = importlib.import_module("engine.actions")
    for module in pkgutil.iter_modules(package.__path__):
        if "_" in module.name:
            importlib.import_module(f"engine.actions.{module.name}")
    load_plugins(REGISTRY)
    return REGISTRY


def _check_action(name: str, effect: str, needs: object, function: Callable[..., Any]) -> None:
    """Raise TypeError if an argument of ``@action`` is not valid."""
    signature = inspect.getfullargspec(function)
    where = f"{function.__module__}.{function.__qualname__}"
    is_set = isinstance(needs, AbstractSet) and all(
        isinstance(right, tuple) and list(map(type, right)) == [str, str] for right in needs
    )
    if not _NAME.fullmatch(name):
        fault = f"the name of an action is like thing.verb, not {name!r}"
    elif name in REGISTRY:
        other = REGISTRY[name].run
        fault = f"{other.__module__}.{other.__qualname__} already has this name"
    elif effect not in typing.get_args(Effect):
        fault = f"the effect {effect!r} is not one of {', '.join(typing.get_args(Effect))}"
    elif not (needs is None or callable(needs) or is_set):
        fault = 'needs is a set of rights like ("patch", "pods"), or a function that returns one'
    elif signature.varargs or signature.varkw:
        fault = "an action cannot have *args or **kwargs, because the signature is the schema"
    elif any(one not in function.__annotations__ for one in signature.kwonlyargs):
        (first, *_) = [one for one in signature.kwonlyargs if one not in function.__annotations__]
        fault = f"the parameter `{first}` has no type: {_TYPES}"
    else:
        return
    raise TypeError(f"{name} ({where}): {fault}")


def _check_acts_with(action: str, arguments: list[str]) -> None:
    for argument in arguments:
        if argument not in ACTS_WITH:
            what = f"the positional parameter `{argument}` is not one of {', '.join(ACTS_WITH)}"
            raise TypeError(f"{action}: {what}")


def _keyword_types(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of the keyword-only parameters.

    The types of the positional parameters can be imported for type checking only, so they are not resolved.
    """
    names = inspect.getfullargspec(function).kwonlyargs
    only = types.SimpleNamespace(__annotations__={n: function.__annotations__[n] for n in names})
    try:
        return typing.get_type_hints(only, function.__globals__, include_extras=True)
    except NameError as error:
        what = "import the types of the parameters at run time, not under TYPE_CHECKING"
        raise TypeError(f"{function.__module__}.{function.__qualname__}: {error}: {what}") from None


def _parameter_type(action: str, argument: str, hint: Any) -> ParameterType:
    """Return the parameter type for an annotation. Raises TypeError if there is none."""
    metadata = hint.__metadata__ if typing.get_origin(hint) is typing.Annotated else ()
    if metadata and all(hasattr(metadata[0], name) for name in ("compile", "render", "schema")):
        return typing.cast("ParameterType", metadata[0])
    if typing.get_origin(hint) is Literal:
        return parameters.Choice(typing.get_args(hint))
    plain: dict[Any, ParameterType] = {
        str: parameters.Text(),
        bool: parameters.Choice((True, False)),
        int: parameters.Integer(),
    }
    found = next((kind for plain_type, kind in plain.items() if plain_type is hint), None)
    if found is None:
        raise TypeError(f"{action}: the parameter `{argument}` has the type {hint!r}: {_TYPES}")
    return found


def _camel_case(name: str) -> str:
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(word.title() for word in rest)


def _read_docstring(text: str, arguments: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Split a docstring into the text above the parameters, and the text of each (``argument: text``)."""
    summary: list[str] = []
    docs: dict[str, str] = {}
    current = None
    for line in inspect.cleandoc(text).splitlines():
        found = re.match(r"([a-z_]+): (.*)", line)
        if found and found[1] in arguments:
            current = found[1]
            docs[current] = found[2]
        elif current and line.startswith(" "):
            docs[current] += " " + line.strip()
        else:
            current = None
            summary.append(line)
    return "\n".join(summary).strip(), docs
