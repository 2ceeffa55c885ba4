"""Whether a rule's condition can hold at all: Falco ships templates whose condition is ``never_true``.

Only constants are folded: Falco's own words for true and false, lists without items, and the macros that
come to them. Everything else may hold.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TOKEN = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[()]|[^\s()\"']+")
_CONSTANTS = {"evt.num=0": False, "evt.num=-1": False, "evt.num>=0": True}
"""The definitions of ``never_true`` and ``always_true`` in falco_rules.yaml."""
_WORDS = {"never_true": False, "always_true": True}
_IN = ("in", "intersects", "pmatch")
_DEEP = 64


class Conditions:
    """Macros (name -> condition) and lists (name -> items) of a rule set, ready to be asked."""

    def __init__(self, macros: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> None:
        self._macros = macros
        self._lists = lists
        self._folded: dict[str, bool | None] = {}

    def can_hold(self, condition: str) -> bool:
        """False where no event can make it true."""
        return _Fold(self, _TOKEN.findall(condition)).any_of(0) is not False

    def macro(self, name: str, depth: int) -> bool | None:
        """What a macro comes to: True, False or, mostly, None: that depends."""
        if name not in self._folded:
            self._folded[name] = None  # a macro within itself; Falco refuses it
            text = self._macros.get(name)
            if text is None:
                self._folded[name] = _WORDS.get(name)
            elif depth < _DEEP:
                self._folded[name] = _Fold(self, _TOKEN.findall(text)).any_of(depth + 1)
        return self._folded[name]

    def is_empty(self, names: Sequence[str], depth: int = 0) -> bool:
        """Whether the items, names of lists among them, come to nothing."""
        return all(
            name in self._lists and depth < _DEEP and self.is_empty(self._lists[name], depth + 1)
            for name in names
        )


class _Fold:
    """Reads ``a and not (b or c)`` by descent; what stands between those words is one comparison."""

    def __init__(self, conditions: Conditions, tokens: Sequence[str]) -> None:
        self._conditions, self._tokens, self._next = conditions, tokens, 0

    def any_of(self, depth: int) -> bool | None:
        """What alternatives come to."""
        parts = [self._all_of(depth)]
        while self._take("or"):
            parts.append(self._all_of(depth))
        return True if True in parts else None if None in parts else False

    def _all_of(self, depth: int) -> bool | None:
        parts = [self._not(depth)]
        while self._take("and"):
            parts.append(self._not(depth))
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
        """Past a token, or past what stands in parentheses."""
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
        return _CONSTANTS.get("".join(tokens))

    def _word(self) -> str | None:
        return self._tokens[self._next].lower() if self._next < len(self._tokens) else None

    def _take(self, word: str) -> bool:
        if self._word() != word:
            return False
        self._next += 1
        return True
