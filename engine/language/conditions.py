"""Conditions: a table of operators, lowered to closures that give true, false or unknown (None).

On an absent value, and on one of a type that the operator cannot compare, every operator but ``exists`` is
unknown, so that a guard never passes because a field is missing. Nothing here raises on an event.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import re2

from engine.event import present
from engine.language.jsonpath import PathError, compile_path
from engine.language.report import Report, nearest
from engine.playbook import Condition, StepCondition, Truth

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from engine.event import Event
    from engine.language.source import Path

One = "Callable[[Any], Truth]"

GROUPS = ("all", "any", "not")
_SCALARS = (str, bool, int, float)
_LONGEST_ADDRESS = 45


class OperandError(ValueError):
    """An operand that the operator does not take; carries the code and the hint of the finding."""

    def __init__(self, code: str, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.code = code
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of the language.

    operand: what it takes (scalar, scalars, text, networks, number, bool). build: from the operand to a
    predicate on one value that is there. negative: on a list all elements must pass, not any. doc: for the
    reference and for editors.
    """

    operand: str
    build: Callable[[Any], Callable[[Any], Truth]]
    doc: str
    negative: bool = False


def kind_of(value: Any) -> str:
    """number, boolean, text, or the name of another type: only values of one kind compare."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__


def _equals(wanted: Any) -> Callable[[Any], Truth]:
    kind = kind_of(wanted)
    if kind == "text":
        return lambda value: value == wanted if type(value) is str else None
    return lambda value: value == wanted if kind_of(value) == kind else None


def _among(wanted: list[Any]) -> Callable[[Any], Truth]:
    sets = {k: frozenset(v for v in wanted if kind_of(v) == k) for k in map(kind_of, wanted)}
    texts, others = sets.get("text"), {k: s for k, s in sets.items() if k != "text"}

    def holds(value: Any) -> Truth:
        if type(value) is str:
            return value in texts if texts is not None else None
        mine = others.get(kind_of(value))
        return value in mine if mine is not None else None

    return holds


def _not(test: Callable[[Any], Truth]) -> Callable[[Any], Truth]:
    def holds(value: Any) -> Truth:
        truth = test(value)
        return None if truth is None else not truth

    return holds


def _icontains(wanted: str) -> Callable[[Any], Truth]:
    low = wanted.lower()
    return lambda value: low in value.lower() if type(value) is str else None


def _compiled(expression: str) -> Callable[[Any], Truth]:
    options = re2.Options()
    options.log_errors = False
    try:
        search = re2.compile(expression, options).search
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise OperandError("bad-regex", f"RE2 does not take this expression: {text}") from None
    return lambda value: search(value) is not None if type(value) is str else None


def glob_expression(glob: str) -> str:
    """The RE2 expression of fnmatch(3)'s glob, as Falco's ``glob`` has it; its star crosses slashes."""
    parts, at = [], 0
    while at < len(glob):
        letter, at = glob[at], at + 1
        if letter == "*":
            parts.append(".*")
        elif letter == "?":
            parts.append(".")
        elif letter == "\\" and at < len(glob):
            parts.append(re2.escape(glob[at]))
            at += 1
        elif letter == "[" and (end := _bracket_end(glob, at)):
            inner = glob[at:end]
            negated = "^" if inner[0] in "!^" else ""
            body = inner[1:] if negated else inner
            parts.append(f"[{negated}{_bracket_body(body)}]")
            at = end + 1
        else:
            parts.append(re2.escape(letter))
    return f"(?s)\\A(?:{''.join(parts)})\\z"


def _bracket_end(glob: str, at: int) -> int:
    """Where the bracket that opens before ``at`` closes; 0 where it never does and is itself."""
    start = at + 1 if glob[at : at + 1] in ("!", "^") else at
    return max(glob.find("]", start + 1), 0)


def _bracket_body(body: str) -> str:
    return "".join(c if c == "-" else re2.escape(c) for c in body)


def _glob(wanted: str) -> Callable[[Any], Truth]:
    return _compiled(glob_expression(wanted))


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _networks(wanted: list[str]) -> Callable[[Any], Truth]:
    networks = [network_of(text) for text in wanted]
    by_version = {v: [n for n in networks if n.version == v] for v in (4, 6)}

    def holds(value: Any) -> Truth:
        address = address_of(value)
        if address is None:
            return None
        return any(address in network for network in by_version[address.version])

    return holds


def network_of(text: Any) -> Network:
    """The network, or the network of one address; IPv4-mapped ones are IPv4. Raises OperandError."""
    try:
        network = ipaddress.ip_network(text if isinstance(text, str) else "")
    except ValueError:
        raise OperandError("bad-cidr", f"`{text}` is no network", _network_hint(text)) from None
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:  # noqa: PLR2004 - ::ffff:0:0/96
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _network_hint(text: Any) -> str:
    try:
        near = ipaddress.ip_network(text if isinstance(text, str) else "", strict=False)
    except ValueError:
        return "like 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32"
    return f"{near}: no bits past the prefix"


def address_of(value: Any) -> Address | None:
    """The IP address that a value of an event is, or None; ``::ffff:10.0.0.1`` is 10.0.0.1."""
    if type(value) is not str or len(value) > _LONGEST_ADDRESS or "%" in value:
        return None
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _text(test: Callable[[str, str], bool]) -> Callable[[str], Callable[[Any], Truth]]:
    return lambda wanted: lambda value: test(value, wanted) if type(value) is str else None


def _number(test: Callable[[Any, Any], bool]) -> Callable[[Any], Callable[[Any], Truth]]:
    return lambda wanted: lambda value: test(value, wanted) if type(value) in (int, float) else None


OPERATORS: dict[str, Operator] = {
    "equals": Operator("scalar", _equals, "is this value"),
    "notEquals": Operator("scalar", lambda w: _not(_equals(w)), "is not this value", negative=True),
    "in": Operator("scalars", _among, "is one of these"),
    "notIn": Operator("scalars", lambda w: _not(_among(w)), "is none of these", negative=True),
    "startswith": Operator("text", _text(str.startswith), "begins with this text"),
    "endswith": Operator("text", _text(str.endswith), "ends with this text"),
    "contains": Operator("text", _text(lambda v, w: w in v), "has this text in it"),
    "icontains": Operator("text", _icontains, "has this text in it, in any case"),
    "glob": Operator("text", _glob, "matches this glob as a whole; its * crosses slashes"),
    "regex": Operator("text", _compiled, "has a match for this RE2 expression anywhere"),
    "cidr": Operator("networks", _networks, "is an IP address inside any of these networks"),
    "notCidr": Operator(
        "networks",
        lambda w: _not(_networks(w)),
        "is an IP address outside all of these networks",
        negative=True,
    ),
    "gt": Operator("number", _number(lambda v, w: v > w), "is a number greater than this"),
    "gte": Operator("number", _number(lambda v, w: v >= w), "is a number, at least this"),
    "lt": Operator("number", _number(lambda v, w: v < w), "is a number less than this"),
    "lte": Operator("number", _number(lambda v, w: v <= w), "is a number, at most this"),
    "intersects": Operator("scalars", _among, "is a list that shares an element with these"),
    "exists": Operator(
        "bool", lambda wanted: lambda _: wanted, "is there (true) or absent (false)"
    ),
}

_WORDS = (*OPERATORS, "field", "jsonPath", *GROUPS)


def lift(name: str, one: Callable[[Any], Truth]) -> Callable[[Any], Truth]:
    """The predicate on any value, absent and lists included, from the one on a single value."""
    negative, only_lists = OPERATORS[name].negative, name == "intersects"

    def holds(value: Any) -> Truth:
        if type(value) is list:
            return over(value)
        if only_lists or value is None or value == "" or value == "<NA>":
            return None
        return one(value)

    def over(values: list[Any]) -> Truth:
        unknown = not values
        for value in values:
            truth = one(value) if only_lists and present(value) else holds(value)
            if truth is None:
                unknown = True
            elif truth is not negative:
                return truth
        return None if unknown else negative

    return holds


def tester(name: str, operand: Any) -> Callable[[Any], Truth]:
    """The predicate of an operator and its operand on whatever value. Raises OperandError."""
    check_operand(name, operand)
    if name == "exists":
        return lambda value: present(value) is operand
    return lift(name, OPERATORS[name].build(operand))


def check_operand(name: str, operand: Any) -> None:
    """Raises OperandError where the operator does not take the operand."""
    wants = OPERATORS[name].operand
    if wants == "bool" and not isinstance(operand, bool):
        raise OperandError("wrong-type", f"`{name}` takes true or false")
    if wants == "text" and not isinstance(operand, str):
        raise OperandError("wrong-type", f"`{name}` takes text", "quote it")
    if wants == "number" and kind_of(operand) != "number":
        raise OperandError("wrong-type", f"`{name}` takes a number")
    if wants == "scalar" and not isinstance(operand, _SCALARS):
        hint = {"equals": "in", "notEquals": "notIn"}[name] if isinstance(operand, list) else None
        raise OperandError("wrong-type", f"`{name}` takes one text, number or boolean", hint)
    if wants in ("scalars", "networks"):
        if not isinstance(operand, list) or not all(isinstance(o, _SCALARS) for o in operand):
            raise OperandError("wrong-type", f"`{name}` takes a list", "like [a, b]")
        if not operand:
            raise OperandError("bad-value", f"`{name}` of an empty list never decides anything")


def compile_conditions(data: Any, path: Path, report: Report) -> tuple[Condition, ...]:
    """The conditions of a list, what is wrong with them reported at its place."""
    if not isinstance(data, list):
        report(path, "wrong-type", "conditions are a list", "begin each with `- `")
        return ()
    found = [compile_condition(item, (*path, n), report) for n, item in enumerate(data)]
    return tuple(condition for condition in found if condition)


def compile_condition(data: Any, path: Path, report: Report) -> Condition | None:
    """One condition or group; None where it was reported as wrong."""
    if not isinstance(data, dict):
        report(path, "wrong-type", "a condition is a mapping", "{field: NAME, equals: VALUE}")
        return None
    group = next((word for word in GROUPS if word in data), None)
    if group:
        return _group(group, data, path, report)
    get = _getter(data, path, report)
    comparison = _comparison(data, path, report)
    if get is None or comparison is None:
        return None
    name, test = comparison
    what = data.get("field") or data.get("jsonPath")
    return Condition(f"{what} {name} {text_of(data[name])}", lambda event: test(get(event)))


def _group(word: str, data: dict[str, Any], path: Path, report: Report) -> Condition | None:
    for other in data.keys() - {word}:
        report((*path, other), "unknown-key", f"`{word}` stands alone, without `{other}`", key=True)
    inner, where = data[word], (*path, word)
    if word == "not":
        one = compile_condition(inner, where, report)
        if one is None:
            return None
        return Condition(f"not ({one.text})", _not(one.holds))
    if not isinstance(inner, list) or not inner:
        code = "bad-value" if inner == [] else "wrong-type"
        report(where, code, f"`{word}` takes a list of conditions")
        return None
    conditions = compile_conditions(inner, where, report)
    tests = tuple(condition.holds for condition in conditions)
    joined = f" {'and' if word == 'all' else 'or'} ".join(f"({c.text})" for c in conditions)
    return Condition(joined, _joined(tests, stops=word == "any"))


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


def _getter(data: dict[str, Any], path: Path, report: Report) -> Callable[[Event], Any] | None:
    given = [word for word in ("field", "jsonPath") if word in data]
    if len(given) != 1:
        typo = any(k not in _WORDS and nearest(k, ("field", "jsonPath")) for k in data)
        if not typo:
            code = "bad-value" if given else "missing-key"
            report(path, code, "a condition has one of `field` and `jsonPath`")
        return None
    (word,) = given
    text = data[word]
    if not isinstance(text, str) or not text:
        report((*path, word), "wrong-type", f"`{word}` takes text")
        return None
    if word == "field":
        return lambda event: event.fields.get(text)
    try:
        find = compile_path(text)
    except PathError as error:
        report((*path, word), "bad-path", str(error))
        return None
    return lambda event: find(event.alert)


def _comparison(
    data: dict[str, Any], path: Path, report: Report, own: Collection[str] = ("field", "jsonPath")
) -> tuple[str, Callable[[Any], Truth]] | None:
    """The one operator of a condition and its predicate."""
    wrong = [key for key in data if key not in OPERATORS and key not in own]
    for key in wrong:
        hint = nearest(key, _WORDS)
        code = "unknown-key" if hint in ("field", "jsonPath", *GROUPS) else "unknown-operator"
        what = "key" if code == "unknown-key" else "operator"
        report((*path, key), code, f"`{key}` is no {what} of a condition", hint, key=True)
    given = [key for key in data if key in OPERATORS]
    if len(given) == 1 and not wrong:
        (name,) = given
        try:
            return name, tester(name, data[name])
        except OperandError as error:
            report((*path, name), error.code, str(error), error.hint)
    elif len(given) > 1:
        report(path, "bad-value", f"a condition has one operator, not {' and '.join(given)}")
    elif not wrong:
        report(path, "missing-key", "a condition has an operator", ", ".join(OPERATORS))
    return None


def compile_step_condition(
    data: dict[str, Any], path: Path, report: Report
) -> StepCondition | None:
    """A condition on an earlier step: ``{step, is}`` or ``{step, jsonPath, OPERATOR}``."""
    step = data["step"]
    if not isinstance(step, str):
        report((*path, "step"), "wrong-type", "`step` takes the name of an earlier step")
        return None
    if "is" in data:
        return _step_state(step, data, path, report)
    comparison = _comparison(data, path, report, ("step", "jsonPath"))
    if "jsonPath" not in data:
        report(path, "missing-key", "a condition on a step has `is` or `jsonPath`")
        return None
    try:
        find = compile_path(data["jsonPath"] if isinstance(data["jsonPath"], str) else "")
    except PathError as error:
        report((*path, "jsonPath"), "bad-path", str(error))
        return None
    if comparison is None:
        return None
    name, test = comparison
    text = f"{step} {data['jsonPath']} {name} {text_of(data[name])}"
    return StepCondition(text, step, on_answer=lambda answer: test(find(answer)))


STEP_ENDS = ("done", "skipped", "refused", "failed")


def _step_state(
    step: str, data: dict[str, Any], path: Path, report: Report
) -> StepCondition | None:
    for key in data.keys() - {"step", "is"}:
        report((*path, key), "unknown-key", f"`is` stands without `{key}`", key=True)
    states = data["is"]
    if not isinstance(states, list) or not states:
        report((*path, "is"), "wrong-type", "`is` takes a list of states", "[done]")
        return None
    for n, state in enumerate(states):
        if state not in STEP_ENDS:
            hint = nearest(str(state), STEP_ENDS)
            report((*path, "is", n), "bad-value", f"`{state}` is no end of a step", hint)
    return StepCondition(f"{step} is {text_of(states)}", step, states=tuple(map(str, states)))


def text_of(value: Any) -> str:
    """A value as a sentence shows it; a long one is cut."""
    text = f"[{', '.join(map(text_of, value))}]" if isinstance(value, list) else str(value)
    if isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= 80 else text[:79] + "…"  # noqa: PLR2004 - a line of a terminal
