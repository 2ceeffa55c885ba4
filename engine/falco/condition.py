"""Find rules whose condition is always false. Falco ships rules that are disabled in this way.

Only constants are evaluated: comparisons that have the same result for every event, empty lists, and macros
that consist of these. Every other part is treated as possibly true. Each macro and each list is evaluated once,
so the work is linear in the text, and a budget limits the total.
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
"""A comparison of a field that is a whole number from 1 in every event that has it."""
_SHIPPED_MACROS = {
    "never_true": False, "always_true": True,
    "k8s_audit_never_true": False, "k8s_audit_always_true": True,
}  # fmt: skip
"""Macros of falco_rules.yaml and k8s_audit_rules.yaml, for rules files that are read without these."""
_SET_OPERATORS = ("in", "intersects", "pmatch")
_MAX_DEPTH = 64


class ConstantEvaluator:
    """Evaluates the constant parts of conditions with the macros and lists of a rule set.

    macros: name -> condition. lists: name -> items.
    spend: called with the number of characters or items before they are read. It can raise an exception to
    stop the work.
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
        self._macro_values: dict[str, bool | None] = {}
        self._empty_lists: dict[str, bool] = {}

    def can_be_true(self, condition: str) -> bool:
        """Return False if the condition is false for every event, True if it is not known to be."""
        return self._evaluate(condition, 0) is not False

    def macro(self, name: str, depth: int) -> bool | None:
        """Return the constant value of a macro, or None if it depends on the event."""
        if name not in self._macro_values:
            self._macro_values[name] = None  # ends the recursion of a macro that contains itself
            text = self._macros.get(name)
            if text is None:
                self._macro_values[name] = _SHIPPED_MACROS.get(name)
            elif depth < _MAX_DEPTH:
                self._macro_values[name] = self._evaluate(text, depth + 1)
        return self._macro_values[name]

    def is_empty(self, names: Sequence[str], depth: int = 0) -> bool:
        """Return whether the items, which can be names of lists, expand to nothing."""
        self._spend(len(names))
        return all(self._is_empty_list(name, depth) for name in names)

    def _is_empty_list(self, name: str, depth: int) -> bool:
        if name not in self._lists:
            return False
        if name not in self._empty_lists:
            self._empty_lists[name] = False  # ends the recursion of a list that contains itself
            self._empty_lists[name] = depth < _MAX_DEPTH and self.is_empty(
                self._lists[name], depth + 1
            )
        return self._empty_lists[name]

    def _evaluate(self, text: str, depth: int) -> bool | None:
        self._spend(len(text))
        return _Parser(self, _TOKEN.findall(text)).alternatives(depth)


class _Parser:
    """A recursive descent parser of ``a and not (b or c)``. The tokens between these words are one comparison.

    Each method returns the constant value of what it reads, or None if it depends on the event.
    """

    def __init__(self, evaluator: ConstantEvaluator, tokens: Sequence[str]) -> None:
        self._evaluator, self._tokens, self._next = evaluator, tokens, 0

    def alternatives(self, depth: int) -> bool | None:
        """Read terms that are joined by ``or``."""
        values = {self._conjunction(depth)}
        while self._accept("or"):
            values.add(self._conjunction(depth))
        return True if True in values else None if None in values else False

    def _conjunction(self, depth: int) -> bool | None:
        values = {self._negation(depth)}
        while self._accept("and"):
            values.add(self._negation(depth))
        return False if False in values else None if None in values else True

    def _negation(self, depth: int) -> bool | None:
        negated = False
        while self._accept("not"):
            negated = not negated
        value = self._operand(depth)
        return value if value is None or not negated else not value

    def _operand(self, depth: int) -> bool | None:
        if depth > _MAX_DEPTH:
            self._next = len(self._tokens)
            return None
        if self._accept("("):
            value = self.alternatives(depth + 1)
            self._accept(")")
            return value
        start = self._next
        while self._word() not in ("and", "or", ")", None):
            self._skip()
        return self._comparison(self._tokens[start : self._next], depth)

    def _skip(self) -> None:
        """Skip one token, or a group in parentheses."""
        depth = 0
        while self._next < len(self._tokens):
            depth += {"(": 1, ")": -1}.get(self._tokens[self._next], 0)
            self._next += 1
            if depth <= 0:
                return

    def _comparison(self, tokens: Sequence[str], depth: int) -> bool | None:
        if len(tokens) == 1 and tokens[0].replace("_", "").isalnum():
            return self._evaluator.macro(tokens[0], depth)
        if len(tokens) > 3 and tokens[1].lower() in _SET_OPERATORS:  # noqa: PLR2004 - FIELD in ( )
            names = [name for token in tokens[3:-1] for name in token.split(",") if name]
            return False if self._evaluator.is_empty(names) else None
        return _constant("".join(tokens[:4]))

    def _word(self) -> str | None:
        return self._tokens[self._next].lower() if self._next < len(self._tokens) else None

    def _accept(self, word: str) -> bool:
        if self._word() != word:
            return False
        self._next += 1
        return True


def _constant(comparison: str) -> bool | None:
    """Return the value of a comparison that has the same result for every event, else None."""
    found = _COMPARISON.fullmatch(comparison)
    if not found or (found[1] == "exists") is not (found[2] is None):
        return None
    if found[1] == "exists":
        return True
    number = int(found[2])
    always_false, always_true = {
        "<": (number <= 1, False),
        "<=": (number < 1, False),
        ">": (False, number < 1),
        ">=": (False, number <= 1),
        "!=": (False, number < 1),
    }.get(found[1], (number < 1, False))
    return False if always_false else True if always_true else None
