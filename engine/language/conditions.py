"""Compiles conditions.

Groups (``all``, ``any``, ``not``) follow the three-valued logic of SQL: true, false and unknown. A condition
holds only if it is true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.language.findings import Findings, nearest
from engine.language.jsonpath import PathError, compile_path, field_of, keys_of, parse_cost
from engine.language.lint import lint_path
from engine.language.operators import (
    OPERATORS,
    CompiledOperator,
    OperandError,
    compile_operator,
    display_text,
    negate,
)
from engine.model.event import PRIORITIES
from engine.model.playbook import Condition, StepCondition, Truth

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from engine.language.yaml_source import Path
    from engine.model.event import Event

GROUPS = ("all", "any", "not")
_EVENT_ATTRIBUTES: dict[str, Callable[[Event], Any]] = {
    "$.rule": lambda event: event.rule,
    "$.priority": lambda event: None if event.priority is None else PRIORITIES[event.priority],
    "$.source": lambda event: event.source,
    "$.hostname": lambda event: event.hostname,
    "$.tags": lambda event: list(event.tags),
    "$.output": lambda event: event.output,
}
"""JSONPath -> attribute of the event. For all other paths the engine builds the whole alert."""
MAX_CONDITIONS = 1_000
"""Conditions in one list. The number of operands of one condition is not limited."""
_MAX_UNKNOWN = 200
"""Unknown keys of one condition that are reported. Each is compared with all known words."""
_SUBJECTS = ("field", "jsonPath")
_NOT_OPERATORS = (*_SUBJECTS, *GROUPS)
_KEYS = (*OPERATORS, *_NOT_OPERATORS)
STEP_STATES = ("done", "skipped", "refused", "failed")


def compile_conditions(data: Any, path: Path, findings: Findings) -> tuple[Condition, ...]:
    """Compile a list of conditions. Conditions with an error are left out."""
    if not isinstance(data, list):
        findings.add(path, "wrong-type", "conditions are a list", "begin each with `- `")
        return ()
    if len(data) > MAX_CONDITIONS:
        findings.add(path, "bad-value", f"more than {MAX_CONDITIONS:,} conditions")
        return ()
    compiled = [compile_condition(item, (*path, n), findings) for n, item in enumerate(data)]
    return tuple(condition for condition in compiled if condition)


def compile_condition(data: Any, path: Path, findings: Findings) -> Condition | None:
    """Compile a condition or group; None if it has an error."""
    if not isinstance(data, dict):
        what = "a condition is a mapping"
        findings.add(path, "wrong-type", what, "{field: NAME, equals: VALUE}")
        return None
    if "step" in data:
        what = "a condition on a step is only allowed in `when`, outside of groups"
        findings.add((*path, "step"), "unknown-key", what, key=True)
        return None
    group = next((word for word in GROUPS if word in data), None)
    if group:
        return _compile_group(group, data, path, findings)
    subject = _compile_subject(data, path, findings)
    comparison = _compile_comparison(data, path, findings, _SUBJECTS)
    if subject is None or comparison is None:
        return None
    name, compiled = comparison
    text = f"{data.get('field') or data.get('jsonPath')} {name} {display_text(data[name])}"
    key = repr(sorted(data.items()))  # not JSON, which cannot represent infinity and NaN
    if isinstance(subject, str):
        field = subject
        equality = (field, compiled.only) if compiled.only else None
        holds = _field_predicate(field, compiled)
        return Condition(text, holds, equality, lambda event: event.fields.get(field), key=key)
    return Condition(text, lambda event: compiled.holds(subject(event)), None, subject, key=key)


def _field_predicate(field: str, compiled: CompiledOperator) -> Callable[[Event], Truth]:
    holds_for, holds_for_text = compiled.holds, compiled.holds_for_text
    if holds_for_text is None:
        return lambda event: holds_for(event.fields.get(field))

    def holds(event: Event) -> Truth:
        value = event.fields.get(field)
        # is_present inlined: most values are non-empty strings, and this runs for each event
        if type(value) is str and value and value != "<NA>":
            return holds_for_text(value)
        return holds_for(value)

    return holds


def _compile_group(
    word: str, data: dict[str, Any], path: Path, findings: Findings
) -> Condition | None:
    for other in data.keys() - {word}:
        what = f"`{word}` does not combine with `{other}`"
        findings.add((*path, other), "unknown-key", what, key=True)
    inner, where = data[word], (*path, word)
    if word == "not":
        one = compile_condition(inner, where, findings)
        if one is None:
            return None
        text, holds = f"not ({one.text})", negate(one.holds)
        return Condition(text, holds, group=word, parts=(one,), key=repr(data))
    if not isinstance(inner, list) or not inner:
        code = "bad-value" if inner == [] else "wrong-type"
        findings.add(where, code, f"`{word}` takes a list of conditions")
        return None
    parts = compile_conditions(inner, where, findings)
    text = f" {'and' if word == 'all' else 'or'} ".join(f"({part.text})" for part in parts)
    holds = _combine(tuple(part.holds for part in parts), decisive=word == "any")
    return Condition(text, holds, group=word, parts=parts, key=repr(data))


def _combine(
    predicates: tuple[Callable[[Event], Truth], ...], *, decisive: bool
) -> Callable[[Event], Truth]:
    """Return the OR (``decisive=True``) or AND (``decisive=False``) of the predicates, as in SQL."""

    def holds(event: Event) -> Truth:
        unknown = False
        for predicate in predicates:
            truth = predicate(event)
            if truth is decisive:
                return decisive
            if truth is None:
                unknown = True
        return None if unknown else not decisive

    return holds


def _compile_subject(
    data: dict[str, Any], path: Path, findings: Findings
) -> str | Callable[[Event], Any] | None:
    """Return what a condition compares: the name of an output field, or a function of the event.

    None if it has an error.
    """
    given = [word for word in _SUBJECTS if word in data]
    if len(given) != 1:
        # _compile_comparison reports a misspelt subject
        misspelt = any(k not in _KEYS and nearest(k, _KEYS) in _NOT_OPERATORS for k in data)
        if not misspelt:
            code = "bad-value" if given else "missing-key"
            findings.add(path, code, "a condition has one of `field` and `jsonPath`")
        return None
    (word,) = given
    text = data[word]
    if not isinstance(text, str) or not text:
        findings.add((*path, word), "wrong-type", f"`{word}` takes text")
        return None
    if word == "field":
        return text
    try:
        cost = parse_cost(text)
        if cost:  # before it is parsed
            findings.count_expression((*path, word), cost)
        field = field_of(text)
        if field is not None:
            return field
        if not cost:
            findings.count_expression((*path, word), 0)
        find = compile_path(text)
        keys = keys_of(text)
    except PathError as error:
        findings.add((*path, word), "bad-path", str(error))
        return None
    warning = lint_path(keys, data) if keys is not None else None
    if warning:
        findings.add((*path, word), "same-everywhere", *warning, severity="warning")
    return _EVENT_ATTRIBUTES.get(text) or (lambda event: find(event.alert))


def _compile_comparison(
    data: dict[str, Any], path: Path, findings: Findings, other_keys: Collection[str]
) -> tuple[str, CompiledOperator] | None:
    """Return the name of the operator of a condition, and the operator compiled; None if it has an error.

    other_keys: the allowed keys that are not operators.
    """
    unknown = [key for key in data if key not in OPERATORS and key not in other_keys]
    for key in unknown[:_MAX_UNKNOWN]:
        hint = nearest(key, _KEYS)
        code = "unknown-key" if hint in _NOT_OPERATORS else "unknown-operator"
        what = "key" if code == "unknown-key" else "operator"
        findings.add((*path, key), code, f"conditions have no {what} `{key}`", hint, key=True)
    given = [key for key in data if key in OPERATORS]
    if len(given) == 1 and not unknown:
        (name,) = given
        try:
            compiled = compile_operator(name, data[name])
        except OperandError as error:
            findings.add((*path, name), error.code, str(error), error.hint)
            if error.instructions:
                findings.count_expression((*path, name), error.instructions)
            return None
        if OPERATORS[name].expression:
            findings.count_expression((*path, name), compiled.instructions)
        return name, compiled
    if len(given) > 1:
        what = f"a condition has one operator, not {' and '.join(given)}"
        findings.add(path, "bad-value", what)
    elif not unknown:
        findings.add(path, "missing-key", "a condition has an operator", ", ".join(OPERATORS))
    return None


def compile_step_condition(
    data: dict[str, Any], path: Path, findings: Findings
) -> StepCondition | None:
    """Compile a condition on an earlier step: ``{step, is}`` or ``{step, jsonPath, OPERATOR}``.

    Returns None if it has an error.
    """
    if "step" not in data:
        what = "`is` needs the name of a `step`"
        findings.add(path, "missing-key", what, "{step: NAME, is: [done]}")
        return None
    step = data["step"]
    if not isinstance(step, str):
        what = "`step` takes the name of an earlier step"
        findings.add((*path, "step"), "wrong-type", what)
        return None
    if "is" in data:
        return _compile_step_states(step, data, path, findings)
    if "jsonPath" not in data:
        findings.add(path, "missing-key", "a condition on a step has `is` or `jsonPath`")
        return None
    comparison = _compile_comparison(data, path, findings, ("step", "jsonPath"))
    text = data["jsonPath"] if isinstance(data["jsonPath"], str) else ""
    try:
        findings.count_expression((*path, "jsonPath"), parse_cost(text))
        find = compile_path(text)
    except PathError as error:
        findings.add((*path, "jsonPath"), "bad-path", str(error))
        return None
    if comparison is None:
        return None
    name, compiled = comparison
    text = f"{step} {data['jsonPath']} {name} {display_text(data[name])}"
    return StepCondition(text, step, on_answer=lambda answer: compiled.holds(find(answer)))


def _compile_step_states(
    step: str, data: dict[str, Any], path: Path, findings: Findings
) -> StepCondition | None:
    for key in data.keys() - {"step", "is"}:
        what = f"`is` does not combine with `{key}`"
        findings.add((*path, key), "unknown-key", what, key=True)
    states = data["is"]
    if not isinstance(states, list) or not states:
        findings.add((*path, "is"), "wrong-type", "`is` takes a list of states", "[done]")
        return None
    for n, state in enumerate(states):
        if state not in STEP_STATES:
            hint = nearest(str(state), STEP_STATES) or ", ".join(STEP_STATES)
            what = f"`{state}` is not a state in which a step ends"
            findings.add((*path, "is", n), "bad-value", what, hint)
    return StepCondition(f"{step} is {display_text(states)}", step, states=tuple(map(str, states)))
