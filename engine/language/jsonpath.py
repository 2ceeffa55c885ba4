"""JSONPath, parsed by jsonpath-ng and lowered to look-ups of our own.

What is allowed: names, indices, slices, wildcards, ``..`` and filters with ``== != < <= > >=`` and ``&``.
jsonpath-ng's regular expressions (they backtrack), arithmetic and back-quoted functions are not.

An evaluation has a budget of steps. One step visits one value. The budget grows with the alert, so that a
path without filters within filters always fits, and padding an alert does not hide anything from it.
"""

from __future__ import annotations

import operator
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from engine.model.event import is_present

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Select = Callable[["Nodes", "_Steps"], "Nodes"]

Nodes = list[Any]

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
"""``..`` in one path, those in filters included; each visits the whole alert."""
_MAX_FILTERS = 2
"""Filters within one another."""
STEPS = 10_000
STEPS_PER_VALUE = 20
"""Steps of one evaluation: so many, and so many more for each value of the alert (see the module)."""


class PathError(ValueError):
    """A text that is not a JSONPath, or that uses what is not allowed; the sentence says what."""


class _Unknown:
    """What a path finds whose evaluation takes more steps than allowed; every operator on it is unknown."""

    def __str__(self) -> str:
        return "(the JSONPath takes too many steps)"


UNKNOWN = _Unknown()


class _TooManyStepsError(Exception):
    """An evaluation has used its budget."""


class _Steps:
    """The budget of one evaluation over a value."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._left = STEPS
        self._counted = False

    def take(self, number: int) -> None:
        """Use so many steps. Raises _TooManyStepsError."""
        self._left -= number
        if (
            self._left < 0 and not self._counted
        ):  # few evaluations need to know how large the value is
            self._counted = True
            self._left += STEPS_PER_VALUE * _values_in(self._value)
        if self._left < 0:
            raise _TooManyStepsError


def _values_in(value: Any) -> int:
    """The number of values in a JSON value, itself included."""
    count = 0
    waiting = [value]
    while waiting:
        count += 1
        waiting += _children(waiting.pop())
    return count


def field_of(text: str) -> str | None:
    """The output field that the path names, where it is no more than ``$.output_fields['NAME']``.

    Raises PathError.
    """
    keys = keys_of(text)
    if keys is not None and len(keys) == 2 and keys[0] == "output_fields":  # noqa: PLR2004
        return keys[1] if isinstance(keys[1], str) else None
    return None


def keys_of(text: str) -> tuple[str | int, ...] | None:
    """The keys and indices of a path that names one place, or None. Raises PathError."""
    return _plain(_checked(text))


def compile_path(text: str) -> Callable[[Any], Any]:
    """A function from a JSON value to what the path finds in it. Raises PathError.

    A path that names one place gives its value, or None. A path with a wildcard, slice, filter, ``..`` or
    several names gives the list of what it finds, or UNKNOWN where it takes too many steps.
    """
    tree = _checked(text)
    keys = _plain(tree)
    if keys is not None:
        return _lookup(keys)
    select = _lower(tree)

    def find(value: Any) -> Any:
        try:
            return select([value], _Steps(value))
        except _TooManyStepsError:
            return UNKNOWN

    return find


def _checked(text: str) -> Any:
    if not text.startswith("$"):
        raise PathError("a JSONPath begins with `$`")
    if len(text) > _MAX_LENGTH:
        raise PathError(f"a JSONPath has at most {_MAX_LENGTH:,} characters")
    tree = _parse(text)
    _check_size(tree)
    return tree


def _check_size(tree: Any) -> None:
    """Raises PathError for a path with too many parts."""
    segments = descents = 0
    waiting = [(tree, 0)]
    while waiting:
        part, filters = waiting.pop()
        name = type(part).__name__
        segments += name in ("Child", "Descendants", "Filter")
        descents += name == "Descendants"
        filters += name == "Filter"
        if filters > _MAX_FILTERS:
            raise PathError(f"a JSONPath has at most {_MAX_FILTERS} filters within one another")
        inner = [expression.target for expression in getattr(part, "expressions", None) or ()]
        inner += [getattr(part, side) for side in ("left", "right") if hasattr(part, side)]
        waiting += [(one, filters) for one in inner]
    if segments > _MAX_SEGMENTS:
        raise PathError(f"a JSONPath has at most {_MAX_SEGMENTS} parts")
    if descents > _MAX_DESCENTS:
        raise PathError(f"a JSONPath has at most {_MAX_DESCENTS} times `..`")


@lru_cache(256)  # 330 us each, and the playbooks of a folder look at the same places
def _parse(text: str) -> Any:
    from jsonpath_ng.exceptions import JSONPathError  # noqa: PLC0415 - 40 ms that few playbooks need
    from jsonpath_ng.ext.parser import parse  # noqa: PLC0415 - the same

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it deprecates `&`, which the language has
            return parse(text)
    except RecursionError:
        raise PathError("nested too deep") from None
    except (JSONPathError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise PathError(f"no JSONPath: {str(error)[:200]}") from None


def _plain(tree: Any) -> tuple[str | int, ...] | None:
    """The keys of a path that names one place, or None."""
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


def _lookup(keys: tuple[str | int, ...]) -> Callable[[Any], Any]:
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


def _lower(tree: Any) -> Select:
    """The selector of a part of the tree: from nodes to nodes, within a budget of steps."""
    name = type(tree).__name__
    if name in ("Root", "This"):
        return lambda nodes, _: nodes
    if name in ("Child", "Descendants"):
        left, right = _lower(tree.left), _lower(tree.right)
        if name == "Child":
            return lambda nodes, steps: right(left(nodes, steps), steps)
        return lambda nodes, steps: right(_descend(left(nodes, steps), steps), steps)
    if name == "Wildcard" or (name == "Fields" and "*" in tree.fields):
        return _each(_children)
    if name == "Fields":
        fields = tuple(dict.fromkeys(tree.fields))
        return _each(lambda n: [n[f] for f in fields if f in n] if type(n) is dict else ())
    if name == "Index":
        indices = tuple(dict.fromkeys(tree.indices))
        return _each(
            lambda n: [n[i] for i in indices if -len(n) <= i < len(n)] if type(n) is list else ()
        )
    if name == "Slice":
        if tree.step == 0:
            raise PathError("a slice's step is not 0")
        part = slice(tree.start, tree.end, tree.step)
        return _each(lambda n: n[part] if type(n) is list else ())
    if name == "Filter":
        return _filter([_test(expression) for expression in tree.expressions])
    raise PathError("only names, indices, slices, wildcards, `..` and filters are allowed")


def _each(among: Callable[[Any], Collection[Any]]) -> Select:
    """The selector that takes of each node what is among its children."""

    def select(nodes: Nodes, steps: _Steps) -> Nodes:
        found: Nodes = []
        steps.take(len(nodes))
        for node in nodes:
            children = among(node)
            steps.take(len(children))
            found += children
        return found

    return select


def _filter(tests: list[Callable[[Any, _Steps], bool]]) -> Select:
    children = _each(_children)
    return lambda nodes, steps: [
        child for child in children(nodes, steps) if all(test(child, steps) for test in tests)
    ]


def _test(expression: Any) -> Callable[[Any, _Steps], bool]:
    """Whether a filter's expression holds; on what is absent or of another type it does not."""
    if type(expression).__name__ != "Expression" or _refers_to_root(expression.target):
        raise PathError("a filter compares with == != < <= > >=, joined by &")
    find, sign, wanted = _lower(expression.target), expression.op, expression.value
    if sign is None:
        return lambda node, steps: any(is_present(value) for value in find([node], steps))
    if sign not in _COMPARE or not isinstance(wanted, (str, int, float)):
        raise PathError("a filter compares with == != < <= > >=, joined by &")
    compare, kind = _COMPARE[sign], _kind(wanted)
    if kind == "bool" and sign not in ("==", "=", "!="):
        raise PathError("true and false have no order")

    def holds(node: Any, steps: _Steps) -> bool:
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


def _descend(nodes: Nodes, steps: _Steps) -> Nodes:
    """The nodes and all within them, each container once."""
    found: Nodes = []
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
        found.append(node)
    return found
