"""JSONPath: names, indices, slices, wildcards, ``..``, and filters with ``== != < <= > >=`` joined by ``&``.

A singular path (RFC 9535: names and indices only) is read here. All other paths are parsed by jsonpath-ng
and turned into selector functions. Regular expressions (they backtrack), arithmetic and back-quoted
functions of jsonpath-ng are not allowed.

An evaluation has a budget of steps, and one step visits one value. The budget grows with the alert. A path
without nested filters always fits, so a large alert cannot hide a value from it.
"""

from __future__ import annotations

import operator
import re
import threading
import warnings
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from engine.model.event import is_present

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Keys = tuple[str | int, ...]
    Nodes = list[Any]
    Selector = Callable[[Nodes, "_StepBudget"], Nodes]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MAX_LENGTH = 1_000
_MAX_SEGMENTS = 32
_MAX_DESCENTS = 4
"""``..`` segments in one path, including those in filters. Each visits the whole alert."""
_MAX_NESTED_FILTERS = 2
BASE_STEPS = 10_000
"""Steps of one evaluation, whatever the size of the alert."""
STEPS_PER_VALUE = 20
"""Additional steps of one evaluation for each value of the alert."""
_COST_OF_CHARACTER = 4
_FILTER_RULE = "a filter compares with == != < <= > >=, joined by &"

_SEGMENT = re.compile(
    r"\.(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|\[(?P<index>-?(?:0|[1-9][0-9]{0,8}))\]"
    r"|\[(?:'(?P<single>[^'\\]+)'|\"(?P<double>[^\"\\]+)\")\]"
)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_RESERVED = frozenset(("where", "wherenot", "true", "false", "null"))
"""Words that jsonpath-ng does not accept as a name after a dot."""


class PathError(ValueError):
    """A text that is not a JSONPath, or that uses a feature that is not allowed."""


class _Unknown:
    """The result of an evaluation that exceeded its budget. Every operator on it is unknown."""

    def __str__(self) -> str:
        return "(the JSONPath takes too many steps)"


UNKNOWN = _Unknown()


class _TooManyStepsError(Exception):
    """An evaluation has used up its budget."""


class _StepBudget:
    """The steps that are left to one evaluation over a JSON value."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._left = BASE_STEPS
        self._is_extended = False

    def take(self, number: int) -> None:
        """Use this number of steps. Raises _TooManyStepsError."""
        self._left -= number
        if self._left < 0 and not self._is_extended:  # counting the values is rarely necessary
            self._is_extended = True
            self._left += STEPS_PER_VALUE * _count_values(self._value)
        if self._left < 0:
            raise _TooManyStepsError


def _count_values(value: Any) -> int:
    """Return the number of values in a JSON value, itself included."""
    count = 0
    waiting = [value]
    while waiting:
        count += 1
        waiting += _children(waiting.pop())
    return count


def field_of(text: str) -> str | None:
    """Return NAME if the path is ``$.output_fields['NAME']``, else None. Raises PathError."""
    keys = keys_of(text)
    if keys is not None and len(keys) == 2 and keys[0] == "output_fields":  # noqa: PLR2004
        return keys[1] if isinstance(keys[1], str) else None
    return None


@lru_cache(4_096)  # the checks of a folder ask several times for each path
def keys_of(text: str) -> Keys | None:
    """Return the names and indices of a singular path, else None. Raises PathError."""
    keys = _read_singular(text)
    return _singular_keys(_parse(text)) if keys is None else keys


def parse_cost(text: str) -> int:
    """Return how long it takes to parse a path, in RE2 instructions (1 us each); 0 for a singular path.

    Raises PathError.
    """
    return 0 if _read_singular(text) is not None else _COST_OF_CHARACTER * len(text)


def compile_path(text: str) -> Callable[[Any], Any]:
    """Return a function from a JSON value to the result of the path. Raises PathError.

    The result of a singular path is the value, or None if there is no such value. The result of any other
    path is the list of the values that it finds, or UNKNOWN if the evaluation exceeds its budget.
    """
    keys = keys_of(text)
    if keys is not None:
        return _lookup(keys)
    select = _selector(_parse(text))

    def find(value: Any) -> Any:
        try:
            return select([value], _StepBudget(value))
        except _TooManyStepsError:
            return UNKNOWN

    return find


def _read_singular(text: str) -> Keys | None:
    """Read a singular path without jsonpath-ng, whose import takes 40 ms. None for all other texts.

    Raises PathError for a text that is too long or does not begin with ``$``.
    """
    if not text.startswith("$"):
        raise PathError("a JSONPath begins with `$`")
    if len(text) > _MAX_LENGTH:
        raise PathError(f"a JSONPath has at most {_MAX_LENGTH:,} characters")
    keys: list[str | int] = []
    at = 1
    while at < len(text):
        segment = _SEGMENT.match(text, at)
        if segment is None or segment["name"] in _RESERVED:
            return None
        key = segment["name"] or segment["single"] or segment["double"]
        if key == "*":
            return None
        keys.append(int(segment["index"]) if key is None else key)
        at = segment.end()
    if len(keys) > _MAX_SEGMENTS:
        raise PathError(f"a JSONPath has at most {_MAX_SEGMENTS} segments")
    return tuple(keys)


class _Parser(threading.local):
    """The parser of jsonpath-ng for each thread. To create one takes longer than to parse a path."""

    @cached_property
    def parse(self) -> Callable[[str], Any]:
        from jsonpath_ng.ext.parser import ExtendedJsonPathParser  # noqa: PLC0415 - 40 ms, rarely needed

        return ExtendedJsonPathParser().parse


_parser = _Parser()


@lru_cache(256)  # the playbooks of a folder use the same paths
def _parse(text: str) -> Any:
    """Return the tree of jsonpath-ng for a path within the limits. Raises PathError."""
    from jsonpath_ng.exceptions import JSONPathError  # noqa: PLC0415 - 40 ms, rarely needed

    if "`" in _QUOTED.sub("", text):
        raise PathError("back-quoted functions are not allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jsonpath-ng deprecates `&`, which the language has
            tree = _parser.parse(text)
    except RecursionError:
        raise PathError("the JSONPath is nested too deeply") from None
    except (JSONPathError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise PathError(f"not a valid JSONPath: {str(error)[:200]}") from None
    _check_size(tree)
    return tree


def _check_size(tree: Any) -> None:
    """Raise PathError if the path has too many segments, descents or nested filters."""
    segments = descents = 0
    waiting = [(tree, 0)]
    while waiting:
        part, filters = waiting.pop()
        name = type(part).__name__
        segments += name in ("Child", "Descendants", "Filter")
        descents += name == "Descendants"
        filters += name == "Filter"
        if filters > _MAX_NESTED_FILTERS:
            raise PathError(f"a JSONPath has at most {_MAX_NESTED_FILTERS} nested filters")
        inner = [expression.target for expression in getattr(part, "expressions", None) or ()]
        inner += [getattr(part, side) for side in ("left", "right") if hasattr(part, side)]
        waiting += [(one, filters) for one in inner]
    if segments > _MAX_SEGMENTS:
        raise PathError(f"a JSONPath has at most {_MAX_SEGMENTS} segments")
    if descents > _MAX_DESCENTS:
        raise PathError(f"a JSONPath has `..` at most {_MAX_DESCENTS} times")


def _singular_keys(tree: Any) -> Keys | None:
    """Return the names and indices of a tree that is a singular path, else None."""
    keys: list[str | int] = []
    while True:
        name = type(tree).__name__
        if name == "Root":
            return tuple(reversed(keys))
        if name != "Child":
            return None
        last = tree.right
        if type(last).__name__ == "Fields" and len(last.fields) == 1 and last.fields[0] != "*":
            keys.append(last.fields[0])
        elif type(last).__name__ == "Index" and len(last.indices) == 1:
            keys.append(last.indices[0])
        else:
            return None
        tree = tree.left


def _lookup(keys: Keys) -> Callable[[Any], Any]:
    if len(keys) == 1 and isinstance(keys[0], str):
        (key,) = keys
        return lambda value: value.get(key) if type(value) is dict else None

    def look(value: Any) -> Any:
        for key in keys:
            if isinstance(key, str):
                value = value.get(key) if type(value) is dict else None
            elif type(value) is list and -len(value) <= key < len(value):
                value = value[key]
            else:
                return None
        return value

    return look


def _selector(tree: Any) -> Selector:
    """Return the selector of a tree: a function from nodes to nodes. Raises PathError."""
    build = _SELECTORS.get(type(tree).__name__)
    if build is None:
        raise PathError("only names, indices, slices, wildcards, `..` and filters are allowed")
    return build(tree)


def _current(_tree: Any) -> Selector:
    return lambda nodes, _: nodes


def _child(tree: Any) -> Selector:
    left, right = _selector(tree.left), _selector(tree.right)
    return lambda nodes, steps: right(left(nodes, steps), steps)


def _descendants(tree: Any) -> Selector:
    left, right = _selector(tree.left), _selector(tree.right)
    return lambda nodes, steps: right(_descend(left(nodes, steps), steps), steps)


def _wildcard(_tree: Any) -> Selector:
    return _of_each(_children)


def _names(tree: Any) -> Selector:
    if "*" in tree.fields:
        return _wildcard(tree)
    names = tuple(dict.fromkeys(tree.fields))
    return _of_each(lambda n: [n[name] for name in names if name in n] if type(n) is dict else ())


def _indices(tree: Any) -> Selector:
    indices = tuple(dict.fromkeys(tree.indices))
    return _of_each(
        lambda n: [n[i] for i in indices if -len(n) <= i < len(n)] if type(n) is list else ()
    )


def _slice(tree: Any) -> Selector:
    if tree.step == 0:
        raise PathError("the step of a slice is not 0")
    part = slice(tree.start, tree.end, tree.step)
    return _of_each(lambda n: n[part] if type(n) is list else ())


def _filter(tree: Any) -> Selector:
    tests = [_test(expression) for expression in tree.expressions]
    children = _of_each(_children)
    return lambda nodes, steps: [
        child for child in children(nodes, steps) if all(test(child, steps) for test in tests)
    ]


_SELECTORS: dict[str, Callable[[Any], Selector]] = {
    "Root": _current,
    "This": _current,
    "Child": _child,
    "Descendants": _descendants,
    "Wildcard": _wildcard,
    "Fields": _names,
    "Index": _indices,
    "Slice": _slice,
    "Filter": _filter,
}
"""Class of a jsonpath-ng node -> builder of its selector."""


def _of_each(pick: Callable[[Any], Collection[Any]]) -> Selector:
    """Return the selector that joins what ``pick`` gives for each node."""

    def select(nodes: Nodes, steps: _StepBudget) -> Nodes:
        selected: Nodes = []
        steps.take(len(nodes))
        for node in nodes:
            picked = pick(node)
            steps.take(len(picked))
            selected += picked
        return selected

    return select


def _test(expression: Any) -> Callable[[Any, _StepBudget], bool]:
    """Return the test of a filter expression. It is false for absent values and values of another type."""
    if type(expression).__name__ != "Expression" or _refers_to_root(expression.target):
        raise PathError(_FILTER_RULE)
    find, sign, wanted = _selector(expression.target), expression.op, expression.value
    if sign is None:
        return lambda node, steps: any(is_present(value) for value in find([node], steps))
    if sign not in _COMPARE or not isinstance(wanted, (str, int, float)):
        raise PathError(_FILTER_RULE)
    compare, kind = _COMPARE[sign], _kind(wanted)
    if kind == "bool" and sign not in ("==", "=", "!="):
        raise PathError("true and false have no order")

    def holds(node: Any, steps: _StepBudget) -> bool:
        return any(
            is_present(value) and _kind(value) == kind and compare(value, wanted)
            for value in find([node], steps)
        )

    return holds


def _refers_to_root(tree: Any) -> bool:
    while hasattr(tree, "left"):
        tree = tree.left
    return type(tree).__name__ == "Root"


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def _children(node: Any) -> Collection[Any]:
    if type(node) is list:
        return node
    return node.values() if type(node) is dict else ()


def _descend(nodes: Nodes, steps: _StepBudget) -> Nodes:
    """Return the nodes and all values inside them, each container once."""
    visited: Nodes = []
    seen: set[int] = set()
    waiting = nodes[::-1]
    while waiting:
        node = waiting.pop()
        steps.take(1)
        if type(node) in (list, dict):
            if id(node) in seen:
                continue
            seen.add(id(node))
            waiting += list(_children(node))[::-1]
        visited.append(node)
    return visited
