"""Whether the condition of a rule can hold at all: Falco ships rules that are switched off by their condition.

Only constants are folded: comparisons that hold on every event or on none, lists without items, and the macros
that consist of these. Everything else may hold. The work is linear in the text: each macro and each list is
evaluated once, and a budget bounds the total.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_TOKEN = re.compile(
    r"\"(?:[^\"\\]|\\.)*+(?:\"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z)|[()]|[^\s()\"']++", re.DOTALL
)
_COMPARISON = re.compile(
    r"(?:evt\.num|evt\.count|evt\.rawtime|(?:jevt|json)\.rawtime)(exists|[<>!=]=|[<>=])(-?[0-9]{1,18})?"
)
"""A comparison of a field that is a whole number from 1 on every event that has it."""
_WORDS = {
    "never_true": False, "always_true": True,
    "k8s_audit_never_true": False, "k8s_audit_always_true": True,
}  # fmt: skip
"""Macros of falco_rules.yaml and k8s_audit_rules.yaml, for files that are read without these."""
_IN = ("in", "intersects", "pmatch")
_DEEP = 64


class Conditions:
    """Macros (name -> condition) and lists (name -> items) of a rule set.

    spend: called with the number of characters or items that are about to be read; it may raise to end the work.
    """

    def __init__(
        self,
        macros: Mapping[str, str],
        lists: Mapping[str, Sequence[str]],
        spend: Callable[[int], None],
    ) -> None:
        self._macros = macros
        self._lists = lists
        self._spend = spend
        self._folded: dict[str, bool | None] = {}
        self._empty: dict[str, bool] = {}

    def can_hold(self, condition: str) -> bool:
        """Whether some event can make the condition true, as far as constants tell."""
        return self._fold(condition, 0) is not False

    def macro(self, name: str, depth: int) -> bool | None:
        """The constant value of a macro: True, False or, mostly, None, which depends on the event."""
        if name not in self._folded:
            self._folded[name] = None  # a macro that contains itself; Falco refuses it
            text = self._macros.get(name)
            if text is None:
                self._folded[name] = _WORDS.get(name)
            elif depth < _DEEP:
                self._folded[name] = self._fold(text, depth + 1)
        return self._folded[name]

    def is_empty(self, names: Sequence[str], depth: int = 0) -> bool:
        """Whether the items, among them names of lists, expand to nothing."""
        self._spend(len(names))
        return all(self._is_empty_list(name, depth) for name in names)

    def _is_empty_list(self, name: str, depth: int) -> bool:
        if name not in self._lists:
            return False
        if name not in self._empty:
            self._empty[name] = False  # a list that contains itself
            self._empty[name] = depth < _DEEP and self.is_empty(self._lists[name], depth + 1)
        return self._empty[name]

    def _fold(self, text: str, depth: int) -> bool | None:
        self._spend(len(text))
        return _Fold(self, _TOKEN.findall(text)).any_of(depth)


class _Fold:
    """Reads ``a and not (b or c)`` by descent; the tokens between those words are one comparison."""

    def __init__(self, conditions: Conditions, tokens: Sequence[str]) -> None:
        self._conditions, self._tokens, self._next = conditions, tokens, 0

    def any_of(self, depth: int) -> bool | None:
        """The value of alternatives."""
        parts = {self._all_of(depth)}
        while self._take("or"):
            parts.add(self._all_of(depth))
        return True if True in parts else None if None in parts else False

    def _all_of(self, depth: int) -> bool | None:
        parts = {self._not(depth)}
        while self._take("and"):
            parts.add(self._not(depth))
        return False if False in parts else None if None in parts else True

    def _not(self, depth: int) -> bool | None:
        flip = False
        while self._take("not"):
            flip = not flip
        value = self._one(depth)
        return value if value is None or not flip else not value

    def _one(self, depth: int) -> bool | None:
        if depth > _DEEP:
            self._next = len(self._tokens)
            return None
        if self._take("("):
            value = self.any_of(depth + 1)
            self._take(")")
            return value
        start = self._next
        while self._word() not in ("and", "or", ")", None):
            self._skip()
        return self._compared(self._tokens[start : self._next], depth)

    def _skip(self) -> None:
        """Go past a token, or past all that stands in parentheses."""
        depth = 0
        while self._next < len(self._tokens):
            depth += {"(": 1, ")": -1}.get(self._tokens[self._next], 0)
            self._next += 1
            if depth <= 0:
                return

    def _compared(self, tokens: Sequence[str], depth: int) -> bool | None:
        if len(tokens) == 1 and tokens[0].replace("_", "").isalnum():
            return self._conditions.macro(tokens[0], depth)
        if len(tokens) > 3 and tokens[1].lower() in _IN:  # noqa: PLR2004 - FIELD in ( )
            names = [name for token in tokens[3:-1] for name in token.split(",") if name]
            return False if self._conditions.is_empty(names) else None
        return _constant("".join(tokens[:4]))

    def _word(self) -> str | None:
        return self._tokens[self._next].lower() if self._next < len(self._tokens) else None

    def _take(self, word: str) -> bool:
        if self._word() != word:
            return False
        self._next += 1
        return True


def _constant(comparison: str) -> bool | None:
    """The value of a comparison that every event decides in the same way, or None."""
    found = _COMPARISON.fullmatch(comparison)
    if not found or (found[1] == "exists") is not (found[2] is None):
        return None
    if found[1] == "exists":
        return True
    number = int(found[2])
    never, always = {
        "<": (number <= 1, False),
        "<=": (number < 1, False),
        ">": (False, number < 1),
        ">=": (False, number <= 1),
        "!=": (False, number < 1),
    }.get(found[1], (number < 1, False))
    return False if never else True if always else None
