"""JSONPath, parsed by jsonpath-ng and lowered to look-ups of our own.

What is allowed: names, indices, slices, wildcards, ``..`` and filters with ``== != < <= > >=`` and ``&``.
jsonpath-ng's regular expressions (they backtrack), arithmetic and back-quoted functions are not. Each
segment visits a node at most once, so a path is linear in the alert, whatever an attacker puts into it.
"""

from __future__ import annotations

import operator
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from engine.event import present

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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


class PathError(ValueError):
    """A path that is none, or that uses what is not allowed; the sentence says what."""


def field_of(text: str) -> str | None:
    """The output field that the path names, where it is no more than ``$.output_fields['NAME']``.

    Raises PathError.
    """
    keys = _plain(_checked(text))
    if keys is not None and len(keys) == 2 and keys[0] == "output_fields":  # noqa: PLR2004
        return keys[1] if isinstance(keys[1], str) else None
    return None


def compile_path(text: str) -> Callable[[Any], Any]:
    """A function from a JSON value to what the path finds in it. Raises PathError.

    A path that names one place gives its value, or None; one with a wildcard, slice, filter, ``..`` or
    several names gives the list of what it finds.
    """
    tree = _checked(text)
    keys = _plain(tree)
    if keys is not None:
        return _lookup(keys)
    select = _lower(tree)
    return lambda value: select([value])


def _checked(text: str) -> Any:
    if not text.startswith("$"):
        raise PathError("a JSONPath begins with `$`")
    if len(text) > _MAX_LENGTH:
        raise PathError(f"a JSONPath has at most {_MAX_LENGTH:,} characters")
    return _parse(text)


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


def _lower(tree: Any) -> Callable[[Nodes], Nodes]:
    """The selector of a part of the tree, from nodes to nodes."""
    name = type(tree).__name__
    if name in ("Root", "This"):
        return lambda nodes: nodes
    if name == "Child":
        left, right = _lower(tree.left), _lower(tree.right)
        return lambda nodes: right(left(nodes))
    if name == "Descendants":
        left, right = _lower(tree.left), _lower(tree.right)
        return lambda nodes: right(list(_descend(left(nodes))))
    if name == "Wildcard" or (name == "Fields" and "*" in tree.fields):
        return lambda nodes: [child for node in nodes for child in _children(node)]
    if name == "Fields":
        fields = tree.fields
        return lambda nodes: [n[f] for n in nodes if type(n) is dict for f in fields if f in n]
    if name == "Index":
        indices = tree.indices
        return lambda nodes: [
            n[i] for n in nodes if type(n) is list for i in indices if -len(n) <= i < len(n)
        ]
    if name == "Slice":
        if tree.step == 0:
            raise PathError("a slice's step is not 0")
        part = slice(tree.start, tree.end, tree.step)
        return lambda nodes: [item for n in nodes if type(n) is list for item in n[part]]
    if name == "Filter":
        tests = [_test(expression) for expression in tree.expressions]
        return lambda nodes: [
            child for n in nodes for child in _children(n) if all(test(child) for test in tests)
        ]
    raise PathError("only names, indices, slices, wildcards, `..` and filters are allowed")


def _test(expression: Any) -> Callable[[Any], bool]:
    """Whether a filter's expression holds; on what is absent or of another type it does not."""
    if type(expression).__name__ != "Expression" or _refers_to_root(expression.target):
        raise PathError("a filter compares with == != < <= > >=, joined by &")
    find, sign, wanted = _lower(expression.target), expression.op, expression.value
    if sign is None:
        return lambda node: any(present(value) for value in find([node]))
    if sign not in _COMPARE or not isinstance(wanted, (str, int, float)):
        raise PathError("a filter compares with == != < <= > >=, joined by &")
    compare, kind = _COMPARE[sign], _kind(wanted)
    if kind == "bool" and sign not in ("==", "=", "!="):
        raise PathError("true and false have no order")

    def holds(node: Any) -> bool:
        return any(
            present(value) and _kind(value) == kind and compare(value, wanted)
            for value in find([node])
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


def _children(node: Any) -> Iterable[Any]:
    if type(node) is list:
        return node
    return node.values() if type(node) is dict else ()


def _descend(nodes: Nodes) -> Iterator[Any]:
    """The nodes and all within them, each container once."""
    seen: set[int] = set()
    waiting = list(reversed(nodes))
    while waiting:
        node = waiting.pop()
        if type(node) in (list, dict):
            if id(node) in seen:
                continue
            seen.add(id(node))
            waiting += reversed(list(_children(node)))
        yield node
