"""Conditions: compiled from their mappings, what is wrong reported at its place.

Groups are SQL's AND, OR and NOT over true, false and unknown; only true holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.language.findings import Findings, nearest
from engine.language.jsonpath import PathError, compile_path, field_of, keys_of
from engine.language.operators import OPERATORS, OperandError, Test, display_text, negated, tester
from engine.language.paths import lint
from engine.model.event import PRIORITIES
from engine.model.playbook import Condition, StepCondition, Truth

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from engine.language.yaml_source import Path
    from engine.model.event import Event

GROUPS = ("all", "any", "not")
_OF_EVENT: dict[str, Callable[[Event], Any]] = {
    "$.rule": lambda event: event.rule,
    "$.priority": lambda event: None if event.priority is None else PRIORITIES[event.priority],
    "$.source": lambda event: event.source,
    "$.hostname": lambda event: event.hostname,
    "$.tags": lambda event: list(event.tags),
    "$.output": lambda event: event.output,
}
"""Places of the alert that an event knows; for others the whole alert is made."""
MOST_CONDITIONS = 1_000
"""Conditions of one list; a list of operands has no such bound."""
_MOST = 200
"""Unknown words of one condition that are told; each is compared with all that are known."""
_LOOKS = ("field", "jsonPath", *GROUPS)
_WORDS = (*OPERATORS, *_LOOKS)


def compile_conditions(data: Any, path: Path, findings: Findings) -> tuple[Condition, ...]:
    """The conditions of a list, what is wrong with them reported at its place."""
    if not isinstance(data, list):
        findings.add(path, "wrong-type", "conditions are a list", "begin each with `- `")
        return ()
    if len(data) > MOST_CONDITIONS:
        findings.add(path, "bad-value", f"more than {MOST_CONDITIONS:,} conditions")
        return ()
    found = [compile_condition(item, (*path, n), findings) for n, item in enumerate(data)]
    return tuple(condition for condition in found if condition)


def compile_condition(data: Any, path: Path, findings: Findings) -> Condition | None:
    """One condition or group; None where it was reported as wrong."""
    if not isinstance(data, dict):
        findings.add(path, "wrong-type", "a condition is a mapping", "{field: NAME, equals: VALUE}")
        return None
    if "step" in data:
        place = "a condition on a step stands in `when`, outside of groups"
        findings.add((*path, "step"), "unknown-key", place, key=True)
        return None
    group = next((word for word in GROUPS if word in data), None)
    if group:
        return _group(group, data, path, findings)
    look = _look(data, path, findings)
    comparison = _comparison(data, path, findings)
    if look is None or comparison is None:
        return None
    name, test = comparison
    what = data.get("field") or data.get("jsonPath")
    text = f"{what} {name} {display_text(data[name])}"
    key = repr(sorted(data.items()))  # not as JSON, which has no words for infinity and NaN
    if isinstance(look, str):
        only = (look, test.only) if test.only else None
        on_field = _on_field(look, test)
        return Condition(text, on_field, only, lambda event: event.fields.get(look), key=key)
    return Condition(text, lambda event: test.on(look(event)), None, look, key=key)


def _on_field(field: str, test: Test) -> Callable[[Event], Truth]:
    on, on_text = test.on, test.on_text
    if on_text is None:
        return lambda event: on(event.fields.get(field))

    def holds(event: Event) -> Truth:
        value = event.fields.get(field)
        if type(value) is str and value and value != "<NA>":  # most are; spelled out for speed
            return on_text(value)
        return on(value)

    return holds


def _group(word: str, data: dict[str, Any], path: Path, findings: Findings) -> Condition | None:
    for other in data.keys() - {word}:
        findings.add(
            (*path, other), "unknown-key", f"`{word}` stands alone, without `{other}`", key=True
        )
    inner, where = data[word], (*path, word)
    if word == "not":
        one = compile_condition(inner, where, findings)
        if one is None:
            return None
        text, holds = f"not ({one.text})", negated(one.holds)
        return Condition(text, holds, group=word, parts=(one,), key=repr(data))
    if not isinstance(inner, list) or not inner:
        code = "bad-value" if inner == [] else "wrong-type"
        findings.add(where, code, f"`{word}` takes a list of conditions")
        return None
    conditions = compile_conditions(inner, where, findings)
    tests = tuple(condition.holds for condition in conditions)
    joined = f" {'and' if word == 'all' else 'or'} ".join(f"({c.text})" for c in conditions)
    holds = _joined(tests, stops=word == "any")
    return Condition(joined, holds, group=word, parts=conditions, key=repr(data))


def _joined(
    tests: tuple[Callable[[Event], Truth], ...], *, stops: bool
) -> Callable[[Event], Truth]:
    """SQL's OR (stops: True) or AND (stops: False) of the tests."""

    def holds(event: Event) -> Truth:
        unknown = False
        for test in tests:
            truth = test(event)
            if truth is stops:
                return stops
            if truth is None:
                unknown = True
        return None if unknown else not stops

    return holds


def _look(
    data: dict[str, Any], path: Path, findings: Findings
) -> str | Callable[[Event], Any] | None:
    """What a condition looks at: an output field's name, or a function of the event."""
    given = [word for word in ("field", "jsonPath") if word in data]
    if len(given) != 1:
        typo = any(k not in _WORDS and nearest(k, _WORDS) in _LOOKS for k in data)
        if not typo:
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
        field = field_of(text)
        if field is not None:
            return field
        findings.count_expression((*path, word), 0)
        find = compile_path(text)
        keys = keys_of(text)
        wrong = lint(keys, data) if keys is not None else None
        if wrong:
            findings.add((*path, word), "same-everywhere", *wrong, severity="warning")
        if text in _OF_EVENT:
            return _OF_EVENT[text]
    except PathError as error:
        findings.add((*path, word), "bad-path", str(error))
        return None
    return lambda event: find(event.alert)


def _comparison(
    data: dict[str, Any],
    path: Path,
    findings: Findings,
    own: Collection[str] = ("field", "jsonPath"),
) -> tuple[str, Test] | None:
    """The one operator of a condition and its predicate."""
    wrong = [key for key in data if key not in OPERATORS and key not in own][:_MOST]
    for key in wrong:
        hint = nearest(key, _WORDS)
        code = "unknown-key" if hint in _LOOKS else "unknown-operator"
        what = "key" if code == "unknown-key" else "operator"
        findings.add((*path, key), code, f"`{key}` is no {what} of a condition", hint, key=True)
    given = [key for key in data if key in OPERATORS]
    if len(given) == 1 and not wrong:
        (name,) = given
        try:
            test = tester(name, data[name])
        except OperandError as error:
            findings.add((*path, name), error.code, str(error), error.hint)
            if error.size:
                findings.count_expression((*path, name), error.size)
            return None
        if OPERATORS[name].expression:
            findings.count_expression((*path, name), test.size)
        return name, test
    if len(given) > 1:
        findings.add(path, "bad-value", f"a condition has one operator, not {' and '.join(given)}")
    elif not wrong:
        findings.add(path, "missing-key", "a condition has an operator", ", ".join(OPERATORS))
    return None


def compile_step_condition(
    data: dict[str, Any], path: Path, findings: Findings
) -> StepCondition | None:
    """A condition on an earlier step: ``{step, is}`` or ``{step, jsonPath, OPERATOR}``."""
    if "step" not in data:
        findings.add(
            path,
            "missing-key",
            "`is` needs the `step` that it is about",
            "{step: NAME, is: [done]}",
        )
        return None
    step = data["step"]
    if not isinstance(step, str):
        findings.add((*path, "step"), "wrong-type", "`step` takes the name of an earlier step")
        return None
    if "is" in data:
        return _step_state(step, data, path, findings)
    if "jsonPath" not in data:
        findings.add(path, "missing-key", "a condition on a step has `is` or `jsonPath`")
        return None
    comparison = _comparison(data, path, findings, ("step", "jsonPath"))
    findings.count_expression((*path, "jsonPath"), 0)
    try:
        find = compile_path(data["jsonPath"] if isinstance(data["jsonPath"], str) else "")
    except PathError as error:
        findings.add((*path, "jsonPath"), "bad-path", str(error))
        return None
    if comparison is None:
        return None
    name, test = comparison
    text = f"{step} {data['jsonPath']} {name} {display_text(data[name])}"
    return StepCondition(text, step, on_answer=lambda answer: test.on(find(answer)))


STEP_STATES = ("done", "skipped", "refused", "failed")


def _step_state(
    step: str, data: dict[str, Any], path: Path, findings: Findings
) -> StepCondition | None:
    for key in data.keys() - {"step", "is"}:
        findings.add((*path, key), "unknown-key", f"`is` stands without `{key}`", key=True)
    states = data["is"]
    if not isinstance(states, list) or not states:
        findings.add((*path, "is"), "wrong-type", "`is` takes a list of states", "[done]")
        return None
    for n, state in enumerate(states):
        if state not in STEP_STATES:
            hint = nearest(str(state), STEP_STATES)
            findings.add((*path, "is", n), "bad-value", f"`{state}` is no end of a step", hint)
    return StepCondition(f"{step} is {display_text(states)}", step, states=tuple(map(str, states)))
