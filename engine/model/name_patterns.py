"""Name patterns: exact names, and globs with ``*`` and ``?``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import re2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def is_glob(text: str) -> bool:
    """Whether a rule's or host's name is a glob; they know only the star and the question mark."""
    return "*" in text or "?" in text


def glob_matcher(text: str) -> Callable[[str], bool]:
    """Whether a name matches the glob as a whole, in linear time."""
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(letter) or re2.escape(letter) for letter in text)
    matches = re2.compile(f"(?s){expression}").fullmatch
    return lambda name: matches(name) is not None


def name_matcher(names: Iterable[str]) -> Callable[[str], bool]:
    """Whether a name is one of these, which are exact or globs."""
    exact = frozenset(name for name in names if not is_glob(name))
    globs = tuple(glob_matcher(name) for name in names if is_glob(name))
    return lambda name: name in exact or any(matches(name) for matches in globs)
