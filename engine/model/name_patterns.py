"""Name patterns: exact names, and globs with ``*`` and ``?``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import re2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MAX_MEMORY = 2**19
"""Bytes of one compiled glob and its automaton, as for regular expressions. RE2's own default is 8 MiB."""


def is_glob(text: str) -> bool:
    """Return whether a name contains a wildcard: ``*`` or ``?``."""
    return "*" in text or "?" in text


def glob_matcher(glob: str) -> Callable[[str], bool]:
    """Return a predicate: whether the glob matches a whole name. It needs linear time."""
    wildcards = {"*": ".*", "?": "."}
    expression = "".join(wildcards.get(letter) or re2.escape(letter) for letter in glob)
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    match = re2.compile(f"(?s){expression}", options).fullmatch
    return lambda name: match(name) is not None


def name_matcher(names: Iterable[str]) -> Callable[[str], bool]:
    """Return a predicate: whether a name is one of ``names``, which are exact names or globs."""
    names = tuple(names)
    exact = frozenset(name for name in names if not is_glob(name))
    globs = tuple(glob_matcher(name) for name in names if is_glob(name))
    return lambda name: name in exact or any(matches(name) for matches in globs)
