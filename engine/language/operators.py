"""The operators: a table, lowered to closures that give true, false or unknown (None).

On an absent value, and on one of a type that the operator cannot compare, every operator but ``exists`` is
unknown, so that a guard never passes because a field is missing. Nothing here raises on an event.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import re2

from engine.language.glob import glob_expression
from engine.language.jsonpath import UNKNOWN
from engine.model.event import is_present

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.model.playbook import Truth

_SCALARS = (str, bool, int, float)
_LONGEST_ADDRESS = 45
_LONGEST_GLOB = 10_000
_MAX_MEMORY = 1 << 19
"""Bytes of one compiled expression. RE2 takes two thirds of it for the program, which is then compiled
within 10 ms, and the rest for its automaton."""
LARGEST_EXPRESSION = 25_000
"""Instructions of the largest expression that fits into _MAX_MEMORY."""


class OperandError(ValueError):
    """An operand that the operator does not take; carries the code and the hint of the finding.

    size: instructions of a regular expression that is too large, as far as it was compiled.
    """

    def __init__(self, code: str, what: str, hint: str | None = None, size: int = 0) -> None:
        super().__init__(what)
        self.code = code
        self.hint = hint
        self.size = size


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of the language.

    operand: what it takes (scalar, scalars, text, networks, number, bool). build: from the operand to a
    predicate on one value that is there. negative: on a list all elements must pass, not any. doc: for the
    reference and for editors. expression: from the operand to an RE2 expression, which ``build`` then takes
    compiled.
    """

    operand: str
    build: Callable[[Any], Callable[[Any], Truth]]
    doc: str
    negative: bool = False
    expression: Callable[[str], str] | None = None


def value_type(value: Any) -> str:
    """number, boolean, text, or the name of another type: only values of one kind compare."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__


def _equals(wanted: Any) -> Callable[[Any], Truth]:
    kind = value_type(wanted)
    if kind == "text":
        return lambda value: value == wanted if type(value) is str else None
    return lambda value: value == wanted if value_type(value) == kind else None


def _among(wanted: list[Any]) -> Callable[[Any], Truth]:
    sets: dict[str, set[Any]] = {}
    for value in wanted:
        sets.setdefault(value_type(value), set()).add(value)
    texts, others = sets.get("text"), {k: s for k, s in sets.items() if k != "text"}

    def holds(value: Any) -> Truth:
        if type(value) is str:
            return value in texts if texts is not None else None
        mine = others.get(value_type(value))
        return value in mine if mine is not None else None

    return holds


def negated(test: Callable[[Any], Truth]) -> Callable[[Any], Truth]:
    """The predicate that is true where the test is false; of unknown it is unknown."""

    def holds(value: Any) -> Truth:
        truth = test(value)
        return None if truth is None else not truth

    return holds


def _icontains(wanted: str) -> Callable[[Any], Truth]:
    low = wanted.lower()
    return lambda value: low in value.lower() if type(value) is str else None


def _expression(text: str) -> Any:
    """The compiled RE2 expression. Raises OperandError."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0]
        what = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        if "too large" in what:
            hint = "repeat less, or smaller classes than \\pL"
            what = f"the expression takes more than {_MAX_MEMORY >> 10} KiB"
            raise OperandError("bad-regex", what, hint, LARGEST_EXPRESSION) from None
        raise OperandError("bad-regex", f"RE2 does not accept this expression: {what}") from None


def _searching(compiled: Any) -> Callable[[Any], Truth]:
    search = compiled.search
    return lambda value: search(value) is not None if type(value) is str else None


def _glob(wanted: str) -> str:
    if len(wanted) > _LONGEST_GLOB:
        raise OperandError("bad-value", f"a glob has at most {_LONGEST_GLOB:,} characters")
    return glob_expression(wanted)


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


def _prefix(wanted: str) -> Callable[[Any], Truth]:
    return lambda value: value.startswith(wanted) if type(value) is str else None


def _number(test: Callable[[Any, Any], bool]) -> Callable[[Any], Callable[[Any], Truth]]:
    return lambda wanted: lambda value: test(value, wanted) if type(value) in (int, float) else None


OPERATORS: dict[str, Operator] = {
    "equals": Operator("scalar", _equals, "is this value"),
    "notEquals": Operator(
        "scalar", lambda w: negated(_equals(w)), "is not this value", negative=True
    ),
    "in": Operator("scalars", _among, "is one of these"),
    "notIn": Operator("scalars", lambda w: negated(_among(w)), "is none of these", negative=True),
    "startswith": Operator("text", _prefix, "begins with this text"),
    "endswith": Operator("text", _text(str.endswith), "ends with this text"),
    "contains": Operator("text", _text(lambda v, w: w in v), "has this text in it"),
    "icontains": Operator("text", _icontains, "has this text in it, in any case"),
    "glob": Operator(
        "text",
        _searching,
        "matches this glob as a whole; its * crosses slashes",
        expression=_glob,
    ),
    "regex": Operator(
        "text", _searching, "has a match for this RE2 expression anywhere", expression=str
    ),
    "cidr": Operator("networks", _networks, "is an IP address inside any of these networks"),
    "notCidr": Operator(
        "networks",
        lambda w: negated(_networks(w)),
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
            truth = one(value) if only_lists and is_present(value) else holds(value)
            if truth is None:
                unknown = True
            elif truth is not negative:
                return truth
        return None if unknown else negative

    return holds


@dataclass(frozen=True, slots=True)
class Test:
    """An operator with its operand.

    on: the predicate on whatever value. on_text: the quicker one on a text that is there, where the
    operator looks at single values. only: the only texts on which it can hold, where it names them.
    size: instructions of its RE2 expression, 0 without one.
    """

    on: Callable[[Any], Truth]
    on_text: Callable[[Any], Truth] | None = None
    only: frozenset[str] | None = None
    size: int = 0


def tester(name: str, operand: Any) -> Test:
    """The operator on its operand. Raises OperandError."""
    check_operand(name, operand)
    if name == "exists":
        return Test(lambda value: None if value is UNKNOWN else is_present(value) is operand)
    operator = OPERATORS[name]
    if operator.expression:
        compiled = _expression(operator.expression(operand))
        one = operator.build(compiled)
        return Test(lift(name, one), one, size=compiled.programsize)
    one = operator.build(operand)
    if name == "intersects":
        return Test(lift(name, one))
    named = {"equals": [operand], "in": operand}.get(name, [None])
    texts = all(type(value) is str for value in named)
    return Test(lift(name, one), one, frozenset(named) if texts else None)


def check_operand(name: str, operand: Any) -> None:
    """Raises OperandError where the operator does not take the operand."""
    wants = OPERATORS[name].operand
    if wants == "bool" and not isinstance(operand, bool):
        raise OperandError("wrong-type", f"`{name}` takes true or false")
    if wants == "text" and not isinstance(operand, str):
        raise OperandError("wrong-type", f"`{name}` takes text", "quote it")
    if wants == "number" and value_type(operand) != "number":
        raise OperandError("wrong-type", f"`{name}` takes a number")
    if wants == "scalar" and not isinstance(operand, _SCALARS):
        hint = {"equals": "in", "notEquals": "notIn"}[name] if isinstance(operand, list) else None
        raise OperandError("wrong-type", f"`{name}` takes one text, number or boolean", hint)
    if wants in ("scalars", "networks"):
        if not isinstance(operand, list) or not all(isinstance(o, _SCALARS) for o in operand):
            raise OperandError("wrong-type", f"`{name}` takes a list", "like [a, b]")
        if not operand:
            raise OperandError("bad-value", f"`{name}` of an empty list never decides anything")


def display_text(value: Any) -> str:
    """A value as a sentence shows it; a long one is cut."""
    text = f"[{', '.join(map(display_text, value))}]" if isinstance(value, list) else str(value)
    if isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= 80 else text[:79] + "…"  # noqa: PLR2004 - a line of a terminal
