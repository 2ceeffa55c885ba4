"""The comparison operators of conditions, compiled to predicates that return true, false or unknown (None).

If a value is absent or has a type that the operator cannot compare, every operator except ``exists`` is unknown.
So a condition never holds because a field is missing. No predicate raises an exception.
"""

from __future__ import annotations

import ipaddress
from socket import AF_INET, AF_INET6, inet_pton
from typing import TYPE_CHECKING, Any

import msgspec
import re2

from engine.language.glob import glob_expression
from engine.language.jsonpath import UNKNOWN
from engine.model.event import is_present

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.model.playbook import Truth

    Predicate = Callable[[Any], Truth]

_SCALARS = (str, bool, int, float)
_MAX_ADDRESS = 45
_MAPPED = bytes(10) + b"\xff\xff"
"""The first bytes of an IPv6 address that stands for an IPv4 address: ::ffff:0:0/96."""
_MAX_GLOB = 10_000
_MAX_MEMORY = 1 << 19
"""Bytes of one compiled expression. RE2 uses two thirds for the program, which then compiles within 10 ms, and
the rest for its automaton."""
_MAX_EXPRESSION = 25_000
"""Instructions of the largest expression that fits into _MAX_MEMORY."""
_MAX_DISPLAY = 80
"""Characters of an operand in a message: one line of a terminal."""


class OperandError(ValueError):
    """An operand that the operator does not accept.

    code, hint: of the finding. instructions: of a regular expression that is too large, as far as RE2 has
    compiled it.
    """

    def __init__(
        self, code: str, what: str, hint: str | None = None, instructions: int = 0
    ) -> None:
        super().__init__(what)
        self.code = code
        self.hint = hint
        self.instructions = instructions


class Operator(msgspec.Struct, frozen=True):
    """An operator of the language.

    operand: the type of the operand (scalar, scalars, text, networks, number, bool). build: returns the
    predicate on one present value. doc: for the reference and for editors. negative: for a list value, all
    elements must pass, not any. expression: returns the RE2 expression of the operand; ``build`` then
    receives the compiled expression.
    """

    operand: str
    build: Callable[[Any], Predicate]
    doc: str
    negative: bool = False
    expression: Callable[[str], str] | None = None


def value_type(value: Any) -> str:
    """Return number, boolean, text, or the name of another type. Only values of the same type compare."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__


def negate(predicate: Predicate) -> Predicate:
    """Return the negation of a predicate; not unknown is unknown."""

    def holds(value: Any) -> Truth:
        truth = predicate(value)
        return None if truth is None else not truth

    return holds


def _equals(operand: Any) -> Predicate:
    operand_type = value_type(operand)
    if operand_type == "text":
        return lambda value: value == operand if type(value) is str else None
    return lambda value: value == operand if value_type(value) == operand_type else None


def _in(operands: list[Any]) -> Predicate:
    by_type: dict[str, set[Any]] = {}
    for operand in operands:
        by_type.setdefault(value_type(operand), set()).add(operand)
    texts, others = by_type.get("text"), {k: s for k, s in by_type.items() if k != "text"}

    def holds(value: Any) -> Truth:
        if type(value) is str:
            return value in texts if texts is not None else None
        same_type = others.get(value_type(value))
        return value in same_type if same_type is not None else None

    return holds


def _starts_with(operand: str) -> Predicate:
    return lambda value: value.startswith(operand) if type(value) is str else None


def _text(compare: Callable[[str, str], bool]) -> Callable[[str], Predicate]:
    return lambda operand: lambda value: compare(value, operand) if type(value) is str else None


def _contains_ignoring_case(operand: str) -> Predicate:
    lower = operand.lower()
    return lambda value: lower in value.lower() if type(value) is str else None


def _number(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Predicate]:
    return lambda operand: (
        lambda value: compare(value, operand) if type(value) in (int, float) else None
    )


def _compile_expression(text: str) -> Any:
    """Compile an RE2 expression. Raises OperandError."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0]
        what = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
    if "too large" in what:
        what = f"the expression takes more than {_MAX_MEMORY >> 10} KiB"
        hint = "use fewer repetitions, or smaller classes than \\pL"
        raise OperandError("bad-regex", what, hint, _MAX_EXPRESSION)
    raise OperandError("bad-regex", f"RE2 does not accept this expression: {what}")


def _searches(expression: Any) -> Predicate:
    search = expression.search
    return lambda value: search(value) is not None if type(value) is str else None


def _glob(operand: str) -> str:
    if len(operand) > _MAX_GLOB:
        raise OperandError("bad-value", f"a glob has at most {_MAX_GLOB:,} characters")
    return glob_expression(operand)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _in_networks(operands: list[str]) -> Predicate:
    # IP version -> bits after the prefix -> prefixes. A long list of networks costs one look-up for each length
    prefixes: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
    for network in map(network_of, operands):
        bits = network.max_prefixlen - network.prefixlen
        of_length = prefixes[network.version].setdefault(bits, set())
        of_length.add(int(network.network_address) >> bits)

    def holds(value: Any) -> Truth:
        address = address_of(value)
        if address is None:
            return None
        number = int(address)
        return any(number >> bits in known for bits, known in prefixes[address.version].items())

    return holds


def network_of(text: Any) -> Network:
    """Return a network; an address is a network of one. IPv4-mapped IPv6 becomes IPv4.

    Raises OperandError.
    """
    try:
        # a zone, as in fe80::1%eth0, is not part of the address of an event
        network = ipaddress.ip_network(text if isinstance(text, str) and "%" not in text else "")
    except ValueError:
        raise OperandError("bad-cidr", f"`{text}` is not a network", _network_hint(text)) from None
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:  # noqa: PLR2004 - ::ffff:0:0/96
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _network_hint(text: Any) -> str:
    try:
        address = text.partition("%")[0] if isinstance(text, str) else ""
        near = ipaddress.ip_network(address, strict=False)
    except ValueError:
        return "like 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32"
    reason = "without a zone" if "%" in text else "the bits after the prefix are 0"
    return f"{near}: {reason}"


def address_of(value: Any) -> Address | None:
    """Return the IP address in a value of an event, or None. ``::ffff:10.0.0.1`` is 10.0.0.1."""
    if type(value) is not str or len(value) > _MAX_ADDRESS or "%" in value:
        return None
    try:  # inet_pton takes a tenth of the time of ip_address; a list in an event can have 300,000 addresses
        if ":" not in value:
            return ipaddress.IPv4Address(inet_pton(AF_INET, value))
        packed = inet_pton(AF_INET6, value)
    except (OSError, ValueError):  # ValueError: a NUL, or half of a surrogate pair
        return None
    if packed.startswith(_MAPPED):
        return ipaddress.IPv4Address(packed[len(_MAPPED) :])
    return ipaddress.IPv6Address(packed)


OPERATORS: dict[str, Operator] = {
    "equals": Operator("scalar", _equals, "equals this value"),
    "notEquals": Operator(
        "scalar", lambda operand: negate(_equals(operand)), "differs from this value", negative=True
    ),
    "in": Operator("scalars", _in, "is one of these"),
    "notIn": Operator(
        "scalars", lambda operands: negate(_in(operands)), "is none of these", negative=True
    ),
    "startswith": Operator("text", _starts_with, "begins with this text"),
    "endswith": Operator("text", _text(str.endswith), "ends with this text"),
    "contains": Operator("text", _text(lambda v, operand: operand in v), "contains this text"),
    "icontains": Operator(
        "text", _contains_ignoring_case, "contains this text, in upper or lower case"
    ),
    "glob": Operator(
        "text",
        _searches,
        "matches this glob as a whole; * also matches slashes",
        expression=_glob,
    ),
    "regex": Operator("text", _searches, "contains a match of this RE2 expression", expression=str),
    "cidr": Operator("networks", _in_networks, "is an IP address in one of these networks"),
    "notCidr": Operator(
        "networks",
        lambda operands: negate(_in_networks(operands)),
        "is an IP address outside all of these networks",
        negative=True,
    ),
    "gt": Operator("number", _number(lambda v, w: v > w), "is a number greater than this"),
    "gte": Operator("number", _number(lambda v, w: v >= w), "is a number, at least this"),
    "lt": Operator("number", _number(lambda v, w: v < w), "is a number less than this"),
    "lte": Operator("number", _number(lambda v, w: v <= w), "is a number, at most this"),
    "intersects": Operator("scalars", _in, "is a list with at least one of these elements"),
    "exists": Operator(
        "bool", lambda wanted: lambda _: wanted, "is present (true) or absent (false)"
    ),
}


def _for_any_value(name: str, predicate: Predicate) -> Predicate:
    """Extend the predicate on one present value to absent values and lists."""
    negative, only_lists = OPERATORS[name].negative, name == "intersects"

    def holds(value: Any) -> Truth:
        if type(value) is list:
            return holds_for_list(value)
        if only_lists or value is None or value == "" or value == "<NA>":
            return None
        return predicate(value)

    def holds_for_list(values: list[Any]) -> Truth:
        unknown = not values
        for value in values:
            truth = predicate(value) if only_lists and is_present(value) else holds(value)
            if truth is None:
                unknown = True
            elif truth is not negative:
                return truth
        return None if unknown else negative

    return holds


class CompiledOperator(msgspec.Struct, frozen=True):
    """An operator with its operand.

    holds: the predicate on any value. holds_for_text: a faster predicate on a present text, if the operator
    compares single values. only: the only texts for which it can hold, if it names them. instructions: of its
    RE2 expression, 0 without one.
    """

    holds: Predicate
    holds_for_text: Predicate | None = None
    only: frozenset[str] | None = None
    instructions: int = 0


def compile_operator(name: str, operand: Any) -> CompiledOperator:
    """Compile an operator with its operand. Raises OperandError."""
    check_operand(name, operand)
    if name == "exists":
        return CompiledOperator(
            lambda value: None if value is UNKNOWN else is_present(value) is operand
        )
    operator = OPERATORS[name]
    if operator.expression:
        expression = _compile_expression(operator.expression(operand))
        one = operator.build(expression)
        instructions = expression.programsize
        return CompiledOperator(_for_any_value(name, one), one, instructions=instructions)
    one = operator.build(operand)
    if name == "intersects":
        return CompiledOperator(_for_any_value(name, one))
    named = {"equals": [operand], "in": operand}.get(name, [None])
    are_texts = all(type(value) is str for value in named)
    return CompiledOperator(_for_any_value(name, one), one, frozenset(named) if are_texts else None)


def check_operand(name: str, operand: Any) -> None:
    """Raise OperandError if the operator does not accept the operand."""
    wanted = OPERATORS[name].operand
    if wanted == "bool" and not isinstance(operand, bool):
        raise OperandError("wrong-type", f"`{name}` takes true or false")
    if wanted == "text" and not isinstance(operand, str):
        raise OperandError("wrong-type", f"`{name}` takes text", "quote it")
    if wanted == "number" and value_type(operand) != "number":
        raise OperandError("wrong-type", f"`{name}` takes a number")
    if wanted == "scalar" and not isinstance(operand, _SCALARS):
        hint = {"equals": "in", "notEquals": "notIn"}[name] if isinstance(operand, list) else None
        raise OperandError("wrong-type", f"`{name}` takes one text, number or boolean", hint)
    if wanted in ("scalars", "networks"):
        if not isinstance(operand, list) or not all(isinstance(o, _SCALARS) for o in operand):
            raise OperandError("wrong-type", f"`{name}` takes a list", "like [a, b]")
        if not operand:
            raise OperandError("bad-value", f"`{name}` takes a list with at least one item")


def display_text(value: Any) -> str:
    """Return a value as text for a message. A long text is truncated."""
    text = f"[{', '.join(map(display_text, value))}]" if isinstance(value, list) else str(value)
    if isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= _MAX_DISPLAY else text[: _MAX_DISPLAY - 1] + "…"
